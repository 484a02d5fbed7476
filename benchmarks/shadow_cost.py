"""What the shadow costs the student: its latency with the shadow on and off, in turns.

python -m benchmarks.shadow_cost [--pairs 10] [--seconds 10] [--apart]     needs models/student and models/teacher

Two services with the same bundles, one with the shadow and one without, get the same steady load one after the other:
requests of one sentence at a fixed rate, half of what the service carries. Each pair gives a ratio, on over off, of the
medians and of the 99th percentiles; whatever else the machine does meets both. This client shares the cores with the
service; `--apart` keeps the first to itself, which on two cores leaves the service with one.
"""

import argparse
import asyncio
import math
import random
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import Client, cores_apart
from benchmarks.servers import serving
from export.parity import SENTENCES

CALLERS = 8
TRIAL_SECONDS = 5.0
LIMITS = {"p50": 1.05, "p99": 1.25}
OUTCOME = 'understudy_shadow_rows_total{outcome="'


@dataclass(frozen=True)
class Latency:
    """Seconds, as the client sees them."""

    p50: float
    p99: float


async def ask(client: Client) -> float:
    """Send one sentence: the seconds until its vector is there."""
    begun = time.perf_counter()
    status, _ = await client.post("/encode", {"sentences": [random.choice(SENTENCES)]})
    if status != 200:
        raise RuntimeError(f"/encode answered {status}")
    return time.perf_counter() - begun


async def capacity(client: Client) -> float:
    """Measure requests per second with some callers that each wait for their answer."""
    stop = time.perf_counter() + TRIAL_SECONDS

    async def caller() -> int:
        answered = 0
        while time.perf_counter() < stop:
            await ask(client)
            answered += 1
        return answered

    return sum(await asyncio.gather(*(caller() for _ in range(CALLERS)))) / TRIAL_SECONDS


async def load(client: Client, rate: float, seconds: float) -> Latency:
    """Send `rate` requests a second, answered or not."""
    begun, calls = time.perf_counter(), []
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            calls.append(group.create_task(ask(client)))
    taken = sorted(call.result() for call in calls)
    return Latency(statistics.median(taken), taken[math.ceil(0.99 * len(taken)) - 1])


async def shadowed(client: Client) -> dict[str, int]:
    """Read how many rows were sampled, by what became of them."""
    text = (await client.get("/metrics"))[1].decode()
    lines = [line.removeprefix(OUTCOME) for line in text.splitlines() if line.startswith(OUTCOME)]
    return {line.partition('"')[0]: int(float(line.split()[-1])) for line in lines}


async def settled(client: Client) -> None:
    """Wait until the shadow has nothing left to do that could reach into the other service's turn, and hang up."""
    before: dict[str, int] = {}
    while (now := await shadowed(client)) != before:
        before = now
        await asyncio.sleep(1)
    client.close()  # the service would, by the next turn


async def measure(models: Path, cores: set[int] | None, pairs: int, seconds: float) -> bool:
    """Print the figures for a service on some cores, or on all; tells whether both ratios are as promised."""
    patient = {"lag_seconds": 10}  # a busy machine makes figures worse, but nothing is refused
    with serving(models, cores, **patient) as on, serving(models, cores, shadow_rate=0, **patient) as off:
        carried = await capacity(off.client)
        await settled(on.client)
        begun = await shadowed(on.client)
        ratios: dict[str, list[float]] = {name: [] for name in LIMITS}
        found: dict[Client, list[Latency]] = {on.client: [], off.client: []}
        for number in range(pairs):
            for client in (on.client, off.client)[:: 1 if number % 2 else -1]:
                found[client].append(await load(client, carried / 2, seconds))
                await settled(client)
            for name, each in ratios.items():
                each.append(getattr(found[on.client][-1], name) / getattr(found[off.client][-1], name))
        rows = {outcome: count - begun[outcome] for outcome, count in (await shadowed(on.client)).items()}
    sys.stdout.write(f"capacity     {carried:,.0f} requests/s of one sentence; the load is half of that\n")
    for name, limit in LIMITS.items():
        here, there = (
            statistics.median(getattr(each, name) for each in found[client]) for client in (on.client, off.client)
        )
        sys.stdout.write(
            f"{name}          {here * 1e3:.2f} ms with the shadow, {there * 1e3:.2f} ms without; on/off median "
            f"{statistics.median(ratios[name]):.3f} ({min(ratios[name]):.3f} to {max(ratios[name]):.3f}) over {pairs} "
            f"pairs, at most {limit}\n"
        )
    sent = int(carried / 2 * seconds) * pairs
    sys.stdout.write(
        f"shadow rows  {', '.join(f'{name}: {count:,}' for name, count in rows.items())}; of {sent:,} sent\n"
    )
    return all(statistics.median(ratios[name]) <= limit for name, limit in LIMITS.items())


async def main() -> int:
    """Print the figures; the exit code is 1 if the shadow is felt."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shadow_cost", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--apart", action="store_true", help="keep the first core to this client")
    options = parser.parse_args()
    with cores_apart() if options.apart else nullcontext() as others:
        return 0 if await measure(options.models, others, options.pairs, options.seconds) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
