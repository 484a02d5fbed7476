"""Corpus files in, distinct texts out: sampled lines, and passages of consecutive lines."""

import gzip
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from training.recipe import Corpus, Source

OPENERS: dict[str, Callable[..., IO[str]]] = {".txt": open, ".gz": gzip.open, ".xz": lzma.open}
PASSAGE_LINES = (2, 6)


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the file and what was expected."""


def read_lines(path: Path) -> list[str]:
    """Read the non-empty lines of a plain, gzip or xz text file, in order.

    Raises:
        CorpusError: when the file is missing, is of another kind, is damaged, or is not UTF-8.
    """
    opener = OPENERS.get(path.suffix)
    if opener is None:
        raise CorpusError(f"{path}: expected a file that ends in {', '.join(OPENERS)}")
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            return [text for line in lines if (text := line.strip())]
    except FileNotFoundError as error:
        raise CorpusError(f"{path} is missing: DATA_DIR (or --data) names the folder that holds the corpus") from error
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error


def sample_texts(lines: Sequence[str], source: Source, rng: np.random.Generator) -> list[str]:
    """Draw `source.sentences` lines without repeats, then `source.passages` runs of neighbouring lines."""
    chosen = np.sort(rng.permutation(len(lines))[: source.sentences])
    low, high = PASSAGE_LINES
    starts = rng.integers(0, max(1, len(lines) - high), source.passages)
    sizes = rng.integers(low, high + 1, source.passages)
    passages = [" ".join(lines[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
    return [lines[index] for index in chosen] + passages


def read_corpus(corpus: Corpus, data: Path, seed: int) -> list[str]:
    """Sample every source of a recipe; equal texts are kept once, so held-out rows are never trained on."""
    texts: dict[str, None] = {}
    for number, source in enumerate(corpus.sources):
        rng = np.random.default_rng([seed, number])
        texts |= dict.fromkeys(sample_texts(read_lines(data / source.path), source, rng))
    return list(texts)
