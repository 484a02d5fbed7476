"""Which rows make up the batch of which step: a pure function of lengths, seed and step, so that a run can resume."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Batches:
    """Shuffled batches of rows of one length, as `lengths` has it, the same for every run with the same seed."""

    def __init__(self, rows: Rows, lengths: Rows, seed: int, batch_rows: int, batch_tokens: int) -> None:
        """Plan batches over `rows`, whose lengths in tokens are `lengths`; both int64 (rows)."""
        order = np.argsort(lengths, kind="stable")
        cuts = np.flatnonzero(np.diff(lengths[order])) + 1
        groups = np.split(order, cuts)
        self._groups = [rows[group] for group in groups]
        self._sizes = [min(batch_rows, max(1, batch_tokens // int(lengths[group[0]]))) for group in groups]
        self._seed = seed
        self.per_epoch = sum(-(-len(group) // size) for group, size in zip(self._groups, self._sizes, strict=True))

    def rows(self, step: int) -> Rows:
        """Give the rows of one step, int64."""
        epoch, position = divmod(step, self.per_epoch)
        return self._epoch(epoch)[position]

    @lru_cache(maxsize=1)  # noqa: B019 - one plan for the life of a run
    def _epoch(self, epoch: int) -> list[Rows]:
        rng = np.random.default_rng([self._seed, epoch])
        batches: list[Rows] = []
        for group, size in zip(self._groups, self._sizes, strict=True):
            shuffled = rng.permutation(group)
            edges = [*range(0, len(group), size), len(group)]
            batches += [shuffled[low:high] for low, high in pairwise(edges)]
        return [batches[index] for index in rng.permutation(len(batches))]
