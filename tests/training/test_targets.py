from pathlib import Path

import numpy as np
import pytest

from training import targets as module
from training.encoding import encode, tokenize
from training.targets import TargetsError, label
from training.teacher import Teacher, load_teacher

TEXTS = [f"the {'very ' * (number % 8)}cat {'sat ' * (number // 8)}" for number in range(60)]


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

    def counted(teacher: Teacher, tokens: module.Tokens, rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return real(teacher, tokens, rows)

    monkeypatch.setattr(module, "encode_rows", counted)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 1)
    return calls


def test_rows_are_sorted_by_length_and_carry_the_teachers_vectors(teacher: Teacher, tmp_path: Path):
    targets = label(teacher, TEXTS, 48, tmp_path)
    rows = sorted(tokenize(teacher.tokenizer, TEXTS, 48), key=len)
    assert [targets.tokens.row(row) for row in range(len(targets))] == rows
    cosines = (targets.expected(np.arange(len(targets))) * encode(teacher.encoder, rows)).sum(axis=1)
    assert cosines.min() > 0.999


def test_rows_of_one_length_are_read_together(teacher: Teacher, tmp_path: Path):
    tokens = label(teacher, TEXTS, 48, tmp_path).tokens
    longest = np.flatnonzero(tokens.lengths == tokens.lengths.max())
    assert tokens.input_ids(longest).tolist() == [tokens.row(row) for row in longest]


def test_texts_of_equal_token_ids_make_one_row_which_names_the_first(teacher: Teacher, tmp_path: Path):
    targets = label(teacher, ["the cat sat", "on a very very very very mat", "THE  CAT sat"], 48, tmp_path)
    assert targets.tokens.texts.tolist() == [0, 1]


def test_vectors_are_computed_once(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    every = np.arange(len(TEXTS))
    first = label(teacher, TEXTS, 48, tmp_path).expected(every)
    calls = count_calls(monkeypatch)
    assert np.array_equal(label(teacher, TEXTS, 48, tmp_path).expected(every), first)
    assert calls == [1] * module.CHECKED_ROWS


def test_a_corpus_that_grows_costs_its_new_rows(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    label(teacher, TEXTS[::2], 48, tmp_path)
    calls = count_calls(monkeypatch)
    targets = label(teacher, TEXTS, 48, tmp_path)
    assert sum(calls) == len(TEXTS) // 2 + module.CHECKED_ROWS
    fresh = encode(teacher.encoder, [targets.tokens.row(row) for row in range(len(targets))])
    assert (targets.expected(np.arange(len(targets))) * fresh).sum(axis=1).min() > 0.999


def test_a_killed_labelling_goes_on_where_it_was(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    every = np.arange(len(TEXTS))
    whole = label(teacher, TEXTS, 48, tmp_path / "whole").expected(every)
    with monkeypatch.context() as patch:
        count_calls(patch, fail_at=12)
        with pytest.raises(KeyboardInterrupt):
            label(teacher, TEXTS, 48, tmp_path / "killed")
    done = next((tmp_path / "killed").rglob("keys.u64")).stat().st_size // 8
    assert 0 < done < len(TEXTS)
    calls = count_calls(monkeypatch)
    assert np.array_equal(label(teacher, TEXTS, 48, tmp_path / "killed").expected(every), whole)
    assert sum(calls) == len(TEXTS) - done + module.CHECKED_ROWS


def test_a_store_that_answers_otherwise_is_refused_and_named(teacher: Teacher, tmp_path: Path):
    label(teacher, TEXTS, 48, tmp_path)
    file = next(tmp_path.rglob("vectors.f16"))
    np.fromfile(file, dtype=np.float16).reshape(-1, teacher.width)[::-1].tofile(file)
    with pytest.raises(TargetsError, match=f"delete {file.parent}"):
        label(teacher, TEXTS, 48, tmp_path)
