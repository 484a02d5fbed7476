import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import Run, RunError
from training.encoding import encode, tokenize
from training.head import Head, fit_head
from training.recipe import Optimisation, TeacherTaskRecipe
from training.task import Examples, Task, examples_from
from training.task_model import answer
from training.teacher import TeacherError, load_teacher
from training.tuned_teacher import finetune_teacher, load_tuned_teacher

# Which of the two is good: the words alone do not tell.
SAID = ("the film", "a very small tree", "the dog and the cat")
BETTER = Task("better", 2, ("second", "first"), ("accuracy", "f1"))
PAIRS = Examples(
    [
        (f"{one} {first}", f"{other} {second}")
        for first, second in (("good", "bad"), ("bad", "good"))
        for one in SAID
        for other in SAID
    ]
    * 3,
    np.repeat(np.tile([1.0, 0.0], 3), 9),
)
RECIPE = TeacherTaskRecipe(
    "better",
    Optimisation(epochs=12, learning_rate=1e-2, batch_rows=8),
    pairs="joined",
    dropout=0.0,
    precision="float32",
)


def tune(small_bert: Path, folder: Path, task: Task = BETTER, rows: Examples = PAIRS, **changes: object) -> Run:
    run = Run(folder)
    recipe = TeacherTaskRecipe(**{**vars(RECIPE), **changes})
    finetune_teacher(recipe, task, rows, rows, load_teacher(str(small_bert)), run)
    return run


def test_a_teacher_learns_a_task_on_joined_pairs(small_bert: Path, tmp_path: Path):
    run = tune(small_bert, tmp_path / "better-teacher")
    facts = run.facts()
    assert (facts["role"], facts["kind"], facts["rows"]) == ("teacher", "classifier", len(PAIRS))
    assert run.final_figures()["accuracy"] > 0.9
    assert examples_from(run.dev()).texts == PAIRS.texts


def test_a_teacher_learns_a_task_on_pairs_apart_from_its_own_vectors(small_bert: Path, tmp_path: Path):
    still = Optimisation(epochs=1, learning_rate=1e-12, batch_rows=8)
    run = tune(small_bert, tmp_path / "still", pairs="apart", optimisation=still)
    head = Head(2, 32, 2)
    texts = [text for pair in PAIRS.texts for text in pair]
    own = load_teacher(str(small_bert))
    vectors = encode(own.encoder, tokenize(own.tokenizer, texts, 48)).reshape(len(PAIRS), 2, -1)
    fit_head(head, vectors, PAIRS.labels, BETTER)
    expected = head(torch.from_numpy(vectors)).detach().numpy()
    assert np.allclose(run.dev_answers(), expected, atol=1e-3 * np.abs(expected).max())
    assert tune(small_bert, tmp_path / "better-teacher", pairs="apart").final_figures()["accuracy"] > 0.9


@pytest.mark.parametrize("pairs", ["joined", "apart"])
def test_a_fine_tuned_teacher_is_loaded_as_it_was_left(small_bert: Path, tmp_path: Path, pairs: str):
    run = tune(small_bert, tmp_path / "better-teacher", pairs=pairs)
    teacher = load_tuned_teacher(run.folder)
    logits = answer(teacher.model, teacher.read(PAIRS.texts))
    assert teacher.task == BETTER
    assert BETTER.score(PAIRS.labels, logits) == run.final_figures()
    assert teacher.fingerprint == load_tuned_teacher(run.folder).fingerprint
    assert not Path(run.facts()["bert"].get("_name_or_path", "")).is_absolute()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_vector_below_the_head_is_pooled_as_asked_and_not_normalised(
    small_bert: Path, tmp_path: Path, pooling: str
):
    one = Task("mood", 1, ("bad", "good"), ("accuracy",))
    rows = Examples([("a good film",), ("a bad film",)] * 4, np.asarray([1.0, 0.0] * 4))
    how = Optimisation(epochs=1, learning_rate=1e-4, batch_rows=8)
    teacher = load_tuned_teacher(
        tune(small_bert, tmp_path / "mood", one, rows, pooling=pooling, optimisation=how).folder
    )
    ids = torch.tensor(teacher.read([("a good film",)])[0])
    with torch.inference_mode():
        states = teacher.model.encoder.bert(input_ids=ids).last_hidden_state
        vector = states[:, 0] if pooling == "cls" else states.mean(dim=1)
        assert torch.allclose(teacher.model.encoder(ids), vector, atol=1e-6)
    assert teacher.model.encoder.separator is None


def test_a_regression_is_learnt(small_bert: Path, tmp_path: Path):
    rows = Examples(PAIRS.texts, 4 * PAIRS.labels - 1)
    run = tune(small_bert, tmp_path / "value-teacher", Task("value", 2, (), ("pearson",)), rows)
    assert run.facts()["kind"] == "regressor"
    assert run.final_figures()["pearson"] > 0.8


def test_long_pairs_are_learnt_at_the_recipes_length(small_bert: Path, tmp_path: Path):
    rows = Examples([("the cat " * 40, "a dog " * 40)] * 8, np.asarray([0.0, 1.0] * 4))
    run = tune(small_bert, tmp_path / "run", rows=rows, max_tokens=32, optimisation=Optimisation(1, 1e-4, batch_rows=8))
    assert run.final_figures()["accuracy"] == 0.5
    assert run.facts()["max_tokens"] == 48


def test_what_is_no_finished_run_of_a_teacher_is_refused(small_bert: Path, small_student: Path, tmp_path: Path):
    with pytest.raises(RunError, match="no complete run"):
        load_tuned_teacher(tmp_path / "none")
    with pytest.raises(RunError, match="holds a student's encoder; expected a run of `finetune-teacher`"):
        load_tuned_teacher(small_student)
    run = tune(small_bert, tmp_path / "run", optimisation=Optimisation(epochs=2, learning_rate=1e-4, batch_rows=8))
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line).get("epoch") != 2]
    (run.folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    with pytest.raises(RunError, match="is not finished: 1 of 2 epochs"):
        load_tuned_teacher(run.folder)


def test_a_run_of_a_teacher_learns_its_own_rows_only(small_bert: Path, tmp_path: Path):
    quick = Optimisation(epochs=1, learning_rate=1e-4, batch_rows=8)
    run = tune(small_bert, tmp_path / "run", optimisation=quick)
    with pytest.raises(RunError, match="holds a run on other rows"):
        tune(small_bert, run.folder, rows=Examples(PAIRS.texts, 1 - PAIRS.labels), optimisation=quick)
    assert examples_from(run.dev()).labels.tolist() == PAIRS.labels.tolist()


def test_a_teacher_with_one_token_type_cannot_take_joined_pairs(small_bert: Path, tmp_path: Path):
    teacher = load_teacher(str(small_bert))
    teacher.encoder.bert.config.type_vocab_size = 1
    with pytest.raises(TeacherError, match="one token type"):
        finetune_teacher(RECIPE, BETTER, PAIRS, PAIRS, teacher, Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    apart = replace(RECIPE, pairs="apart", optimisation=Optimisation(epochs=1, learning_rate=1e-4, batch_rows=8))
    finetune_teacher(apart, BETTER, PAIRS, PAIRS, teacher, Run(tmp_path / "run"))
