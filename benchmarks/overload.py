"""What happens at three times the load that the service can carry.

python -m benchmarks.overload [--seconds 30] [--model student]

Requests arrive at a fixed rate, whether or not earlier ones are answered. Nothing may be lost or mixed up: every
request is answered with 200, 429 or 504, and each vector is the one of its own sentence. What is admitted is answered
soon, and memory stays flat. This client keeps one core to itself, so that it measures the service's lateness and not
its own; the service has the others.
"""

import argparse
import asyncio
import base64
import os
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the checks are tiny, and the cores belong to the service

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.client import Client, cores_apart
from benchmarks.servers import Running, serving, sizes
from export.parity import SENTENCES

SENTENCES_PER_REQUEST = 32
CALLERS = 16
TRIAL_SECONDS = 5.0
CHECKED = 2  # vectors per answer: checking all would make the checks the bottleneck
WORDS = " ".join(SENTENCES).split()


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    seconds: list[float] = field(default_factory=list)  # of what was answered with 200, from wish to answer
    inside: list[float] = field(default_factory=list)  # of the same, from the service's first look at it
    mixed_up: int = 0


class Pool:
    """Sentences with the vectors that the service gives when each is alone."""

    def __init__(self, sentences: list[str], vectors: NDArray[np.float32]) -> None:
        """Keep both, in the same order."""
        self.sentences, self._vectors = sentences, vectors

    def is_right(self, chosen: list[int], answer: bytes) -> bool:
        """Whether some vectors of an answer are nearest to those of their own sentences."""
        packed = orjson.loads(answer)["embeddings"]
        return len(packed) == len(chosen) and all(
            (self._vectors @ np.frombuffer(base64.b64decode(packed[row]), "<f4")).argmax() == chosen[row]
            for row in random.sample(range(len(chosen)), CHECKED)
        )


async def make_pool(client: Client, model: str) -> Pool:
    """Encode 64 sentences of five to thirty words, each alone."""
    rng = random.Random(1)
    sentences = [" ".join(rng.choices(WORDS, k=rng.randint(5, 30))) for _ in range(64)]
    vectors = []
    for sentence in sentences:
        _, answer = await client.post("/encode", {"sentences": [sentence], "model": model})
        vectors.append(orjson.loads(answer)["embeddings"][0])
    return Pool(sentences, np.array(vectors, dtype=np.float32))


async def ask(client: Client, pool: Pool, model: str, tally: Tally) -> None:
    """Send one request and check its answer."""
    chosen = random.sample(range(len(pool.sentences)), SENTENCES_PER_REQUEST)
    sentences = [pool.sentences[place] for place in chosen]
    begun = time.perf_counter()
    content = {"sentences": sentences, "model": model, "encoding_format": "base64"}
    try:
        status, answer, inside = await client.timed_post("/encode", content)
    except (OSError, EOFError):
        tally.lost += 1
        return
    tally.statuses[status] += 1
    if status == 200:
        tally.seconds.append(time.perf_counter() - begun)
        tally.inside.append(inside)
        tally.mixed_up += not pool.is_right(chosen, answer)


async def capacity(client: Client, pool: Pool, model: str) -> float:
    """Measure requests per second with some callers that each wait for their answer."""
    stop, tally = time.perf_counter() + TRIAL_SECONDS, Tally()

    async def caller() -> None:
        while time.perf_counter() < stop:
            await ask(client, pool, model, tally)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return tally.statuses[200] / TRIAL_SECONDS


async def overload(client: Client, pool: Pool, model: str, rate: float, seconds: float) -> Tally:
    """Send `rate` requests a second, answered or not."""
    tally = Tally()
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            group.create_task(ask(client, pool, model, tally))
    return tally


def _spread(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds or [0]):.3f} s, slowest {max(seconds, default=0.0):.3f} s"


async def measure(service: Running, model: str, seconds: float) -> bool:
    """Print the figures; tells whether all is as promised."""
    pool = await make_pool(service.client, model)
    carried = await capacity(service.client, pool, model)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(sizes(service, time.monotonic() + seconds))
        tally = await overload(service.client, pool, model, 3 * carried, seconds)
    resident = watch.result()
    sent = int(3 * carried * seconds)
    answered = sum(tally.statuses[status] for status in (200, 429, 504))
    sys.stdout.write(
        f"capacity        {carried:,.0f} requests/s of {SENTENCES_PER_REQUEST} sentences ({model})\n"
        f"sent            {sent:,} in {seconds:g} s, at three times the capacity\n"
        f"answered        {', '.join(f'{status}: {count:,}' for status, count in sorted(tally.statuses.items()))}\n"
        f"lost, mixed up  {tally.lost}, {tally.mixed_up}\n"
        f"200s inside     {_spread(tally.inside)}; the service's own clock\n"
        f"200s for us     {_spread(tally.seconds)}; with the wait for a connection\n"
        f"resident        {resident[len(resident) // 3] / 2**20:,.0f} MiB after a third of the time, "
        f"{resident[-1] / 2**20:,.0f} MiB at last\n"
    )
    return answered == sent and not tally.mixed_up


async def main() -> int:
    """Print the figures; the exit code is 1 if anything was lost or mixed up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", choices=["student", "teacher"], default="student")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with cores_apart() as others, serving(options.models, others) as service:
        return 0 if await measure(service, options.model, options.seconds) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
