from pathlib import Path

import numpy as np
import pytest
import torch

from training.corpus import read_lines
from training.encoding import encode
from training.linear_start import LinearStart, linear_start, start_from
from training.losses import cosine_loss
from training.recipe import StudentShape
from training.student import Student
from training.targets import Targets, label
from training.teacher import Teacher, load_teacher


@pytest.fixture
def teacher(small_bert: Path) -> Teacher:
    return load_teacher(str(small_bert))


@pytest.fixture
def targets(teacher: Teacher, corpus: Path, tmp_path: Path) -> Targets:
    lines = read_lines(corpus / "corpus" / "lines.txt.xz")
    return label(teacher, lines[:200], 32, tmp_path)


@pytest.fixture(autouse=True)
def _many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.linear_start.BATCH_ROWS", 20)
    monkeypatch.setattr("training.linear_start.PASSES", 10)


def fit(teacher: Teacher, targets: Targets, cache: Path, size: int = 16) -> LinearStart:
    return linear_start(teacher, targets, np.arange(len(targets)), size, 1, cache)


def student(start: LinearStart) -> Student:
    torch.manual_seed(0)
    vocabulary, size = start.embedding.shape
    pooling = ("attention", "embedding", "mean")
    return Student(StudentShape(size, hidden=5, pooling=pooling), vocabulary, len(start.bias)).eval()


def test_it_comes_closer_to_the_teacher_than_its_token_vectors_do(teacher: Teacher, targets: Targets, tmp_path: Path):
    start = fit(teacher, targets, tmp_path)
    rows = [targets.tokens.row(row) for row in range(len(targets))]
    expected = torch.from_numpy(targets.expected(np.arange(len(targets))))
    fitted = torch.stack([start.embedding[row].mean(dim=0) for row in rows]) @ start.projection.t() + start.bias
    alone = torch.from_numpy(encode(teacher.encoder, [[token] for token in range(teacher.vocabulary)]))
    averaged = torch.stack([alone[row].mean(dim=0) for row in rows])
    assert float(cosine_loss(fitted, expected)) < float(cosine_loss(averaged, expected))


def test_a_student_begins_as_the_static_model(teacher: Teacher, targets: Targets, tmp_path: Path):
    start = fit(teacher, targets, tmp_path)
    begun = student(start)
    start_from(begun, start)
    rows = [[2, 5, 3], [2, 7, 8, 9, 3]]
    expected = torch.stack([start.embedding[row].mean(dim=0) for row in rows]) @ start.projection.t() + start.bias
    assert np.allclose(encode(begun, rows), torch.nn.functional.normalize(expected, dim=1), atol=1e-5)
    assert torch.allclose(begun.embedding.weight.square().mean(dim=1), torch.ones(teacher.vocabulary))
    weighted = begun.embedding.weight * begun.token_weight.weight
    assert torch.allclose(weighted, start.embedding / start.embedding.std(), atol=1e-5)


def test_it_is_fitted_once(teacher: Teacher, targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = fit(teacher, targets, tmp_path)
    monkeypatch.setattr("training.linear_start._fit", None)
    assert torch.equal(fit(teacher, targets, tmp_path).embedding, first.embedding)
    with pytest.raises(TypeError):
        fit(teacher, targets, tmp_path, size=8)  # another size is another fit


def test_an_embedding_wider_than_the_teacher_is_fitted_too(teacher: Teacher, targets: Targets, tmp_path: Path):
    assert fit(teacher, targets, tmp_path, size=40).embedding.shape == (teacher.vocabulary, 40)


def test_a_student_without_that_path_cannot_begin_so(teacher: Teacher, targets: Targets, tmp_path: Path):
    start = fit(teacher, targets, tmp_path)
    other = Student(StudentShape(16, 5, pooling=("mean",)), teacher.vocabulary, teacher.width)
    with pytest.raises(ValueError, match="embedding"):
        start_from(other, start)
