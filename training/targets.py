"""What the student is to reproduce: a corpus as rows of token ids, with the teacher's vector of each."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.encoding import batches_of_one_length, device_of, tokenize
from training.precision import autocast
from training.progress import Progress
from training.store import Keys, VectorStore, row_keys
from training.teacher import Teacher

BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 2**17
ROWS_BETWEEN_SAVES = 8192
TEXTS_AT_ONCE = 50_000
CHECKED_ROWS = 32
# bfloat16 labels differ from float32 ones by 1e-5 in cosine; a wrong teacher or row differs by far more.
CHECKED_COSINE = 0.999


class TargetsError(RuntimeError):
    """Stored vectors that are not what this teacher answers; the message names the folder to delete."""


@dataclass(frozen=True)
class Tokens:
    """Distinct rows of token ids, sorted by length.

    Attributes:
        ids: int32, all rows' token ids, one row after the other.
        offsets: int64 (rows + 1), where each row starts.
        texts: int64 (rows), the text that each row came from.
        keys: uint64 (rows), see `row_keys`.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    texts: NDArray[np.int64]
    keys: Keys

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.texts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, ascending."""
        return np.diff(self.offsets)

    def row(self, row: int) -> list[int]:
        """Give the token ids of one row."""
        ids: list[int] = self.ids[self.offsets[row] : self.offsets[row + 1]].tolist()
        return ids

    def input_ids(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Give the token ids of rows of one length, int64 (rows, tokens)."""
        length = self.offsets[rows[0] + 1] - self.offsets[rows[0]]
        positions = self.offsets[rows][:, None] + np.arange(length)
        return torch.from_numpy(self.ids[positions].astype(np.int64))

    def flat(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the token ids of rows of any lengths, one row after the other, and where each starts: both int64."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(lengths.sum()) + np.repeat(self.offsets[rows] - starts, lengths)
        return torch.from_numpy(self.ids[positions].astype(np.int64)), torch.from_numpy(starts)


@dataclass(frozen=True)
class Targets:
    """Rows and their teacher's vectors: row r's is `vectors[places[r]]`, float16, read from disk when touched."""

    tokens: Tokens
    vectors: NDArray[np.float16]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.tokens)

    def expected(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give the teacher's vectors of rows, float32 (rows, width)."""
        vectors: NDArray[np.float32] = self.vectors[self.places[rows]].astype(np.float32)
        return vectors


def label(teacher: Teacher, texts: Sequence[str], max_tokens: int, cache: Path) -> Targets:
    """Give the teacher's vectors for `texts`, from the cache where they are there already.

    Texts of equal token ids make one row. A killed labelling goes on where it was.

    Raises:
        StoreError: another process is writing to the cache.
        TargetsError: the cache answers otherwise than the teacher.
    """
    tokens = distinct_rows(teacher, texts, max_tokens)
    store = VectorStore(cache / "targets" / teacher.fingerprint[:16], teacher.width)
    if (store.places(tokens.keys) < 0).any():
        with store.writing():
            _fill(teacher, tokens, store)
    targets = Targets(tokens, store.vectors, store.places(tokens.keys))
    _check(teacher, targets, store.folder)
    return targets


def distinct_rows(teacher: Teacher, texts: Sequence[str], max_tokens: int) -> Tokens:
    """Tokenise texts, keep the first of those with equal token ids, and sort by length."""
    tokens, lengths = [], []
    for first in range(0, len(texts), TEXTS_AT_ONCE):  # Python's integers would take ten times the memory
        rows = tokenize(teacher.tokenizer, texts[first : first + TEXTS_AT_ONCE], max_tokens)
        lengths.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
        tokens.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths[-1].sum())))
    all_tokens, all_lengths = np.concatenate(tokens), np.concatenate(lengths)
    edges = np.concatenate([[0], np.cumsum(all_lengths)])
    keys, firsts = np.unique(row_keys(all_tokens, edges), return_index=True)
    order = np.lexsort((firsts, all_lengths[firsts]))
    chosen = firsts[order]
    offsets = np.concatenate([[0], np.cumsum(all_lengths[chosen])])
    places = np.arange(offsets[-1]) + np.repeat(edges[chosen] - offsets[:-1], all_lengths[chosen])
    return Tokens(all_tokens[places], offsets, chosen, keys[order])


@torch.inference_mode()
def encode_rows(teacher: Teacher, tokens: Tokens, rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Encode rows of one length with the teacher, float16 (rows, width)."""
    device = device_of(teacher.encoder)
    with autocast(device):
        vectors = teacher.encoder(tokens.input_ids(rows).to(device))
    result: NDArray[np.float16] = vectors.float().cpu().numpy().astype(np.float16)
    return result


def _fill(teacher: Teacher, tokens: Tokens, store: VectorStore) -> None:
    missing = np.flatnonzero(store.places(tokens.keys) < 0)
    most = BATCH_TOKENS if device_of(teacher.encoder).type == "cpu" else GPU_BATCH_TOKENS
    batches = [missing[batch] for batch in batches_of_one_length(tokens.lengths[missing], most)]
    total = int(tokens.lengths.sum())
    known = total - int(tokens.lengths[missing].sum())
    progress = Progress("teacher", total, known, "tok", store.folder / "progress.jsonl")
    rows: list[NDArray[np.int64]] = []
    vectors: list[NDArray[np.float16]] = []
    # One batch a thread: threads that share a batch stall as soon as another process wants a core.
    threads = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    with progress, threads as workers:
        for batch, answer in zip(batches, workers.map(partial(encode_rows, teacher, tokens), batches), strict=True):
            rows.append(batch)
            vectors.append(answer)
            progress.add(int(tokens.lengths[batch].sum()))
            if sum(map(len, rows)) >= ROWS_BETWEEN_SAVES or batch is batches[-1]:
                store.append(tokens.keys[np.concatenate(rows)], np.concatenate(vectors))
                rows.clear()
                vectors.clear()


def _check(teacher: Teacher, targets: Targets, folder: Path) -> None:
    for row in np.linspace(0, len(targets) - 1, min(CHECKED_ROWS, len(targets))).astype(np.int64):
        fresh = encode_rows(teacher, targets.tokens, np.asarray([row]))[0].astype(np.float32)
        kept = targets.expected(np.asarray([row]))[0]
        cosine = float(fresh @ kept / (np.linalg.norm(fresh) * np.linalg.norm(kept) + 1e-12))
        if not cosine >= CHECKED_COSINE:
            message = f"row {row} of the cached teacher vectors has cosine {cosine:.4f} to the teacher: delete {folder}"
            raise TargetsError(message)
