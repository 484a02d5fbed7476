"""What the shadow costs the student: its latency with the shadow on and off, in turns.

python -m benchmarks.shadow_cost [--pairs 10] [--seconds 10] [--share 0.05] [--apart]

Needs models/student and models/teacher. Services with the same bundles, one with the shadow (whose teacher is at work
on at most --share of the cores) and two without, get the same steady load in turns of two seconds: requests of one
sentence at a fixed rate, half of what the service carries. After so many seconds of each a pair gives a ratio, on over
off, of the medians and of the 99th percentiles; whatever else the machine does meets both. The third service shows what
such a ratio is worth: off over off.

On a rented machine the 99th percentile may be the neighbours': a core that the hypervisor lends to them for a few
milliseconds is felt by one request in a hundred. Linux counts that time (steal, proc(5)). A round, which is a turn of
each service, is left out when it was more than a hundredth of the cores' in any of its turns. How many turns of each
service were so is printed: the shadow must not be what brings it about.

This client shares the cores with the services; `--apart` keeps the first to itself, which on two cores leaves the
services with one. Memory is that of a service's processes, at the end.
"""

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import psutil
from tqdm import tqdm

from app.settings import Settings
from benchmarks.client import Client, cores_apart
from benchmarks.servers import serving
from export.parity import SENTENCES

CALLERS = 8
TRIALS = 5
TRIAL_SECONDS = 5.0
TURN_SECONDS = 2.0
STOLEN = 0.01  # of the cores' time in a turn, at most
PATIENCE = 6  # rounds for each that is wanted
LIMITS = {"p50": 1.05, "p99": 1.25}
Latencies = dict[str, list[float]]  # by service, the seconds that each request took

OUTCOME = 'understudy_shadow_rows_total{outcome="'


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


async def load(client: Client, rate: float, seconds: float) -> list[float]:
    """Send `rate` requests a second, answered or not: the seconds that each took."""
    begun, calls = time.perf_counter(), []
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            calls.append(group.create_task(ask(client)))
    return [call.result() for call in calls]


def quantiles(taken: Sequence[float]) -> dict[str, float]:
    """Give what LIMITS names of some seconds."""
    ordered = sorted(taken)
    return {name: ordered[math.ceil(int(name[1:]) / 100 * len(ordered)) - 1] for name in LIMITS}


async def shadowed(client: Client) -> dict[str, int]:
    """Read how many rows were sampled, by what became of them."""
    text = (await client.get("/metrics"))[1].decode()
    lines = [line.removeprefix(OUTCOME) for line in text.splitlines() if line.startswith(OUTCOME)]
    return {line.partition('"')[0]: int(float(line.split()[-1])) for line in lines}


async def settled(client: Client) -> None:
    """Wait until the shadow has nothing left to do that could reach into another service's turn."""
    before: dict[str, int] = {}
    while (now := await shadowed(client)) != before:
        before = now
        await asyncio.sleep(1)


def stolen() -> float:
    """Read how many seconds of the cores' the hypervisor gave to others while there was work here."""
    return psutil.cpu_times().steal


async def measure(models: Path, cores: set[int] | None, pairs: int, seconds: float, share: float) -> bool:
    """Print the figures for a service on some cores, or on all; tells whether the ratios are as promised."""
    patient = {"lag_seconds": 10}  # a busy machine makes figures worse, but nothing is refused
    with (
        serving(models, cores, shadow_cpu_share=share, **patient) as on,
        serving(models, cores, shadow_rate=0, **patient) as off,
        serving(models, cores, shadow_rate=0, **patient) as again,
    ):
        clients = {"on": on.client, "off": off.client, "off again": again.client}
        carried = statistics.median([await capacity(off.client) for _ in range(TRIALS)])
        off.client.close()
        turns = max(1, round(seconds / TURN_SECONDS))
        rounds, disturbed = await rounds_of(clients, carried / 2, pairs * turns)
        rows, held = await shadowed(on.client), (on.resident_bytes(), off.resident_bytes())
    calm = [latencies for latencies, robbed in zip(rounds, disturbed, strict=True) if not robbed]
    stolen_of = {name: sum(name in robbed for robbed in disturbed) for name in clients}
    sys.stdout.write(
        f"capacity     {carried:,.0f} requests/s of one sentence; the load is half of that\n"
        f"rounds       {len(calm)} calm ones of {len(rounds)}; the hypervisor took more than {STOLEN:.0%} of the cores "
        f"in {', '.join(f'{count} turns {name}' for name, count in stolen_of.items())}\n"
    )
    starts = range(0, len(calm) - turns + 1, turns)
    within = report([merged(calm[start : start + turns]) for start in starts])
    enough = len(starts) == pairs
    sent = int(carried / 2 * TURN_SECONDS) * len(rounds)
    sys.stdout.write(
        f"memory       {held[0] / 2**20:,.0f} MiB with the shadow, {held[1] / 2**20:,.0f} MiB without\n"
        f"shadow rows  {', '.join(f'{name}: {count:,}' for name, count in rows.items())}; of {sent:,} sent\n"
    )
    return within and enough


