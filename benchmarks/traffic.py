"""Traffic as a service meets it: every route, arrivals by chance, mistakes, and now and then too much at once."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from export.parity import PASSAGES, SENTENCES

WAVE_SECONDS = 150.0  # from one busy spell to the next
BURST_SECONDS = WAVE_SECONDS
BURST = 14  # requests of the most sentences that one may have: more than the queue takes
MOST_SENTENCES = 512

Sentences = Sequence[str]


@dataclass(frozen=True)
class Flow:
    """Requests of one kind.

    Attributes:
        path: Where they go.
        a_second: How many arrive in the mean.
        body: Some sentences -> what is posted.
        most: Sentences in a request.
    """

    path: str
    a_second: float
    body: Callable[[Sentences], Mapping[str, object]]
    most: int = 4


FLOWS = (
    Flow("/encode", 30, lambda sentences: {"sentences": sentences}),
    Flow("/encode", 10, lambda sentences: {"sentences": sentences, "model": "teacher"}),
    Flow("/classify/sst2", 6, lambda sentences: {"sentences": sentences}),
    Flow("/v1/embeddings", 4, lambda sentences: {"input": sentences, "model": "student"}),
    Flow("/compare", 1, lambda sentences: {"sentences": sentences}),
    Flow("/encode", 0.3, lambda _: {"sentences": [PASSAGES[-1]]}),  # is truncated
    Flow("/encode", 0.4, lambda _: {"sentences": []}),  # 422
    Flow("/classify/unheard-of", 0.2, lambda sentences: {"sentences": sentences}),  # 404
)


async def send(port: int, seconds: float) -> None:
    """Send all of it to a port of this machine for some time, and wait for the last answer."""
    begun = time.monotonic()
    limits = httpx.Limits(max_connections=None)  # what waits, waits in the service
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits, trust_env=False) as service,
        asyncio.TaskGroup() as group,
    ):
        for flow in FLOWS:
            group.create_task(_flow(service, flow, begun, begun + seconds))
        group.create_task(_bursts(service, begun + seconds))


async def _flow(service: httpx.AsyncClient, flow: Flow, begun: float, stop: float) -> None:
    async with asyncio.TaskGroup() as group:
        while (now := time.monotonic()) < stop:
            busy = 1 - math.cos(2 * math.pi * (now - begun) / WAVE_SECONDS) / 2
            await asyncio.sleep(random.expovariate(busy * flow.a_second))
            sentences = random.sample(SENTENCES, random.randint(1, flow.most))
            group.create_task(service.post(flow.path, json=flow.body(sentences)))


async def _bursts(service: httpx.AsyncClient, stop: float) -> None:
    body = {"sentences": random.choices(SENTENCES, k=MOST_SENTENCES)}
    while time.monotonic() + BURST_SECONDS < stop:
        await asyncio.sleep(BURST_SECONDS)
        await asyncio.gather(*(service.post("/encode", json=body) for _ in range(BURST)))
