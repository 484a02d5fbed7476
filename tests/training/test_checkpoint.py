import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from training.checkpoint import Run, RunError
from training.recipe import DistillRecipe, as_dict, read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
TOKENIZER = Tokenizer(WordLevel({"a": 0}, unk_token="a"))


def test_a_run_goes_on_with_its_own_recipe_and_refuses_another(tmp_path: Path):
    run = Run(tmp_path / "run")
    run.start({"rate": 1}, TOKENIZER, [])
    run.start({"rate": 1}, TOKENIZER, [])
    with pytest.raises(RunError, match="another recipe"):
        run.start({"rate": 2}, TOKENIZER, [])
    assert run.recipe() == {"rate": 1}


def test_a_run_refuses_other_rows_and_is_left_as_it_was(tmp_path: Path):
    run = Run(tmp_path)
    run.start({"rate": 1}, TOKENIZER, [["a good film", 1.0]])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for other in ([["a good film", 0.0]], [["a good film", 1.0], ["a bad film", 0.0]]):
        with pytest.raises(RunError, match=f"{tmp_path} holds a run on other rows, .*; choose another folder"):
            run.start({"rate": 1}, Tokenizer(WordLevel()), other)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    run.start({"rate": 1}, TOKENIZER, [["a good film", 1.0]])


def test_a_run_of_a_version_that_knew_no_rows_goes_on_and_knows_them_from_then_on(tmp_path: Path):
    run = Run(tmp_path)
    run.start({"rate": 1}, TOKENIZER, ["one"])
    (tmp_path / "rows.sha256").unlink()
    run.start({"rate": 1}, TOKENIZER, ["two"])
    with pytest.raises(RunError, match="other rows"):
        run.start({"rate": 1}, TOKENIZER, ["one"])


def test_a_run_of_a_version_that_knew_no_remarks_goes_on_and_takes_them_up(tmp_path: Path):
    run, recipe = Run(tmp_path), as_dict(read_recipe(RECIPES / "student.toml", DistillRecipe))
    older = json.loads(json.dumps(recipe))
    del older["int8"]
    for source in older["corpus"]["sources"]:
        assert source.pop("licence")
    (tmp_path / "recipe.json").write_text(json.dumps(older, indent=2, sort_keys=True))
    run.start(recipe, TOKENIZER, [])
    assert run.recipe() == json.loads(json.dumps(recipe))
    recipe["corpus"]["sources"][0]["sentences"] += 1
    with pytest.raises(RunError, match="another recipe"):
        run.start(recipe, TOKENIZER, [])


def test_weights_are_the_averaged_ones_where_there_are_any(tmp_path: Path):
    run = Run(tmp_path)
    run.save({"model": {"w": torch.tensor(1.0)}, "average": None})
    assert run.weights()["w"] == 1
    run.save({"model": {"w": torch.tensor(1.0)}, "average": {"w": torch.tensor(2.0)}})
    assert run.weights()["w"] == 2


def test_what_is_missing_or_damaged_is_a_clear_error(tmp_path: Path):
    run = Run(tmp_path)
    assert run.load() is None
    with pytest.raises(RunError, match="no checkpoint"):
        run.weights()
    with pytest.raises(RunError, match=r"no complete run: facts\.json"):
        run.facts()
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(RunError, match="delete it"):
        run.load()


def test_the_final_figures_are_those_of_the_last_epoch(tmp_path: Path):
    run = Run(tmp_path)
    assert run.final_figures() == {}
    run.log(step=1, loss=0.5)
    run.log(step=2, epoch=1, cosine=0.7)
    run.log(step=4, epoch=2, cosine=0.8)
    assert run.final_figures() == {"cosine": 0.8}


def test_a_line_that_a_full_disk_cut_off_is_passed_over_and_dropped_when_the_run_goes_on(tmp_path: Path):
    run = Run(tmp_path)
    run.log(step=2, epoch=1, cosine=0.7)
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 4, "ep')
    assert run.final_figures() == {"cosine": 0.7}
    run.forget_after(4)
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_a_run_whose_last_checkpoint_could_not_be_written_is_not_finished(tmp_path: Path):
    run = Run(tmp_path)
    run.start({"optimisation": {"epochs": 2}}, TOKENIZER, [])
    run.log(step=2, epoch=1, cosine=0.7)
    with pytest.raises(RunError, match="not finished: 1 of 2 epochs"):
        run.require_finished()
    run.log(step=4, epoch=2, cosine=0.8)
    run.save({"step": 3, "model": {}, "average": None})
    with pytest.raises(RunError, match="not finished: its checkpoint is of step 3 of 4; the command that began it"):
        run.require_finished()
    run.save({"step": 4, "model": {}, "average": None})
    run.require_finished()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("a bundle's")
    with pytest.raises(RunError, match="holds something other than a run: give another --into"), Run(tmp_path).held():
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_run_that_was_stopped_before_its_first_file_begins_again(tmp_path: Path):
    run = Run(tmp_path / "run")
    for _ in range(2):
        with run.held():
            (run.folder / "recipe.json.draft").write_text("{")


def test_a_run_that_is_refused_before_it_begins_leaves_no_folder_and_a_begun_one_stays(tmp_path: Path):
    run = Run(tmp_path / "runs" / "new")
    with pytest.raises(RuntimeError, match="no such column"), run.held():
        raise RuntimeError("no such column")
    assert not run.folder.exists()
    with run.held():
        (run.folder / "recipe.json").write_text("{}")
    with pytest.raises(RuntimeError, match="killed"), run.held():
        raise RuntimeError("killed")
    assert run.recipe() == {}


def test_two_processes_never_train_in_one_folder(tmp_path: Path):
    run = Run(tmp_path / "run")
    with run.held():
        with pytest.raises(RunError, match=r"another process is training in .*run: give another --into"), run.held():
            pass
        with Run(tmp_path / "run", writes=False).held():  # a peer of the one that writes
            pass
    with run.held():
        pass
