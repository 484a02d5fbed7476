from pathlib import Path

import numpy as np
import pytest

from app.tokenizer import Tokenizer
from export.parity import ROWS, SENTENCES, ParityError, compare, served


def test_a_report_gives_the_worst_of_each_measure():
    report = compare(np.asarray([[1, 0], [0, 1.5]], np.float32), np.asarray([[1, 0], [1, 1.5]], np.float32))
    assert report.max_abs == 1
    assert report.min_cosine == pytest.approx(1.5 / np.sqrt(3.25))
    assert report.mean_cosine == pytest.approx((1 + report.min_cosine) / 2)


def test_a_report_stops_what_exceeds_its_limits():
    report = compare(np.asarray([[1.0, 0.1]], np.float32), np.asarray([[1.0, 0.0]], np.float32))
    assert report.require(max_abs=0.2, min_cosine=0.99) is report
    with pytest.raises(ParityError, match=r"largest difference 1\.00e-01, allowed 1e-02"):
        report.require(max_abs=1e-2)
    with pytest.raises(ParityError, match=r"smallest cosine 0\.9950, allowed 0\.999"):
        report.require(min_cosine=0.999)


def test_not_a_number_never_passes():
    report = compare(np.asarray([[np.nan, 1.0]], np.float32), np.asarray([[1.0, 1.0]], np.float32))
    with pytest.raises(ParityError):
        report.require(max_abs=1)
    with pytest.raises(ParityError):
        report.require(min_cosine=0)


class Lengths:
    """Stands for a session: answers how long each row is, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, rows: list[list[int]]) -> np.ndarray:
        self.batches.append(len(rows))
        return np.asarray([[len(row)] for row in rows], np.float32)


def test_texts_are_encoded_in_batches_and_answered_in_order(small_bert: Path):
    session, texts = Lengths(), ["the " * (number % 5) for number in range(ROWS + 3)]
    encode = served(Tokenizer(small_bert / "tokenizer.json", 48), session)
    assert encode(texts)[:, 0].tolist() == [2 + number % 5 for number in range(ROWS + 3)]
    assert session.batches == [ROWS, 3]


def test_the_sentences_are_many_different_and_of_many_lengths():
    assert len(set(SENTENCES)) == len(SENTENCES) == 32
    lengths = [len(sentence) for sentence in SENTENCES]
    assert min(lengths) < 10 < 150 < max(lengths)
