from pathlib import Path

import numpy as np
import pytest

from training import targets as module
from training.encoding import encode, tokenize
from training.targets import TargetsError, label
from training.teacher import Teacher, load_teacher

TEXTS = [f"the cat {'very ' * (number % 7)}sat on {'a mat ' * (number % 3)}{number}" for number in range(60)]


@pytest.fixture(scope="module")
def teacher(small_bert: Path) -> Teacher:
    return load_teacher(str(small_bert))


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_BETWEEN_SAVES", 8)
    monkeypatch.setattr(module, "BATCH_TOKENS", 32)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 7)


def count_calls(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    real, calls = module.encode_rows, []

    def counted(teacher: Teacher, targets: module.Targets, rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return real(teacher, targets, rows)

    monkeypatch.setattr(module, "encode_rows", counted)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 1)
    return calls


def test_rows_are_sorted_by_length_and_carry_the_teachers_vectors(teacher: Teacher, tmp_path: Path):
    targets = label(teacher, TEXTS, 48, tmp_path)
    rows = sorted(tokenize(teacher.tokenizer, TEXTS, 48), key=len)
    assert [targets.row(row) for row in range(len(targets))] == rows
    cosines = (targets.vectors.astype(np.float32) * encode(teacher.encoder, rows)).sum(axis=1)
    assert cosines.min() > 0.999


def test_rows_of_one_length_are_read_together(teacher: Teacher, tmp_path: Path):
    targets = label(teacher, TEXTS, 48, tmp_path)
    longest = np.flatnonzero(targets.lengths == targets.lengths.max())
    assert targets.input_ids(longest).tolist() == [targets.row(row) for row in longest]


def test_vectors_are_computed_once(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = label(teacher, TEXTS, 48, tmp_path).vectors.copy()
    calls = count_calls(monkeypatch)
    assert np.array_equal(label(teacher, TEXTS, 48, tmp_path).vectors, first)
    assert calls == [1] * module.CHECKED_ROWS


def test_a_killed_labelling_goes_on_where_it_was(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = label(teacher, TEXTS, 48, tmp_path / "whole").vectors
    with monkeypatch.context() as patch:
        count_calls(patch, fail_at=12)
        with pytest.raises(KeyboardInterrupt):
            label(teacher, TEXTS, 48, tmp_path / "killed")
    done = int(next((tmp_path / "killed").rglob("done")).read_text())
    assert 0 < done < len(TEXTS)
    calls = count_calls(monkeypatch)
    assert np.array_equal(label(teacher, TEXTS, 48, tmp_path / "killed").vectors, whole)
    assert sum(calls) == len(TEXTS) - done + module.CHECKED_ROWS


def test_another_text_or_limit_is_another_cache(teacher: Teacher, tmp_path: Path):
    for texts, limit in ((TEXTS, 48), (TEXTS[1:], 48), (TEXTS, 10)):
        label(teacher, texts, limit, tmp_path)
    assert len(list((tmp_path / "targets").iterdir())) == 3


def test_a_cache_that_answers_otherwise_is_refused_and_named(teacher: Teacher, tmp_path: Path):
    targets = label(teacher, TEXTS, 48, tmp_path)
    targets.vectors[:] = targets.vectors[::-1].copy()
    folder = next((tmp_path / "targets").iterdir())
    with pytest.raises(TargetsError, match=f"delete {folder}"):
        label(teacher, TEXTS, 48, tmp_path)
