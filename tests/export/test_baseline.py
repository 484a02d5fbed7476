from pathlib import Path

import numpy as np
import pytest

from app.bundle import TOKENIZER, read_bundle
from app.tokenizer import Tokenizer
from export.__main__ import main
from export.baseline import BaselineError, add_baseline, read_rows
from export.packing import export_student, export_task, export_teacher
from training.checkpoint import Run
from training.finetuning import finetune
from training.recipe import FinetuneRecipe, Optimisation
from training.start import load_start
from training.task import Examples, Task
from training.teacher import load_teacher


@pytest.fixture
def student(small_student: Path, tmp_path: Path):
    return export_student(Run(small_student), tmp_path / "student", tmp_path)


def test_a_student_carries_the_baseline_of_what_its_run_held_out(student, small_student: Path):
    rows = [tuple(texts) for texts in Run(small_student).dev()["texts"]]
    baseline = student.manifest.baseline
    assert baseline.rows == len(rows) > 20
    lengths = [len(row.ids) for row in Tokenizer(student.path(TOKENIZER), 256).rows(rows)]
    assert baseline.mean_tokens == pytest.approx(sum(lengths) / len(rows), abs=1e-3)
    assert sum(baseline.length_shares) == pytest.approx(1, abs=1e-5)
    assert baseline.label_shares == {}


def test_a_task_carries_the_baseline_that_its_dev_rows_give(student, tmp_path: Path):
    pairs = [("a good film", "a bad film"), ("the cat sat", "the cat sat")] * 8
    rows, task = Examples(pairs, np.asarray([0.0, 1.0] * 8)), Task("alike", 2, ("different", "same"), ("accuracy",))
    recipe = FinetuneRecipe("alike", Optimisation(epochs=1, learning_rate=1e-2), encoder_rate=0.0)
    run = Run(tmp_path / "runs" / "alike")
    finetune(recipe, task, rows, rows, load_start(student.folder), run)
    bundle = export_task(run, tmp_path / "alike")
    assert bundle.manifest.baseline.rows == 32
    assert add_baseline(bundle, pairs).manifest == bundle.manifest


def test_another_baseline_leaves_every_file_as_it_was(student):
    before = student.manifest
    after = add_baseline(student, [("the cat sat",), ("the dog ran and ran",), ("żółw",)]).manifest
    assert after.files == before.files
    assert after.model_copy(update={"baseline": before.baseline}) == before
    assert after.baseline.rows == 3
    assert after.baseline.unknown_ratio > 0


def test_a_run_that_kept_no_rows_gives_a_bundle_without_a_baseline(small_student: Path, tmp_path: Path, capsys):
    run = Run(tmp_path / "older")
    run.folder.mkdir()
    for file in small_student.iterdir():
        if file.name != "dev.json":
            (run.folder / file.name).write_bytes(file.read_bytes())
    assert export_student(run, tmp_path / "student", tmp_path).manifest.baseline is None
    assert "no baseline" in capsys.readouterr().out


def test_an_export_that_is_stopped_at_its_baseline_leaves_what_was_there(
    student, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def stop(_line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("export.baseline.say", stop)
    command = ["student", "--run", str(small_student), "--data", str(tmp_path), "--bundle", str(student.folder)]
    assert main(command) == 130
    assert "no bundle was written, and one that was there is as it was" in capsys.readouterr().err
    assert read_bundle(student.folder) == student


def test_rows_that_the_bundle_does_not_take_are_refused(student):
    for rows in ([], [("one", "two")]):
        with pytest.raises(BaselineError, match="rows of 1 texts each"):
            add_baseline(student, rows)


def test_the_command_takes_a_file_of_ones_own_texts(small_bert: Path, tmp_path: Path, capsys):
    export_teacher(load_teacher(str(small_bert)), tmp_path / "teacher", "float32")
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat\n\nthe dog\n")
    command = ["baseline", "--bundle", str(tmp_path / "teacher"), "--texts"]
    assert main([*command, str(texts)]) == 0
    assert read_bundle(tmp_path / "teacher").manifest.baseline.rows == 2
    assert main([*command, str(tmp_path / "none.txt")]) == 2
    assert "none.txt cannot be read" in capsys.readouterr().err


def test_pairs_have_a_tab_between(tmp_path: Path):
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    assert read_rows(tmp_path / "pairs.tsv") == [("a", "b")]


def test_a_byte_order_mark_is_no_text_and_only_a_line_break_ends_a_line(tmp_path: Path):
    (tmp_path / "texts.txt").write_bytes("\ufeffa\r\nb\u2028c\x85\x0c\x1cd\n".encode())
    assert read_rows(tmp_path / "texts.txt") == [("a",), ("b\u2028c\x85\x0c\x1cd",)]
