import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import Run, RunError
from training.finetuning import finetune
from training.glue import TASKS, read_dev, read_train
from training.probing import ROWS_TO_START_ON, rows_to_start_on
from training.recipe import FinetuneRecipe, Optimisation, StudentShape
from training.start import load_start
from training.student import Student
from training.task import Examples, Task, examples_from

MOOD = Task("mood", 1, ("bad", "good"), ("accuracy",))
FILMS = Examples([(f"the film {'not ' * (n % 3)}{MOOD.labels[n % 2]}",) for n in range(50)], np.arange(50.0) % 2)


def recipe(encoder_rate: float = 1.0) -> FinetuneRecipe:
    how = Optimisation(epochs=15, learning_rate=2e-2, batch_rows=8)
    return FinetuneRecipe("mood", how, encoder_rate=encoder_rate, dropout=0.0, precision="float32")


def test_a_student_learns_a_task_of_glue_from_its_files(small_student: Path, corpus: Path, tmp_path: Path):
    row, run = TASKS["sst2"], Run(tmp_path / "sst2")
    figures = finetune(
        recipe(), row.task, read_train(row, corpus), read_dev(row, corpus), load_start(small_student), run
    )
    assert figures["accuracy"] == 1.0
    facts = run.facts()
    assert (facts["kind"], facts["task"]["labels"], facts["rows"]) == ("classifier", ["negative", "positive"], 40)


def test_a_run_keeps_the_rows_that_score_it(small_student: Path, tmp_path: Path):
    run = Run(tmp_path / "mood")
    finetune(recipe(encoder_rate=0), MOOD, FILMS, FILMS, load_start(small_student), run)
    assert examples_from(run.dev()).texts == FILMS.texts


@pytest.mark.parametrize("encoder_rate", [1.0, 0.0])
def test_a_run_learns_and_scores_its_own_rows_only(small_student: Path, tmp_path: Path, encoder_rate: float):
    run, start = Run(tmp_path / "mood"), load_start(small_student)
    how = replace(recipe(encoder_rate), optimisation=Optimisation(epochs=1, learning_rate=1e-2))
    finetune(how, MOOD, FILMS, FILMS.part(np.arange(10)), start, run)
    before = {file.name: file.read_bytes() for file in run.folder.iterdir()}
    relabelled, renamed = Examples(FILMS.texts, 1 - FILMS.labels), replace(MOOD, labels=("good", "bad"))
    for task, train, dev in ((MOOD, relabelled, 10), (renamed, FILMS, 10), (MOOD, FILMS, 20)):
        with pytest.raises(RunError, match="holds a run on other rows"):
            finetune(how, task, train, FILMS.part(np.arange(dev)), start, run)
    assert {file.name: file.read_bytes() for file in run.folder.iterdir()} == before


def test_a_student_that_has_changed_in_its_folder_is_another_run(small_student: Path, tmp_path: Path):
    how = replace(recipe(1.0), optimisation=Optimisation(epochs=1, learning_rate=1e-2))
    run, start = Run(tmp_path / "mood"), load_start(small_student)
    finetune(how, MOOD, FILMS, FILMS, start, run)
    finetune(how, MOOD, FILMS, FILMS, load_start(small_student), run)
    changed = load_start(small_student)
    with torch.no_grad():
        changed.student.projection.weight.mul_(1.1)
    with pytest.raises(RunError, match="of a model that has changed since"):
        finetune(how, MOOD, FILMS, FILMS, changed, run)


def test_a_frozen_encoder_keeps_its_weights_and_its_head_learns(small_student: Path, tmp_path: Path):
    run = Run(tmp_path / "mood")
    figures = finetune(recipe(encoder_rate=0), MOOD, FILMS, FILMS, load_start(small_student), run)
    assert figures["accuracy"] > 0.9
    assert run.final_figures() == figures
    before, after = load_start(small_student).student.state_dict(), run.weights()
    assert all(torch.equal(after[f"encoder.{name}"], weight) for name, weight in before.items())


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_an_embedding_is_learnt_where_it_has_a_rate(small_student: Path, tmp_path: Path, rate: float):
    run, start = Run(tmp_path / "mood"), load_start(small_student)
    vocabulary, width = start.student.embedding.num_embeddings, start.student.projection.out_features
    shape = StudentShape(embedding=8, hidden=8, pooling=("mean", "embedding"), heads=2)
    start = replace(start, student=Student(shape, vocabulary, width))
    before = copy.deepcopy(start.student.state_dict())
    how = replace(recipe(), embedding_rate=rate, optimisation=Optimisation(epochs=1, learning_rate=1e-2))
    finetune(how, MOOD, FILMS, FILMS, start, run)
    changed = {name for name, weight in before.items() if not torch.equal(run.weights()[f"encoder.{name}"], weight)}
    learnt = set(before) - {"attention.weight"}  # of another pooling
    kept = {"embedding.weight", "token_weight.weight", "heads.weight", "heads.bias"}
    assert changed == (learnt if rate else learnt - kept)


