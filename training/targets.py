"""The teacher's vectors for a corpus, computed once and kept on disk.

A cache is a folder named by its fingerprint (teacher, tokenizer, texts, length limit), with rows sorted by length:

    tokens.npy   int32 (all tokens)    the rows' token ids, one after the other
    offsets.npy  int64 (rows + 1)      where each row starts
    vectors.npy  float16 (rows, width) the teacher's vectors; only the first `done` rows are valid
    done         how many rows are labelled; a killed run goes on from there
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from training.encoding import batches_of_one_length, tokenize
from training.teacher import Teacher

BATCH_TOKENS = 4096
ROWS_BETWEEN_SAVES = 8192
TEXTS_AT_ONCE = 50_000
CHECKED_ROWS = 32
# bfloat16 labels differ from float32 ones by 1e-5 in cosine; a wrong teacher or row differs by far more.
CHECKED_COSINE = 0.999


class TargetsError(RuntimeError):
    """A cache that does not hold what this teacher answers; the message names the folder to delete."""


@dataclass(frozen=True)
class Targets:
    """Rows sorted by length, with the teacher's vector of each.

    Attributes:
        tokens: int32, all rows' token ids.
        offsets: int64 (rows + 1).
        vectors: float16 (rows, width).
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    vectors: NDArray[np.float16]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, ascending."""
        return np.diff(self.offsets)

    def row(self, row: int) -> list[int]:
        """Give the token ids of one row."""
        ids: list[int] = self.tokens[self.offsets[row] : self.offsets[row + 1]].tolist()
        return ids

    def input_ids(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Give the token ids of rows of one length, int64 (rows, tokens)."""
        length = self.offsets[rows[0] + 1] - self.offsets[rows[0]]
        positions = self.offsets[rows][:, None] + np.arange(length)
        return torch.from_numpy(self.tokens[positions].astype(np.int64))


def label(teacher: Teacher, texts: Sequence[str], max_tokens: int, cache: Path) -> Targets:
    """Give the teacher's vectors for `texts`, from the cache where they are there already.

    Raises:
        TargetsError: when the cache answers otherwise than the teacher.
    """
    tokens, offsets = sorted_rows(teacher, texts, max_tokens)
    folder = cache / "targets" / fingerprint(teacher, tokens, offsets)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "offsets.npy", offsets)
    vectors = _open_vectors(folder / "vectors.npy", (len(offsets) - 1, teacher.width))
    targets = Targets(tokens, offsets, vectors)
    _fill(teacher, targets, folder)
    _check(teacher, targets, folder)
    return targets


def sorted_rows(teacher: Teacher, texts: Sequence[str], max_tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tokenise texts and sort them by length: tokens int32 (all tokens) and offsets int64 (texts + 1)."""
    tokens, lengths = [], []
    for first in range(0, len(texts), TEXTS_AT_ONCE):  # Python's integers would take ten times the memory
        rows = tokenize(teacher.tokenizer, texts[first : first + TEXTS_AT_ONCE], max_tokens)
        lengths.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
        tokens.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths[-1].sum())))
    all_tokens, all_lengths = np.concatenate(tokens), np.concatenate(lengths)
    starts = np.cumsum(all_lengths) - all_lengths
    order = np.argsort(all_lengths, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(all_lengths[order])])
    places = np.arange(offsets[-1]) + np.repeat(starts[order] - offsets[:-1], all_lengths[order])
    return all_tokens[places], offsets


def fingerprint(teacher: Teacher, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> str:
    """Identify a cache by all that decides its content."""
    lengths = np.diff(offsets).astype(np.int32)
    led_by_length = np.insert(tokens, offsets[:-1], lengths)
    return hashlib.sha256(teacher.fingerprint.encode() + led_by_length.tobytes()).hexdigest()[:16]


@torch.inference_mode()
def encode_rows(teacher: Teacher, targets: Targets, rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Encode rows of one length with the teacher, float16 (rows, width)."""
    with torch.autocast("cpu", torch.bfloat16):
        vectors = teacher.encoder(targets.input_ids(rows))
    result: NDArray[np.float16] = vectors.float().numpy().astype(np.float16)
    return result


def _fill(teacher: Teacher, targets: Targets, folder: Path) -> None:
    done = _read_done(folder)
    if done == len(targets):
        return
    pending = [rows[rows >= done] for rows in batches_of_one_length(targets.lengths, BATCH_TOKENS) if rows[-1] >= done]
    saved = done
    bar = tqdm(
        total=int(targets.offsets[-1]), initial=int(targets.offsets[done]), unit="tok", desc="teacher", unit_scale=True
    )
    # One batch a thread: threads that share a batch stall as soon as another process wants a core.
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as workers:
        for rows, vectors in zip(pending, workers.map(partial(encode_rows, teacher, targets), pending), strict=True):
            targets.vectors[rows] = vectors
            done = int(rows[-1]) + 1
            bar.update(int(targets.offsets[done] - targets.offsets[rows[0]]))
            if done - saved >= ROWS_BETWEEN_SAVES or done == len(targets):
                _save_done(targets.vectors, done, folder)
                saved = done
    bar.close()


def _check(teacher: Teacher, targets: Targets, folder: Path) -> None:
    for row in np.linspace(0, len(targets) - 1, min(CHECKED_ROWS, len(targets))).astype(np.int64):
        fresh = encode_rows(teacher, targets, np.asarray([row]))[0].astype(np.float32)
        kept = targets.vectors[row].astype(np.float32)
        cosine = float(fresh @ kept / (np.linalg.norm(fresh) * np.linalg.norm(kept) + 1e-12))
        if not cosine >= CHECKED_COSINE:
            message = f"row {row} of the cached teacher vectors has cosine {cosine:.4f} to the teacher: delete {folder}"
            raise TargetsError(message)


def _open_vectors(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    mode = "r+" if path.is_file() else "w+"
    vectors: NDArray[np.float16] = np.lib.format.open_memmap(path, mode=mode, dtype=np.float16, shape=shape)
    return vectors


def _read_done(folder: Path) -> int:
    file = folder / "done"
    return int(json.loads(file.read_text())) if file.is_file() else 0


def _save_done(vectors: NDArray[np.float16], done: int, folder: Path) -> None:
    if isinstance(vectors, np.memmap):
        vectors.flush()
    draft = folder / "done.draft"
    draft.write_text(json.dumps(done))
    draft.replace(folder / "done")
