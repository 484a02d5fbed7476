import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import Run, RunError
from training.finetuning import finetune, taught_loss
from training.losses import logits_loss
from training.recipe import FinetuneRecipe, Optimisation, RecipeError, SoftTargets, TeacherTaskRecipe
from training.soft_targets import Teaching, soft_targets
from training.start import load_start
from training.task import Examples, Task, TaskError
from training.task_model import Inputs, Logits, TaskModel, answer, read_apart
from training.teacher import load_teacher
from training.tuned_teacher import TunedTeacher, finetune_teacher, load_tuned_teacher

MOOD = Task("mood", 1, ("bad", "good"), ("accuracy",))
FILMS = Examples([(f"the film {'not ' * (n % 3)}{MOOD.labels[n % 2]}",) for n in range(24)], np.arange(24.0) % 2)
UNLABELLED = [("a good tree",), ("a bad cat and a dog",), ("the mat",)]
HOW = Optimisation(epochs=15, learning_rate=2e-2, batch_rows=8)
TEACHERS = Optimisation(epochs=10, learning_rate=1e-2, batch_rows=8)


@pytest.fixture(scope="module")
def teacher(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedTeacher:
    """A teacher that has learnt the mood of films."""
    run = Run(tmp_path_factory.mktemp("runs") / "mood-teacher")
    recipe = TeacherTaskRecipe("mood", TEACHERS, dropout=0.0, precision="float32")
    finetune_teacher(recipe, MOOD, FILMS, FILMS, load_teacher(str(small_bert)), run)
    return load_tuned_teacher(run.folder)


def recipe(weight: float = 1.0, kind: str = "logits") -> FinetuneRecipe:
    return FinetuneRecipe("mood", HOW, dropout=0.0, precision="float32", distillation=SoftTargets(kind, weight))


def test_logits_are_computed_once_and_kept(teacher: TunedTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(tmp_path)
    first = soft_targets([teacher], FILMS.texts, run)
    assert np.allclose(first, answer(teacher.model, teacher.read(FILMS.texts)), atol=1e-6)
    monkeypatch.setattr("training.soft_targets.answer", None)
    assert np.array_equal(soft_targets([teacher], FILMS.texts, run), first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["soft_targets.jsonl", "soft_targets.npz"]


def test_several_teachers_teach_the_mean_of_their_answers(teacher: TunedTeacher, tmp_path: Path):
    turned = copy.deepcopy(teacher.model)
    with torch.no_grad():
        for weight in turned.head.parameters():
            weight.mul_(-3)
    teachers = [teacher, replace(teacher, name="turned", model=turned, fingerprint="other")]
    one, both = answer(teacher.model, teacher.read(FILMS.texts)), soft_targets(teachers, FILMS.texts, Run(tmp_path))
    assert np.allclose(both, -one, atol=1e-5)  # (x - 3x) / 2
    with pytest.raises(RunError, match="other teachers' answers"):
        soft_targets(teachers[::-1], FILMS.texts, Run(tmp_path))


def test_answers_to_other_rows_are_not_taken_for_these(teacher: TunedTeacher, tmp_path: Path):
    soft_targets([teacher], FILMS.texts, Run(tmp_path))
    with pytest.raises(RunError, match="answers to other rows: give another --into"):
        soft_targets([teacher], FILMS.texts[::-1], Run(tmp_path))
    (tmp_path / "soft_targets.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match="delete it, and it is made anew"):
        soft_targets([teacher], FILMS.texts, Run(tmp_path))


def test_a_teacher_that_was_stopped_goes_on_where_it_was(
    teacher: TunedTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []

    def stopping(model: TaskModel, rows: Inputs) -> Logits:
        asked.append(len(rows))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer(model, rows)

    monkeypatch.setattr("training.soft_targets.ROWS_BETWEEN_SAVES", 10)
    monkeypatch.setattr("training.soft_targets.answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        soft_targets([teacher], FILMS.texts, Run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["soft_targets.jsonl", "soft_targets.npz"]
    logits = soft_targets([teacher], FILMS.texts, Run(tmp_path))
    assert asked == [10, 10, 10, 4]
    assert np.allclose(logits, answer(teacher.model, teacher.read(FILMS.texts)), atol=1e-6)


def test_the_loss_mixes_both_where_there_is_a_label_and_is_soft_alone_where_there_is_none(small_student: Path):
    start = load_start(small_student)
    inputs = read_apart(start.tokenizer, 48)([*FILMS.texts[:2], *UNLABELLED[:1]])
    answers = np.asarray([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]], np.float32)

    class Constant(torch.nn.Linear):
        def forward(self, rows: object) -> torch.Tensor:
            return torch.zeros(3, 2)

    loss_of = taught_loss(Constant(1, 1), MOOD, inputs, FILMS.labels[:2], answers, SoftTargets("logits", 0.25))
    # squared distances 1, 9 and 8; cross-entropy ln 2 for the two with a label
    assert loss_of(np.arange(3)).item() == pytest.approx(0.25 * 18 / 3 + 0.75 * 2 * np.log(2) / 3)


@pytest.mark.parametrize("kind", ["logits", "temperature"])
def test_task_distillation_brings_the_student_to_its_teachers_answers(
    teacher: TunedTeacher, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr("training.loop.STEPS_BETWEEN_LOGS", 1)
    start, run = load_start(small_student), Run(tmp_path / "mood")
    figures = finetune(recipe(kind=kind), MOOD, FILMS, FILMS, start, run, teaching=Teaching([teacher], UNLABELLED))
    assert figures["accuracy"] > 0.9
    logs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logs if "loss" in line]
    per_epoch = len(losses) // HOW.epochs
    assert np.mean(losses[-per_epoch:]) < 0.2 * np.mean(losses[:per_epoch])
    kept = run.soft_targets()
    assert kept is not None
    assert len(kept[1]) == len(FILMS) + len(UNLABELLED)
    followed = run.recipe()
    assert ([taught["run"] for taught in followed["taught_by"]], followed["transfer_rows"]) == (["mood-teacher"], 3)
    assert followed["distillation"]["kind"] == kind


def test_a_distillation_that_was_stopped_and_goes_on_equals_one_that_was_not(
    teacher: TunedTeacher, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def train(run: Run) -> None:
        start, teaching = load_start(small_student), Teaching([teacher], UNLABELLED)
        finetune(recipe(weight=0.5), MOOD, FILMS, FILMS, start, run, teaching=teaching)

    train(Run(tmp_path / "whole"))
    calls = iter(range(1, 10_000))

    def interrupting(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return logits_loss(logits, targets)

    with monkeypatch.context() as patch:
        patch.setattr("training.finetuning.soft_loss", lambda *_: interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(Run(tmp_path / "stopped"))
    stopped = Run(tmp_path / "stopped").load()
    assert stopped is not None
    assert stopped["step"] == 7
    train(Run(tmp_path / "stopped"))
    whole, resumed = Run(tmp_path / "whole").weights(), Run(tmp_path / "stopped").weights()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_regression_is_held_against_the_teachers_value(small_bert: Path, small_student: Path, tmp_path: Path):
    stars = Task("stars", 1, (), ("pearson",))
    run, rows = Run(tmp_path / "stars-teacher"), Examples(FILMS.texts, 2 * FILMS.labels)
    how = TeacherTaskRecipe("stars", replace(TEACHERS, learning_rate=2e-3), dropout=0.0, precision="float32")
    taught = finetune_teacher(how, stars, rows, rows, load_teacher(str(small_bert)), run)
    teaching, start = Teaching([load_tuned_teacher(run.folder)]), load_start(small_student)
    figures = finetune(recipe(kind="temperature"), stars, rows, rows, start, Run(tmp_path / "stars"), teaching=teaching)
    assert figures["pearson"] > taught["pearson"] - 0.05


def test_a_teacher_of_another_task_is_refused(teacher: TunedTeacher, small_student: Path, tmp_path: Path):
    other = Task("spam", 1, ("ham", "spam"), ("accuracy",))
    with pytest.raises(TaskError, match="has learnt single texts with labels bad, good, and spam has"):
        finetune(
            recipe(),
            other,
            FILMS,
            FILMS,
            load_start(small_student),
            Run(tmp_path / "run"),
            teaching=Teaching([teacher]),
        )


def test_a_frozen_student_learns_from_labels_alone(teacher: TunedTeacher, small_student: Path, tmp_path: Path):
    frozen = FinetuneRecipe("mood", HOW, encoder_rate=0.0)
    with pytest.raises(RecipeError, match="leave out --teacher, or --frozen"):
        finetune(
            frozen, MOOD, FILMS, FILMS, load_start(small_student), Run(tmp_path / "run"), teaching=Teaching([teacher])
        )
