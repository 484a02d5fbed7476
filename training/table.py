"""Labelled rows from a table."""

import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.records import FORMS, Record, RecordError, read_records
from training.task import Examples, Scores, Task, TaskError

DEV_SHARE = 0.1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
EMPTY = "is empty: fill it in, or leave the row out"

Rows = tuple[Task, Examples, Examples]  # what is learnt, training rows, rows to score


@dataclass(frozen=True)
class Columns:
    """Where a row's texts and its label stand.

    Attributes:
        texts: The column of its one text, or those of its two.
        label: The column of its label; none where the rows are read without.
        header: For a file without a header line: the names of its columns.
        strict: Refuse rows cut short and empty texts. The official QQP file holds a few of both: lenient reading skips
            the former and keeps the latter.
    """

    texts: tuple[str, ...]
    label: str = ""
    header: tuple[str, ...] = ()
    strict: bool = True


def read_table(path: Path, columns: Columns, classes: Sequence[str]) -> Examples:
    """Read labelled rows.

    Args:
        path: `.tsv`, `.csv`, or `.jsonl`.
        columns: Which columns to read.
        classes: Values that the label may have; empty for a regression.

    Raises:
        TaskError: the file is missing or of another kind or cannot be read as it, a column is missing, a row is cut
            short, a text or a label is empty, or a label is none of the classes or no number.
    """
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    numbers = {value: float(number) for number, value in enumerate(classes)}
    for line, (*row, label) in _records(path, columns):
        where = f"{path}, line {line}"
        if columns.strict and not all(row):
            raise TaskError(f"{where}: column {columns.texts[row.index('')]!r} {EMPTY}")
        texts.append(tuple(row))
        labels.append(_number(label, numbers, where))
    if not texts:
        raise TaskError(f"{path} holds no rows")
    return Examples(texts, np.asarray(labels))


def read_texts(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Read the texts of rows without labels; raises TaskError as `read_table`, but passes over empty texts."""
    return [row for _, row in _records(path, Columns(columns)) if all(row)]


def find_classes(path: Path, columns: Columns) -> tuple[str, ...]:
    """Find the values of the label column, sorted.

    Raises:
        TaskError: as `read_table`, or there are fewer than two.
    """
    found = sorted({label for _, (*_, label) in _records(path, columns)})
    if len(found) < 2:
        raise TaskError(f"{path}: column {columns.label!r} has only {found}; a classifier needs at least two labels")
    return tuple(found)


def read_task(
    name: str,
    train: Path,
    dev: Path | None,
    columns: Columns,
    seed: int,
    *,
    regression: bool,
    symmetric: bool = False,
) -> Rows:
    """Read a task of one's own: what is learnt, its training rows, and the rows that score it.

    Args:
        name: Of the task, and so of its bundle and route.
        train: Rows to learn.
        dev: Rows to score; without them a tenth of `train`, chosen by `seed`, is set aside: all rows of a text or of
            none, and never all rows of a class.
        columns: Which columns to read.
        seed: Decides which rows are set aside.
        regression: The label is a number, not a class.
        symmetric: A pair means the same in either order.

    Raises:
        TaskError: as `read_table` and `find_classes`, a name that no route can have, or too few rows to set any aside.
    """
    if not NAME.fullmatch(name):
        raise TaskError(f"task name {name!r}: lower-case letters, digits, '.', '_' and '-' make a route's name")
    classes = () if regression else find_classes(train, columns)
    metrics = ("spearman", "pearson") if regression else ("accuracy", "macro_f1")
    task = Task(name, len(columns.texts), classes, metrics, symmetric)
    rows = read_table(train, columns, classes)
    if dev is not None:
        return task, rows, read_table(dev, columns, classes)
    keys = [min(task.orders(texts)) for texts in rows.texts]
    numbers = {texts: number for number, texts in enumerate(dict.fromkeys(keys))}
    aside = _set_aside(np.asarray([numbers[texts] for texts in keys]), rows.labels if classes else None, seed)
    if len(numbers) < 2 / DEV_SHARE or not aside.any():
        few = f"{len(numbers)} rows of different texts, too few to set some aside and learn every label"
        raise TaskError(f"{train} has {few}: name a file to score with --dev")
    return task, rows.part(np.flatnonzero(~aside)), rows.part(np.flatnonzero(aside))


def _set_aside(texts: NDArray[np.int64], labels: Scores | None, seed: int) -> NDArray[np.bool_]:
    """Choose rows to score: (rows), from the number of each row's text and, for a classifier, of its label."""
    distinct = texts.max() + 1
    order = np.random.default_rng(seed).permutation(distinct)
    aside: NDArray[np.bool_] = np.isin(texts, order[: round(DEV_SHARE * distinct)])
    if labels is not None:
        unlearnt = ~np.isin(labels, labels[~aside])
        aside &= ~np.isin(texts, texts[unlearnt])
    return aside


def _records(path: Path, columns: Columns) -> Iterator[Record]:
    """Give the texts of each row and, where the columns name it, its label; all stripped, and the label not empty.

    Labels are normalised: one that is written with a combining accent here and without there would be two classes.
    """
    if path.suffix not in FORMS:
        raise TaskError(f"{path}: expected a file that ends in {', '.join(FORMS)}")
    wanted = (*columns.texts, columns.label) if columns.label else columns.texts
    lines = io.StringIO(_text_of(path), newline="\n")
    try:
        for line, record in read_records(path.suffix, lines, wanted, columns.header, strict=columns.strict):
            fields = tuple(field.strip() for field in record)
            if columns.label and not fields[-1]:
                raise TaskError(f"{path}, line {line}: column {columns.label!r} {EMPTY}")
            yield line, (*fields[:-1], unicodedata.normalize("NFC", fields[-1])) if columns.label else fields
    except RecordError as error:
        raise TaskError(f"{path}, {error}") from error


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise TaskError(f"{path} is missing") from error
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TaskError(f"{path}, line {line} is not UTF-8: {error.reason}") from error


def _number(value: str, numbers: dict[str, float], where: str) -> float:
    try:
        number = numbers[value] if numbers else float(value)
    except (KeyError, ValueError) as error:
        raise TaskError(f"{where}: label {value!r} is none of {list(numbers) or 'the numbers'}") from error
    if not np.isfinite(number):
        raise TaskError(f"{where}: label {value!r} is no finite number")
    return number
