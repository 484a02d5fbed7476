"""Texts without labels that a fine-tuned teacher answers for its student (Tang et al. 2019, 1903.12136, 3.3)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from training.corpus import read_lines
from training.table import read_texts
from training.task import TaskError
from training.task_model import Texts


def transfer_rows(
    files: Sequence[Path], columns: Sequence[str], texts: int, limit: int | None, seed: int, known: Iterable[Texts]
) -> list[Texts]:
    """Read rows without labels: distinct, in the files' order, none of them among the rows that are known.

    For a task on pairs, two columns of a table make one pair; without them, every two consecutive texts do.

    Args:
        files: Any form that training/corpus.py reads; with two columns, any that training/table.py reads.
        columns: Where the texts stand: none for plain text, one, or two for a table of pairs.
        texts: Texts of a row, 1 or 2.
        limit: How many rows to draw at most; all of them without it.
        seed: Decides which are drawn.
        known: Training and dev rows.

    Raises:
        CorpusError, TaskError: a file cannot be read, the columns do not fit the task, or no row is left.
    """
    if len(columns) > texts:
        raise TaskError("--transfer-text was given twice, and the task takes single texts")
    found = dict.fromkeys(chain.from_iterable(_rows(file, tuple(columns), texts) for file in files))
    for row in known:
        found.pop(row, None)
    if not found:
        raise TaskError(f"no row to learn from is in {', '.join(map(str, files))}")
    rows = list(found)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
    return [rows[index] for index in drawn]


def _rows(file: Path, columns: Texts, texts: int) -> Iterator[Texts]:
    if len(columns) == 2:
        return iter(read_texts(file, columns))
    if not columns and ".txt" not in file.suffixes:
        raise TaskError(f"{file} has columns: --transfer-text names that of the text")
    lines = iter(read_lines(file, *columns))
    return zip(*[lines] * texts, strict=False)  # a last text without a partner is left out
