"""Does memory stay flat? Requests of every length for minutes, longer ones than the model takes among them.

python -m benchmarks.soak [--seconds 600]

The resident size is taken each second. Its median in the last tenth of the run may be 3 % above its median in the tenth
that begins at minute 2 (in shorter runs, at a third).
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import orjson

from benchmarks.client import Client
from benchmarks.servers import Running, serving, sizes

CALLERS = 8
LONGEST = 512
SETTLED_SECONDS = 120.0
ALLOWED_GROWTH = 0.03


async def caller(client: Client, models: list[str], stop: float, statuses: Counter[int]) -> None:
    """Send one request after another, each with a few sentences of 1 to 512 words."""
    while time.monotonic() < stop:
        sentences = [" ".join(random.choices("abcdefghij", k=random.randint(1, LONGEST))) for _ in range(4)]
        sentences = sentences[: random.randint(1, 4)]
        status, _ = await client.post("/encode", {"sentences": sentences, "model": random.choice(models)})
        statuses[status] += 1


def growth(found: list[int], settled: int) -> float:
    """How much larger the last tenth is than the tenth that begins at `settled`, as a share."""
    tenth = max(1, len(found) // 10)
    early, late = found[settled : settled + tenth], found[-tenth:]
    return statistics.median(late) / statistics.median(early) - 1


async def measure(service: Running, seconds: float) -> bool:
    """Print the figures; tells whether memory stayed flat."""
    _, listed = await service.client.get("/v1/models")
    models = [model["id"] for model in orjson.loads(listed)["data"]]
    stop, statuses = time.monotonic() + seconds, Counter[int]()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(sizes(service, stop))
        for _ in range(CALLERS):
            group.create_task(caller(service.client, models, stop, statuses))
    found = watch.result()
    settled = int(min(SETTLED_SECONDS, seconds / 3))
    grown = growth(found, settled)
    sys.stdout.write(
        f"models          {', '.join(models)}\n"
        f"answered        {', '.join(f'{status}: {count:,}' for status, count in sorted(statuses.items()))}\n"
        f"resident        {found[settled] / 2**20:,.0f} MiB after {settled} s, {found[-1] / 2**20:,.0f} MiB at last\n"
        f"growth          {grown:+.1%}; {ALLOWED_GROWTH:.0%} is allowed\n"
    )
    return grown < ALLOWED_GROWTH and set(statuses) == {200}


async def main() -> int:
    """Print the figures; the exit code is 1 if memory grew or a request was not answered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    with serving(options.models) as service:
        return 0 if await measure(service, options.seconds) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