def test_a_regression_on_pairs_is_learnt(small_student: Path, tmp_path: Path):
    words = {"good": 2.5, "bad": 0.0}
    rows = [((f"a {a} film", f"the film ran {b}"), words[a] + words[b]) for a in words for b in words] * 5
    pairs = Examples([texts for texts, _ in rows], np.asarray([value for _, value in rows]))
    task = Task("pairs", 2, (), ("pearson",))
    for rate in (1.0, 0.0):
        run = Run(tmp_path / f"pairs-{rate}")
        assert finetune(recipe(rate), task, pairs, pairs, load_start(small_student), run)["pearson"] > 0.9


def test_values_are_learnt_whatever_their_scale(small_student: Path, tmp_path: Path):
    task, spread = Task("stars", 1, (), ("pearson",)), 30.0
    rows = Examples(FILMS.texts, 2000 + spread * FILMS.labels)
    run = Run(tmp_path / "stars")
    assert finetune(recipe(), task, rows, rows, load_start(small_student), run)["pearson"] > 0.9
    assert np.abs(run.dev_answers()[:, 0] - rows.labels).mean() < 0.2 * spread


def test_only_a_student_encoder_can_be_started_from(small_student: Path, tmp_path: Path):
    with pytest.raises(RunError, match="no complete run"):
        load_start(tmp_path / "none")
    finetune(recipe(encoder_rate=0), MOOD, FILMS, FILMS, load_start(small_student), Run(tmp_path / "mood"))
    with pytest.raises(RunError, match="holds a classifier"):
        load_start(tmp_path / "mood")
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "teacher", "training": {}}))
    with pytest.raises(RunError, match="no student to go on from"):
        load_start(tmp_path)


def test_a_task_is_learnt_and_scored_on_no_more_tokens_than_are_served(small_student: Path, tmp_path: Path):
    start, run = load_start(small_student), Run(tmp_path / "mood")
    beyond = "the film ran " * start.origin["max_tokens"]  # what tells the labels apart is cut off
    films = Examples([(beyond + text,) for (text,) in FILMS.texts], FILMS.labels)
    assert finetune(recipe(), MOOD, films, films, start, run)["accuracy"] == 0.5
    answers = run.dev_answers()
    assert np.array_equal(answers, np.broadcast_to(answers[0], answers.shape))


@pytest.mark.parametrize("task", [MOOD, Task("stars", 1, (), ("pearson",))])
def test_a_head_is_fitted_before_it_and_the_encoder_learn_together(small_student: Path, tmp_path: Path, task: Task):
    films = FILMS if task.labels else Examples(FILMS.texts, 100 + 5 * FILMS.labels)
    still = Optimisation(epochs=1, learning_rate=1e-12)
    started, frozen = Run(tmp_path / "started"), Run(tmp_path / "frozen")
    for run, rate in ((started, 1.0), (frozen, 0.0)):
        how = replace(recipe(rate), optimisation=still)
        finetune(how, task, films, films, load_start(small_student), run)
    unit = films.labels.std()
    assert np.allclose(started.dev_answers() / unit, frozen.dev_answers() / unit, atol=1e-3)


def test_a_label_without_a_row_keeps_no_other_from_being_learnt(small_student: Path, tmp_path: Path):
    task = replace(MOOD, labels=("bad", "good", "unseen"))
    assert finetune(recipe(), task, FILMS, FILMS, load_start(small_student), Run(tmp_path / "mood"))["accuracy"] > 0.9


def test_a_head_starts_on_no_more_rows_than_tell_and_on_every_label():
    labels = np.zeros(ROWS_TO_START_ON + 500)
    labels[-3:] = 1, 1, 2
    for seed in (1, 2, 3):
        some = rows_to_start_on(replace(MOOD, labels=("a", "b", "c")), labels, seed)
        assert set(labels[some]) == {0, 1, 2}
        assert ROWS_TO_START_ON <= len(some) <= ROWS_TO_START_ON + 2
    assert rows_to_start_on(replace(MOOD, labels=("a", "b", "c", "d")), labels, 1) is None
