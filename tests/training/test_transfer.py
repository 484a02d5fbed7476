from pathlib import Path

import pytest

from training.corpus import CorpusError
from training.task import TaskError
from training.transfer import transfer_rows

LINES = [f"text {number}" for number in range(10)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "lines.txt").write_text("\n".join([*LINES, LINES[0]]) + "\n")
    return tmp_path / "lines.txt"


def test_rows_are_distinct_and_none_is_known(lines: Path):
    rows = transfer_rows([lines, lines], (), 1, None, 1, known=[("text 3",), ("elsewhere",)])
    assert rows == [(line,) for line in LINES if line != "text 3"]


def test_for_pairs_every_two_consecutive_texts_are_one(lines: Path):
    rows = transfer_rows([lines], (), 2, None, 1, known=[])
    assert rows == list(zip(LINES[::2], LINES[1::2], strict=True))


def test_a_column_holds_texts_and_two_hold_pairs(tmp_path: Path):
    file = tmp_path / "pairs.tsv"
    file.write_text("id\ta\tb\n1\tone\ttwo\n2\tthree\t\n3\tfour\tfive\n")
    assert transfer_rows([file], ("a",), 1, None, 1, known=[]) == [("one",), ("three",), ("four",)]
    assert transfer_rows([file], ("a", "b"), 2, None, 1, known=[]) == [("one", "two"), ("four", "five")]
    assert transfer_rows([file], ("a",), 2, None, 1, known=[]) == [("one", "three")]


def test_the_seed_decides_which_rows_are_drawn(lines: Path):
    drawn = [transfer_rows([lines], (), 1, 4, seed, known=[]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == len(set(drawn[0])) == 4


@pytest.mark.parametrize(
    ("name", "columns", "texts", "message"),
    [
        ("lines.txt", ("a", "b"), 1, "the task takes single texts"),
        ("lines.txt", ("a", "b"), 2, "ends in .tsv, .csv, .jsonl"),
        ("table.tsv", (), 1, "--transfer-text names that of the text"),
        ("table.tsv", ("a", "c"), 2, "no column 'c'"),
        ("one.txt", (), 2, "no row to learn from is in .*one.txt"),
    ],
)
def test_what_does_not_fit_is_named(lines: Path, name: str, columns: tuple[str, ...], texts: int, message: str):
    (lines.parent / "table.tsv").write_text("a\tb\none\ttwo\n")
    (lines.parent / "one.txt").write_text("one\n")
    with pytest.raises(TaskError, match=message):
        transfer_rows([lines.parent / name], columns, texts, None, 1, known=[])


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"none.txt is missing"):
        transfer_rows([tmp_path / "none.txt"], (), 1, None, 1, known=[])
