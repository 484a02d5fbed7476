"""Labelled rows from a table: TSV as GLUE writes it (quotes are literal), CSV, or JSON lines."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.task import Examples, Task, TaskError

DEV_SHARE = 0.1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Record = tuple[int, dict[str, str]]  # the line it starts on, and its fields by column
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
        TaskError: the file is missing or of another kind, a column is missing, a row is cut short, a text is empty, or
            a label is none of the classes or no number.
    """
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    numbers = {value: float(number) for number, value in enumerate(classes)}
    for line, record in _records(path, columns):
        where = f"{path}, line {line}"
        texts.append(tuple(record[column].strip() for column in columns.texts))
        if columns.strict and not all(texts[-1]):
            raise TaskError(f"{where}: column {columns.texts[texts[-1].index('')]!r} is empty")
        labels.append(_number(record[columns.label].strip(), numbers, where))
    if not texts:
        raise TaskError(f"{path} holds no rows")
    return Examples(texts, np.asarray(labels))


def read_texts(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Read the texts of rows without labels; raises TaskError as `read_table`, but passes over empty texts."""
    rows = (tuple(record[column].strip() for column in columns) for _, record in _records(path, Columns(columns)))
    return [row for row in rows if all(row)]


def find_classes(path: Path, columns: Columns) -> tuple[str, ...]:
    """Find the values of the label column, sorted.

    Raises:
        TaskError: as `read_table`, or there are fewer than two.
    """
    found = sorted({record[columns.label].strip() for _, record in _records(path, columns)})
    if len(found) < 2:
        raise TaskError(f"{path}: column {columns.label!r} has only {found}; a classifier needs at least two labels")
    return tuple(found)


def read_task(name: str, train: Path, dev: Path | None, columns: Columns, seed: int, *, regression: bool) -> Rows:
    """Read a task of one's own: what is learnt, its training rows, and the rows that score it.

    Args:
        name: Of the task, and so of its bundle and route.
        train: Rows to learn.
        dev: Rows to score; without them a tenth of `train`, chosen by `seed`, is set aside.
        columns: Which columns to read.
        seed: Decides which rows are set aside.
        regression: The label is a number, not a class.

    Raises:
        TaskError: as `read_table` and `find_classes`, a name that no route can have, or too few rows to set any aside.
    """
    if not NAME.fullmatch(name):
        raise TaskError(f"task name {name!r}: lower-case letters, digits, '.', '_' and '-' make a route's name")
    classes = () if regression else find_classes(train, columns)
    metrics = ("spearman", "pearson") if regression else ("accuracy", "macro_f1")
    task = Task(name, len(columns.texts), classes, metrics)
    rows = read_table(train, columns, classes)
    if dev is not None:
        return task, rows, read_table(dev, columns, classes)
    if len(rows) < 2 / DEV_SHARE:
        raise TaskError(f"{train} has {len(rows)} rows, too few to set some aside: name a file to score with --dev")
    order = np.random.default_rng(seed).permutation(len(rows))
    aside = round(DEV_SHARE * len(rows))
    return task, rows.part(np.sort(order[aside:])), rows.part(np.sort(order[:aside]))


def _records(path: Path, columns: Columns) -> Iterator[Record]:
    readers = {".tsv": _separated, ".csv": _separated, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise TaskError(f"{path}: expected a file that ends in {', '.join(readers)}")
    wanted = (*columns.texts, columns.label) if columns.label else columns.texts
    for line, record in readers[path.suffix](path, columns):
        missing = [column for column in wanted if column not in record]
        if missing:
            raise TaskError(f"{path}, line {line}: no column {missing[0]!r}; there are {list(record)}")
        yield line, record


def _separated(path: Path, columns: Columns) -> Iterator[Record]:
    lines = _text_of(path).removesuffix("\n").split("\n")
    if path.suffix == ".tsv":
        table = csv.reader((line.rstrip("\r") for line in lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(f"{line}\n" for line in lines)
    header = list(columns.header) or next(table, [])
    for fields in table:
        if len(fields) == len(header):
            yield table.line_num, dict(zip(header, fields, strict=True))
        elif columns.strict:
            raise TaskError(f"{path}, line {table.line_num}: {len(fields)} columns, expected {len(header)}: {header}")


def _json_lines(path: Path, _columns: Columns) -> Iterator[Record]:
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise TaskError(f"{path}, line {number}: expected an object, found {line[:40]}")
        yield number, {key: value if isinstance(value, str) else str(value) for key, value in record.items()}


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise TaskError(f"{path} is missing; DATA_DIR (or --data) names the folder that holds glue/") from error
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
