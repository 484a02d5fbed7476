from pathlib import Path

import numpy as np
import torch

from training.checkpoint import Run
from training.encoding import encode
from training.head import Head
from training.recipe import StudentShape
from training.student import Student
from training.task import Examples, Task
from training.task_model import TaskModel, answer, encode_together, labelled_loss, read_apart, read_joined, scoring
from training.teacher import load_teacher

PAIRS = [("the cat sat", "a dog ran"), ("film", "the small tree")]
ROWS = [[[2, 3], [2, 7, 3]], [[2, 5, 5, 3], [2, 6, 3]], [[2, 9, 3], [2, 9, 3]]]


def pair_model() -> TaskModel:
    torch.manual_seed(0)
    return TaskModel(Student(StudentShape(embedding=6, hidden=5), vocabulary=20, width=8), Head(2, 8, 3)).eval()


def test_texts_of_different_lengths_are_encoded_together_as_alone():
    student = pair_model().encoder
    texts = [[2, 3], [2, 7, 7, 7, 3], [2, 5, 3], [2, 6, 3]]
    with torch.inference_mode():
        together = encode_together(student, texts)
    assert torch.allclose(together, torch.from_numpy(encode(student, texts)), atol=1e-6)


def test_a_model_answers_in_training_as_in_scoring():
    model = pair_model()
    with torch.inference_mode():
        logits = model(ROWS)
    assert logits.shape == (3, 3)
    assert np.allclose(answer(model, ROWS), logits, atol=1e-6)


def test_a_pair_is_read_apart_or_joined(small_bert: Path):
    tokenizer = load_teacher(str(small_bert)).tokenizer
    assert [list(map(len, row)) for row in read_apart(tokenizer, 48)(PAIRS)] == [[5, 5], [3, 5]]
    joined = read_joined(tokenizer, 48)(PAIRS)
    assert [list(map(len, row)) for row in joined] == [[9], [7]]
    assert joined[1][0].count(3) == 2
    assert read_joined(tokenizer, 48)([("film",)]) == read_apart(tokenizer, 48)([("film",)])


def test_of_a_pair_that_is_too_long_the_longer_text_is_cut(small_bert: Path):
    tokenizer = load_teacher(str(small_bert)).tokenizer
    (ids,) = read_joined(tokenizer, 8)([("the cat", "the dog sat on the red mat")])[0]
    whole = tokenizer.encode("the cat", "the dog sat").ids
    assert ids == whole


def test_scores_and_loss_are_of_the_labels(tmp_path: Path):
    model, task = pair_model(), Task("pairs", 2, ("a", "b", "c"), ("accuracy",))
    logits = answer(model, ROWS)
    truth = logits.argmax(axis=1).astype(np.float64)
    run = Run(tmp_path)
    scored = scoring(task, Examples(PAIRS, truth[:2]), lambda texts: ROWS[: len(texts)], run)
    assert scored(model) == {"accuracy": 1.0}
    assert np.allclose(run.dev_answers(), logits[:2], atol=1e-6)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth).long())
    found = labelled_loss(model, task, ROWS, truth)(np.arange(3))
    assert torch.allclose(found, expected, atol=1e-6)
