"""Several processes that train one model: each takes a share of every batch, and their gradients are added up.

torchrun --nproc-per-node 2 -m training distill ...

One process is the case of a single peer; nothing else in the training code knows the difference.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from training.batches import Rows

# The first peer labels the whole corpus while the others wait for it.
PATIENCE = timedelta(days=2)
CPU = torch.device("cpu")


class PeersError(RuntimeError):
    """The processes cannot be where they were asked to be; the message says what is there."""


@dataclass(frozen=True)
class Peers:
    """This process among its peers: `rank` from 0, of `count`, computing on `device`."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """Take this peer's part of a batch; it may be empty."""
        return rows[self.rank :: self.count]

    def add_up(self, parameters: Sequence[Tensor], *numbers: float) -> list[float]:
        """Add up the peers' gradients in place, and give the sums of their numbers."""
        if self.count == 1:
            return list(numbers)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return [float(number) for number in sums]

    def take_over(self, parameters: Iterable[Tensor]) -> None:
        """Have the first peer's values in all of them."""
        for parameter in parameters if self.count > 1 else ():
            distributed.broadcast(parameter.detach(), 0)

    @contextmanager
    def one_after_the_other(self) -> Iterator[None]:
        """Let the first peer pass alone, then the others: what it has written, they read."""
        if not self.first:
            distributed.barrier()
        yield
        if self.first and self.count > 1:
            distributed.barrier()


ALONE = Peers()


@contextmanager
def join_peers(device: str = "cpu") -> Iterator[Peers]:
    """Join the processes that torchrun started; alone without it.

    Args:
        device: `cpu`; `cuda`, of which each process takes its own GPU; or `auto`, GPUs where there are any.

    Raises:
        PeersError: GPUs were asked for, and there are not enough.
    """
    count, here = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and gpus < here:
        raise PeersError(f"training needs a GPU for each of {here} processes, and there are {gpus}: try --device cpu")
    on_gpu = device != "cpu" and gpus >= here
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else CPU
    if count == 1:
        yield Peers(device=chosen)
        return
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Peers(distributed.get_rank(), count, chosen)
    finally:
        distributed.destroy_process_group()
