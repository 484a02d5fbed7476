import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.bundle import read_bundle
from export.columns import (
    TEACHER,
    columns,
    first_recipe,
    task_answers,
    with_less_held_out,
)
from export.packed_encoder import bundle_encoder
from export.packing import export_student, export_task
from tests.conftest import write_data
from training.__main__ import main
from training.checkpoint import Run, RunError
from training.distillation import distil
from training.encoding import Vectors, text_encoder
from training.finetuning import finetune
from training.recipe import Corpus, DistillRecipe, FinetuneRecipe, Optimisation, Source, StudentShape
from training.start import load_start
from training.task import Examples, Task
from training.teacher import Teacher, load_teacher

TEXTS = ["the cat sat", "a very small dog ran quickly under the red tree", "not good", "bad film"]


@pytest.fixture(scope="module")
def models(small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's bundle, and a task on its frozen encoder."""
    folder = tmp_path_factory.mktemp("models")
    export_student(Run(small_student), folder / "student", folder)
    task = Task("mood", 1, ("bad", "good"), ("accuracy",))
    rows = Examples([("good film",), ("bad film",)] * 10, np.asarray([1.0, 0.0] * 10))
    run = Run(folder / "runs" / "mood")
    recipe = FinetuneRecipe("mood", Optimisation(epochs=1, learning_rate=1e-2), encoder_rate=0.0)
    finetune(recipe, task, rows, rows, load_start(folder / "student"), run)
    export_task(run, folder / "mood")
    return folder


@pytest.fixture(scope="module")
def teacher(small_bert: Path) -> Teacher:
    return load_teacher(str(small_bert))


def test_a_bundle_gives_its_float_weights_and_its_int8_graph(models: Path, teacher: Teacher):
    found = columns(teacher, [], [models / "student"])
    assert list(found.encoders) == [TEACHER, "student float32", "student int8"]
    vectors = {name: encode(TEXTS) for name, encode in found.encoders.items()}
    assert {one.shape for one in vectors.values()} == {(4, 32)}
    cosines = (vectors["student float32"] * vectors["student int8"]).sum(axis=1)
    assert 0.995 < cosines.min() < 1


def test_a_run_gives_its_unrounded_weights(models: Path, teacher: Teacher, small_student: Path):
    found = columns(teacher, [small_student], [models / "student"])
    assert list(found.encoders) == [TEACHER, "student float32", "student int8"]
    exact, rounded = found.encoders["student float32"](TEXTS), load_start(models / "student").encode(TEXTS)
    assert np.array_equal(exact, load_start(small_student).encode(TEXTS))
    assert 0 < np.abs(exact - rounded).max() < 1e-2


def retrained(run: Path, folder: Path) -> Path:
    """Copy a run, its weights changed."""
    shutil.copytree(run, folder)
    state = Run(folder).load()
    assert state is not None
    Run(folder).save(state | {"model": {name: weight * 1.5 for name, weight in state["model"].items()}})
    return folder


def test_two_models_of_one_name_are_called_by_their_folders(
    models: Path, teacher: Teacher, small_student: Path, tmp_path: Path
):
    again = retrained(small_student, tmp_path / "student")
    export_student(Run(again), tmp_path / "models" / "student", tmp_path)
    first, second = models / "student", tmp_path / "models" / "student"
    found = columns(teacher, [], [first, second])
    both = [f"{folder} {precision}" for folder in (first, second) for precision in ("float32", "int8")]
    assert list(found.encoders) == [TEACHER, *both]
    assert found.names == {first: str(first), second: str(second)}
    for column, folder in zip(both[::2], (first, second), strict=True):
        assert np.array_equal(found.encoders[column](TEXTS), load_start(folder).encode(TEXTS))
    found = columns(teacher, [small_student, again], [])
    assert list(found.encoders) == [TEACHER, f"{small_student} float32", f"{again} float32"]


def test_a_run_that_was_trained_again_is_not_taken_for_its_older_bundle(
    models: Path, teacher: Teacher, small_student: Path, tmp_path: Path
):
    again, bundle = retrained(small_student, tmp_path / "student"), models / "student"
    assert list(columns(teacher, [again], [bundle]).encoders) == [
        TEACHER,
        f"{again} float32",
        f"{bundle} float32",
        f"{bundle} int8",
    ]


def test_a_student_that_is_called_teacher_leaves_the_teacher_its_column(
    teacher: Teacher, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(small_student, tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    found = columns(teacher, [Path("teacher")], [])
    assert list(found.encoders) == [TEACHER, f"{tmp_path / 'teacher'} float32"]
    assert found.encoders[TEACHER](TEXTS) == pytest.approx(teacher_vectors(teacher))


def teacher_vectors(teacher: Teacher) -> Vectors:
    return text_encoder(teacher.encoder, teacher.tokenizer, teacher.max_tokens)(TEXTS)


def test_two_bundles_of_one_task_in_a_folder_are_refused(models: Path, tmp_path: Path):
    for name in ("mood", "mood-older"):
        shutil.copytree(models / "mood", tmp_path / name)
    with pytest.raises(RunError, match=f"{tmp_path}/mood and {tmp_path}/mood-older both are mood"):
        task_answers(tmp_path)


def test_tasks_of_two_folders_and_curves_of_two_runs_keep_apart(
    models: Path, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    again = retrained(small_student, tmp_path / "student")
    shutil.copytree(models / "student", tmp_path / "models" / "student")
    shutil.copytree(models / "mood", tmp_path / "models" / "mood")
    (tmp_path / "user-task" / "mood").mkdir(parents=True)
    rows = "".join(f"good film {number}\tgood\nbad film {number}\tbad\n" for number in range(20))
    (tmp_path / "user-task" / "mood" / "train.tsv").write_text(f"text\tlabel\n{rows}")
    drawn: list[str] = []
    monkeypatch.setattr("training.plots.learning_curves", lambda runs, file: drawn.extend(runs))
    options = ["--data", str(tmp_path), "--cache", str(tmp_path), "--into", str(tmp_path / "report")]
    sources = ["--run", str(small_student), str(again), "--bundle", str(models / "student")]
    assert main(["evaluate", *sources, str(tmp_path / "models" / "student"), *options]) == 0
    assert f"|  | bundle of {models} | bundle of {tmp_path / 'models'} |\n" in capsys.readouterr().out
    assert drawn == [str(small_student), str(again)]


def test_the_recipe_is_the_one_that_the_first_student_was_distilled_by(
    models: Path, small_student: Path, small_bert: Path
):
    for found in (first_recipe([small_student], []), first_recipe([], [models / "student"])):
        assert isinstance(found, DistillRecipe)
        assert (found.teacher, found.corpus.held_out) == (str(small_bert), 0.1)
    assert first_recipe([], []) is None


def test_what_was_held_out_is_found_though_the_teachers_own_limit_is_below_the_recipes(
    small_bert: Path, tmp_path: Path
):
    data, short = write_data(tmp_path / "data"), tmp_path / "short-bert"
    shutil.copytree(small_bert, short)
    (short / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    recipe = DistillRecipe(
        name="student",
        teacher=str(short),
        corpus=Corpus((Source("corpus/lines.txt.xz", 400),), max_tokens=32, held_out=0.1),
        student=StudentShape(embedding=8, hidden=8),
        optimisation=Optimisation(epochs=1, learning_rate=1e-3),
    )
    run = Run(tmp_path / "student")
    distil(recipe, data, tmp_path, run)
    assert main(["evaluate", "--run", str(run.folder), "--data", str(data), "--cache", str(tmp_path)]) == 0
    (kept,) = (tmp_path / "held_out").glob("*.json")
    assert [[text] for text in json.loads(kept.read_text())] == run.dev()["texts"]


def test_a_student_of_another_teacher_is_refused(models: Path, small_student: Path, teacher: Teacher):
    other = replace(teacher, name="other-bert", weights_sha256="0")
    for folders in (([small_student], []), ([], [models / "student"])):
        said = r"student is a student of small-bert \(space \w+\), and not of other-bert .*small-bert'.*as --teacher"
        with pytest.raises(RunError, match=said):
            columns(other, *folders)


def test_a_bundle_answers_as_it_did_when_it_was_made(models: Path):
    bundle = read_bundle(models / "student")
    content = json.loads((models / "student" / "canary.json").read_text())
    vectors = np.concatenate([bundle_encoder(bundle)(texts) for texts in content["inputs"]])
    assert np.abs(vectors - np.asarray(content["outputs"])).max() < 1e-4


def test_a_task_on_a_shared_encoder_answers(models: Path):
    answers = task_answers(models)
    assert list(answers) == ["mood"]
    assert answers["mood"]([("good film",), ("bad film",)]).argmax(axis=1).tolist() == [1, 0]


def test_the_trainers_evaluate_shows_a_bundle_and_the_tasks_beside_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "user-task" / "mood"
    folder.mkdir(parents=True)
    rows = "".join(f"the {word} film sat on mat {'very ' * n}\t{word}\n" for n in range(5) for word in ("good", "bad"))
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(f"text\tlabel\n{rows}")
    options = ["--bundle", str(models / "student"), "--data", str(tmp_path)]
    assert main(["evaluate", *options, "--cache", str(tmp_path / "cache")]) == 0
    shown = capsys.readouterr().out
    assert "- Teacher: small-bert." in shown
    assert "|  | teacher float32 | student float32 | student int8 |\n" in shown
    assert re.search(r"\| mood, accuracy, from 10 of 10 training rows \(10 dev rows\)( \| [01]\.\d{4}){3} \|", shown)
    assert "## Tasks\n\n|  | bundle |\n| --- | ---: |\n| mood dev, accuracy (10 rows) | " in shown


def test_a_head_whose_encoder_was_replaced_is_missing_from_the_report_and_costs_nothing_else(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    shutil.copytree(models / "mood", tmp_path / "models" / "mood")
    shutil.copytree(models / "student", tmp_path / "models" / "student")
    manifest = tmp_path / "models" / "student" / "manifest.json"
    now = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(now | {"space": "0123456789abcdef"}))
    for folder in (tmp_path / "glue" / "STS-B", tmp_path / "user-task" / "mood"):
        folder.mkdir(parents=True)
    pairs = "a good film\tgood film\t5\na cat\ta bad film\t0\n"
    (tmp_path / "glue" / "STS-B" / "dev.tsv").write_text(f"sentence1\tsentence2\tscore\n{pairs}")
    rows = "".join(f"good film {number}\tgood\nbad film {number}\tbad\n" for number in range(10))
    (tmp_path / "user-task" / "mood" / "train.tsv").write_text(f"text\tlabel\n{rows}")
    options = ["--bundle", str(tmp_path / "models" / "student"), "--data", str(tmp_path), "--cache", str(tmp_path)]
    assert main(["evaluate", *options, "--into", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    assert f"of the encoder of space {now['space']}, and no bundle beside it has it" in shown
    assert "STS-B dev, Spearman (2 pairs)" in shown
    assert sorted(file.name for file in (tmp_path / "report").glob("eval*")) == ["evaluation.json", "evaluation.md"]


def test_what_is_no_encoder_is_refused_in_words(models: Path, teacher: Teacher, tmp_path: Path):
    with pytest.raises(RunError, match="holds no manifest"):
        columns(teacher, [], [tmp_path])
    with pytest.raises(RunError, match="head without an encoder"):
        columns(teacher, [], [models / "mood"])
    with pytest.raises(RunError, match="no complete run"):
        columns(teacher, [tmp_path], [])


def test_an_evaluation_says_which_students_may_have_learnt_what_it_calls_held_out(
    small_student: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    greedy, data = tmp_path / "greedy", write_data(tmp_path / "data")
    shutil.copytree(small_student, greedy)
    recipe = json.loads((greedy / "recipe.json").read_text())
    recipe["corpus"]["held_out"] = 0.05
    (greedy / "recipe.json").write_text(json.dumps(recipe))
    first = first_recipe([small_student], [])
    assert with_less_held_out(first, [small_student, greedy], [models / "student"]) == [greedy]
    folders = ["--data", str(data), "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", "--run", str(small_student), str(greedy), *folders]) == 0
    assert "- greedy: held out a smaller share of all texts, so may have learnt rows" in capsys.readouterr().out
