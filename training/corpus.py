"""Corpus files in, distinct texts out: sampled lines, passages of consecutive lines, and what grammars make."""

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from training.grammar import GrammarError, compose, read_grammar
from training.recipe import Corpus, Source
from training.records import FORMS, RecordError, read_records

PASSAGE_LINES = (2, 6)
SHIPPED_GRAMMARS = Path(__file__).with_name("grammars")
WORD = re.compile(r"\w+")
COMPRESSED: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".xz": lzma.open}


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the file and what was expected."""


def read_lines(path: Path, column: str | None = None) -> list[str]:
    """Read the texts of a file that are not empty, in order.

    Args:
        path: `.txt`, `.csv`, `.tsv` or `.jsonl`, each also as `.gz` or `.xz`; or `.parquet`.
        column: Where the text stands; for all but `.txt`.

    Raises:
        CorpusError: the file is missing, is of another kind, is damaged, is not UTF-8, lacks the column, or holds no
            text.
    """
    try:
        texts = [text for found in _texts(path, column) if (text := found.strip())]
    except FileNotFoundError as error:
        raise CorpusError(f"{path} is missing: DATA_DIR (or --data) names the folder that holds the corpus") from error
    except RecordError as error:
        raise CorpusError(f"{path}, {error}") from error
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error
    if not texts:
        raise CorpusError(f"{path} holds no text")
    return texts


def sample_texts(lines: Sequence[str], source: Source, rng: np.random.Generator) -> list[str]:
    """Draw `source.sentences` lines without repeats, then `source.passages` runs of neighbouring lines."""
    chosen = np.sort(rng.permutation(len(lines))[: source.sentences])
    low, high = PASSAGE_LINES
    starts = rng.integers(0, max(1, len(lines) - high), source.passages)
    sizes = rng.integers(low, high + 1, source.passages)
    passages = [" ".join(lines[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
    return [lines[index] for index in chosen] + passages


def read_corpus(corpus: Corpus, data: Path, seed: int) -> dict[str, int]:
    """Sample every source of a recipe: each distinct text, and how often a pass over the corpus shows it."""
    texts: dict[str, int] = {}
    for number, source in enumerate(corpus.sources):
        file = source_file(source, data)
        if source.is_grammar:
            drawn = compose_texts(file, source.sentences, seed)
        else:
            drawn = sample_texts(read_lines(file, source.column), source, np.random.default_rng([seed, number]))
        texts |= dict.fromkeys(drawn, source.repeats)
    if never := {words for one in corpus.never for words in map(_words, read_lines(data / one.path, one.column))}:
        texts = {text: repeats for text, repeats in texts.items() if _words(text) not in never}
    if not texts:
        raise CorpusError("the recipe draws no sentence and no passage from any source")
    return texts


def _words(text: str) -> str:
    return " ".join(WORD.findall(text.casefold()))


def source_file(source: Source, data: Path) -> Path:
    """Give a source's file: below the data folder, or for a grammar that is not there, among those that ship."""
    own = data / source.path
    return SHIPPED_GRAMMARS / source.path if source.is_grammar and not own.is_file() else own


def compose_texts(path: Path, count: int, seed: int) -> list[str]:
    """Make distinct texts by a grammar, fewer than `count` where it cannot make as many.

    Raises:
        CorpusError: the file is missing, or is no grammar.
    """
    try:
        return list(islice(compose(read_grammar(path), seed), count))
    except FileNotFoundError as error:
        shipped = ", ".join(sorted(grammar.name for grammar in SHIPPED_GRAMMARS.glob("*.toml")))
        raise CorpusError(f"no grammar {path.name} in the data folder, nor among those that ship: {shipped}") from error
    except (OSError, GrammarError) as error:
        raise CorpusError(f"{path}: {error}") from error


def _texts(path: Path, column: str | None) -> Iterator[str]:
    if path.suffix == ".parquet":
        yield from _parquet(path, column)
        return
    compressed = path.suffix in COMPRESSED
    opener = COMPRESSED[path.suffix] if compressed else open
    form = path.with_suffix("").suffix if compressed else path.suffix
    if form not in (".txt", *FORMS):
        raise ValueError(f"expected .txt, {', '.join(FORMS)}, also with .gz or .xz, or .parquet")
    with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
        if form == ".txt":
            yield from lines
        elif column is None:
            raise ValueError("it has columns, and `column` in the recipe names that of the text")
        else:
            yield from (text for _, (text,) in read_records(form, lines, [column]))


def _parquet(path: Path, column: str | None) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("Parquet needs another package: pip install pyarrow") from error
    file = parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise ValueError(f"no column {column!r}; there are {file.schema_arrow.names}")
    for batch in file.iter_batches(columns=[column]):
        for value in batch.column(0).to_pylist():
            if not isinstance(value, str | None):
                raise ValueError(f"column {column!r} holds {batch.schema.types[0]}, expected texts")
            yield value or ""