async def rounds_of(clients: Mapping[str, Client], rate: float, wanted: int) -> tuple[list[Latencies], list[list[str]]]:
    """Take rounds until so many were calm, or patience ends: each one's latencies, and who was disturbed in it."""
    rounds: list[Latencies] = []
    disturbed: list[list[str]] = []
    with tqdm(total=wanted, desc="calm rounds") as bar:
        while bar.n < wanted and len(rounds) < wanted * PATIENCE:
            latencies, robbed = await one_round(clients, rate, len(rounds))
            rounds.append(latencies)
            disturbed.append(robbed)
            bar.update(not robbed)
    return rounds, disturbed


async def one_round(clients: Mapping[str, Client], rate: float, number: int) -> tuple[Latencies, list[str]]:
    """Give each service a turn: the seconds of its requests, and which ones' turns were disturbed."""
    latencies, robbed = {}, []
    allowed = STOLEN * TURN_SECONDS * (os.cpu_count() or 1)
    for name in rotated(list(clients), number):
        before = stolen()
        latencies[name] = await load(clients[name], rate, TURN_SECONDS)
        if stolen() - before > allowed:
            robbed.append(name)
        if name == "on":
            await settled(clients[name])
        clients[name].close()  # the service would, by the next turn
    return latencies, robbed


def merged(rounds: Sequence[Latencies]) -> dict[str, dict[str, float]]:
    """Make a pair of some rounds: by service, what LIMITS names."""
    return {name: quantiles([each for one in rounds for each in one[name]]) for name in rounds[0]}


def report(pairs: Sequence[Mapping[str, Mapping[str, float]]]) -> bool:
    """Print the ratios; tells whether both are as promised, which those of no pairs are not."""
    if not pairs:
        sys.stdout.write("the machine was not calm for long enough to make a pair\n")
        return False
    within = True
    for name, limit in LIMITS.items():
        here, there = (statistics.median(pair[service][name] for pair in pairs) for service in ("on", "off"))
        ratios, noise = ([pair[one][name] / pair["off"][name] for pair in pairs] for one in ("on", "off again"))
        within = within and statistics.median(ratios) <= limit
        sys.stdout.write(
            f"{name}          {here * 1e3:.2f} ms with the shadow, {there * 1e3:.2f} ms without\n"
            f"  on/off     {summary(ratios)} over {len(pairs)} pairs, at most {limit}\n"
            f"  off/off    {summary(noise)}\n"
        )
    return within


def rotated(names: list[str], turn: int) -> list[str]:
    """Give each its turn at being first."""
    first = turn % len(names)
    return names[first:] + names[:first]


def summary(ratios: Sequence[float]) -> str:
    """Give their median, and the least and the largest."""
    return f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


async def main() -> int:
    """Print the figures; the exit code is 1 if the shadow is felt, or the machine was not calm for long enough."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shadow_cost", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=Settings.model_fields["shadow_cpu_share"].default)
    parser.add_argument("--apart", action="store_true", help="keep the first core to this client")
    options = parser.parse_args()
    with cores_apart() if options.apart else nullcontext() as others:
        return 0 if await measure(options.models, others, options.pairs, options.seconds, options.share) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
