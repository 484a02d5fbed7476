"""The fields of a table's rows: TSV as GLUE writes it (quotes are literal), CSV, or JSON lines."""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

Record = tuple[int, tuple[str, ...]]  # the line it starts on, and the fields that were asked for


class RecordError(ValueError):
    """A line that cannot be read as the form of its file demands; the message begins with its number."""


def read_records(
    form: str, lines: Iterable[str], columns: Sequence[str], header: Sequence[str] = (), *, strict: bool = False
) -> Iterator[Record]:
    """Read some columns of a table.

    Args:
        form: One of FORMS.
        lines: Of the file.
        columns: Whose fields to give, in this order.
        header: For a file without a header line: the names of all its columns.
        strict: Refuse a row that has more or fewer fields than the header. Otherwise one that lacks a wanted field is
            passed over, and surplus ones are ignored.

    Yields:
        A row's fields as text; what JSON holds as null or NaN is empty.

    Raises:
        RecordError: a column is missing or stands there twice, a row has another number of fields than a strict reading
            wants, a quote of a CSV is left open or stands where none may, a field of a CSV has over 131,072 characters,
            or a line is no JSON object of texts and numbers, with each key once.
    """
    if form == ".jsonl":
        return _json_lines(lines, columns)
    return _separated(SPLITTERS[form](lines), columns, header, strict=strict)


def _separated(
    table: Iterator[tuple[int, list[str]]], columns: Sequence[str], header: Sequence[str], *, strict: bool
) -> Iterator[Record]:
    names = list(header) or next(table, (1, None))[1]
    if names is None:
        return
    places = [names.index(_present(column, names, 1)) for column in columns]
    if repeated := [column for column in columns if names.count(column) > 1]:
        raise RecordError(f"line 1: several columns are named {repeated[0]!r}: rename all but one of them")
    for line, fields in table:
        if strict and len(fields) != len(names):
            raise RecordError(f"line {line}: {len(fields)} columns, expected {len(names)}: {names}")
        if max(places) < len(fields):
            yield line, tuple(fields[place] for place in places)


def _tab_separated(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        yield number, line.rstrip("\r\n").split("\t")


def _comma_separated(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    table, start = csv.reader(lines, strict=True), 1
    try:
        for fields in table:
            yield start, fields
            start = table.line_num + 1
    except csv.Error as error:
        hint = "is a quote left open, one inside a text not doubled, or a row ended by a carriage return alone?"
        raise RecordError(f"line {start} is not CSV, {error}: {hint}") from error


def _json_lines(lines: Iterable[str], columns: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object)
        except ValueError as error:
            raise RecordError(f"line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise RecordError(f"line {number}: expected an object, found {line.strip()[:40]}")
        yield number, tuple(_text(record, _present(column, record, number), number) for column in columns)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):  # Python's json would silently take the last
        names = [name for name, _ in pairs]
        raise ValueError(f"several keys are named {next(name for name in names if names.count(name) > 1)!r}")
    return record


def _text(record: dict[str, Any], column: str, line: int) -> str:
    value = record[column]
    if value is None or value != value:  # NaN, as which Python's json writes a missing value of pandas
        return ""
    if isinstance(value, list | dict):
        raise RecordError(f"line {line}: column {column!r} holds {str(value)[:40]}, expected a text or a number")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!r}, half of a character"
        raise RecordError(f"line {line}: column {column!r} holds {half}: write both halves, or neither") from error
    return text


def _present(column: str, names: Collection[str], line: int) -> str:
    if column not in names:
        raise RecordError(f"line {line}: no column {column!r}; there are {str(list(names))[:200]}")
    return column


SPLITTERS = {".tsv": _tab_separated, ".csv": _comma_separated}
FORMS = (*SPLITTERS, ".jsonl")
