"""A teacher's vectors on disk, one per distinct row of token ids, whichever corpus asked for it.

A store is a folder that only ever grows, so that a corpus that changes costs no more than its new rows:

    keys.u64     uint64 (rows)          a hash of each row's token ids
    vectors.f16  float16 (rows, width)  the teacher's vector of each
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


class StoreError(RuntimeError):
    """A store that cannot be written now; the message names its folder."""


def row_keys(tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> Keys:
    """Hash each row of token ids, 64 bits: of ten million rows, two are confused with a chance of 3 in a million.

    Args:
        tokens: int32, all rows' token ids.
        offsets: int64 (rows + 1).
    """
    data, edges = tokens.tobytes(), (offsets * tokens.itemsize).tolist()
    hashes = b"".join(blake2b(data[low:high], digest_size=8).digest() for low, high in pairwise(edges))
    return np.frombuffer(hashes, dtype=np.uint64)


class VectorStore:
    """One folder of vectors of one width."""

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.width = width
        self._keys, self._vectors = folder / "keys.u64", folder / "vectors.f16"
        self._keys.touch()
        self._vectors.touch()

    def __len__(self) -> int:
        """Count the rows that are whole: a kill may have left vectors without their keys, or half a row."""
        return min(self._keys.stat().st_size // 8, self._vectors.stat().st_size // (2 * self.width))

    @property
    def vectors(self) -> NDArray[np.float16]:
        """All vectors, read from disk when touched."""
        if not len(self):
            return np.empty((0, self.width), dtype=np.float16)
        return np.memmap(self._vectors, dtype=np.float16, mode="r", shape=(len(self), self.width))

    def places(self, keys: Keys) -> NDArray[np.int64]:
        """Give the row of each key, int64, -1 where there is none."""
        known = np.fromfile(self._keys, dtype=np.uint64, count=len(self))
        if not len(known):
            return np.full(len(keys), -1)
        order = np.argsort(known, kind="stable")
        found = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
        return np.where(known[found] == keys, found, -1)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for appending, and cut off what a kill left half-written.

        Raises:
            StoreError: another process holds it.
        """
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"another process is adding the teacher's vectors to {self.folder}") from error
            rows = len(self)
            os.truncate(self._keys, 8 * rows)
            os.truncate(self._vectors, 2 * self.width * rows)
            yield

    def append(self, keys: Keys, vectors: NDArray[np.float16]) -> None:
        """Add rows, while `writing`: keys (rows), vectors (rows, width). The vectors are on disk before their keys."""
        for file, content in ((self._vectors, vectors), (self._keys, keys)):
            with file.open("ab") as out:
                out.write(np.ascontiguousarray(content).tobytes())
                out.flush()
                os.fsync(out.fileno())
