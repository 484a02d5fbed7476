"""How many sentences a second each server answers over HTTP, and how soon, side by side in one run.

Closed loop: wrk (Debian: apt install wrk) keeps some connections busy, each sending its next request once the last is
answered. Open loop: requests leave at a fixed rate, whether or not earlier ones are answered, and each is timed from
when it should have left, so that a stall is not overlooked (coordinated omission).
"""

import asyncio
import json
import math
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from app.bundle import MODEL, TOKENIZER, read_bundle
from app.cores import usable_cores
from app.session import EncoderSession
from app.settings import Settings
from app.tokenizer import Tokenizer
from benchmarks.client import Client, program
from benchmarks.report import Cell, Table, lead, spread
from benchmarks.servers import UNDERSTUDY, Peer, PeerError, Running, others, post, running, teacher_folder, understudy

CLOSED = ((1, 1), (16, 1), (64, 1), (1, 32), (4, 32))  # connections, sentences per request
RATES = (50, 200, 1000)  # requests per second of one sentence
ROUNDS = 3
SECONDS = 4
OPEN_SECONDS = 6.0
HEAD_START = 1.0  # to line up all requests before the first is due
BODIES = 32  # distinct requests, sent in turn
BATCH_ROWS = Settings.model_fields["batch_rows"].default
EMPTY = "its empty route"

# Two cores hold both wrk and the server; wrk alone takes a few per cent of one.
SCRIPT = """
local bodies = {{{bodies}}}
local requests, turn = {{}}, 0
init = function()
  for place, body in ipairs(bodies) do
    requests[place] = wrk.format("{method}", "{path}", {{["Content-Type"] = "application/json"}}, body)
  end
end
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format('{{"seconds": %f, "answered": %d, "p50": %f, "p99": %f, "failed": %d}}',
    summary.duration / 1e6, summary.requests, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Round:
    """One closed loop of a few seconds; times in seconds, `cpu` for 1,000 sentences."""

    requests_per_second: float
    p50: float
    p99: float
    failed: int
    cpu: float


def closed_loop(server: Running, connections: int, requests: Sequence[Sequence[str]], *, empty: bool = False) -> Round:
    """Load a server with wrk for a while.

    Raises:
        RuntimeError: wrk is not installed.
        PeerError: it prints no result.
    """
    bodies = [""] if empty else [json.dumps(server.peer.body(sentences)) for sentences in requests]
    script = SCRIPT.format(
        bodies=", ".join(map(json.dumps, bodies)),  # a JSON string of ASCII is a Lua string
        method="GET" if empty else "POST",
        path="/health/live" if empty else server.peer.path,
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        before = server.cpu_seconds()
        command = [program("wrk"), "-t1", f"-c{connections}", f"-d{SECONDS}", "--timeout", "30s", "-s", file.name]
        ran = subprocess.run([*command, f"http://127.0.0.1:{server.port}"], capture_output=True, text=True)
    found = re.search(r"\{.*\}", ran.stdout)
    if ran.returncode or found is None:
        raise PeerError(f"wrk failed: {(ran.stderr or ran.stdout).strip()}")
    result = json.loads(found[0])
    answered = max(1, result["answered"])
    per_thousand = (server.cpu_seconds() - before) / (answered * len(requests[0])) * 1000
    rate = answered / result["seconds"]
    return Round(rate, result["p50"], result["p99"], result["failed"], per_thousand)


async def open_loop(server: Running, rate: float, sentences: Sequence[str], seconds: float) -> list[float]:
    """Send one sentence at a time at a fixed rate: the seconds from each one's due time to its answer, sorted.

    What is not answered with 200 counts as never answered: infinitely long.
    """
    client = Client(server.port)
    first = time.perf_counter() + HEAD_START

    async def ask(number: int) -> float:
        due = first + number / rate
        await asyncio.sleep(due - time.perf_counter())
        body = server.peer.body([sentences[number % len(sentences)]])
        try:
            status, _ = await client.post(server.peer.path, body)
        except (OSError, EOFError):  # the server closed the connection
            return math.inf
        return time.perf_counter() - due if status == 200 else math.inf

    times = sorted(await asyncio.gather(*(ask(number) for number in range(int(rate * seconds)))))
    client.close()
    return times


def in_process(models: Path, connections: int, requests: Sequence[Sequence[str]]) -> Round:
    """Encode the same requests without a server: tokenised, sorted by length, in batches as the service makes them."""
    bundle = read_bundle(models / "student")
    tokenizer = Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens)
    session = EncoderSession(bundle.path(MODEL), bundle.embedding)
    threads = min(connections, usable_cores())

    def encode(sentences: Sequence[str]) -> None:
        rows = sorted((row.ids for row in tokenizer.rows([(sentence,) for sentence in sentences])), key=len)
        for low in range(0, len(rows), BATCH_ROWS):
            session.run(rows[low : low + BATCH_ROWS])

    def work(worker: int) -> list[float]:
        times, turn = [time.perf_counter()], worker
        while times[-1] < times[0] + SECONDS:
            encode(requests[turn % len(requests)])
            times.append(time.perf_counter())
            turn += threads
        return list(np.diff(times))

    before = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        times = [seconds for found in pool.map(work, range(threads)) for seconds in found]
    cpu = (time.process_time() - before) / (len(times) * len(requests[0])) * 1000
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return Round(len(times) / (sum(times) / threads), float(p50), float(p99), 0, cpu)


def closed_table(
    loads: Mapping[str, Callable[[], Round]], failed: Mapping[str, str], connections: int, sentences: int
) -> Table:
    """Load everything in turn, several times; the first is what the others are compared with."""
    found: dict[str, list[Round]] = {name: [] for name in loads}
    for _ in range(ROUNDS):
        for name, load in loads.items():
            found[name].append(load())
    rates = {name: [each.requests_per_second for each in rounds] for name, rounds in found.items()}
    first = next(iter(rates.values()))
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            statistics.median(rates[name]),
            spread(rates[name]),
            lead(first, rates[name]),
            1e3 * statistics.median(each.p50 for each in rounds),
            1e3 * statistics.median(each.p99 for each in rounds),
            None if name == EMPTY else statistics.median(each.cpu for each in rounds),
            sum(each.failed for each in rounds),
        )
        for name, rounds in found.items()
    ]
    rows += [(name, why, *(None,) * 6) for name, why in failed.items()]
    return Table(
        f"HTTP, closed loop: {connections} connections, {sentences} sentences a request; the load on the same cores",
        ("server", "requests/s", f"of {ROUNDS} rounds", "lead", "p50 ms", "p99 ms", "CPU s per 1,000", "failed"),
        rows,
    )


def open_table(servers: Mapping[str, Running], sentences: Sequence[str]) -> Table:
    """Send to every server at fixed rates; one that cannot keep up says so by its times."""
    rows: list[tuple[Cell, ...]] = []
    for rate in RATES:
        for name, server in servers.items():
            times = asyncio.run(open_loop(server, rate, sentences, OPEN_SECONDS))
            rows.append(
                (rate, name, *(1e3 * float(np.quantile(times, share, method="higher")) for share in (0.5, 0.99, 0.999)))
            )
    return Table(
        f"HTTP, open loop: one sentence a request, {OPEN_SECONDS:g} s at each rate, load on the same cores",
        ("requests/s", "server", "p50 ms", "p99 ms", "p99.9 ms"),
        rows,
    )


@contextmanager
def started(peers: Sequence[Peer], cache: Path) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Start servers: those that run, by name, and for the others why not."""
    servers: dict[str, Running] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        for peer in peers:
            try:
                server = stack.enter_context(running(peer, cache))
                post(server, ["Is anybody there?"])
                servers[peer.name] = server
            except PeerError as error:
                failed[peer.name] = str(error)
        yield servers, failed


def in_turn(sentences: Sequence[str], size: int) -> list[list[str]]:
    """Cut sentences, repeated as needed, into requests of some sentences each."""
    several = list(sentences) * size
    return [several[low : low + size] for low in range(0, BODIES * size, size)]


def tables(models: Path, cache: Path, sentences: Sequence[str]) -> list[Table]:
    """Start every server, and put each kind of load on each.

    Args:
        models: Holds the student alone.
        cache: For the peers.
        sentences: What is sent.

    Raises:
        PeerError: this service itself does not start.
        RuntimeError: wrk is not installed.
    """
    teacher = teacher_folder()
    with started([understudy(models), *others(teacher)], cache) as (servers, failed):
        if UNDERSTUDY in failed:
            raise PeerError(failed[UNDERSTUDY])
        found = [closed(models, servers, failed, connections, in_turn(sentences, size)) for connections, size in CLOSED]
        return [*found, open_table(servers, sentences)]


def closed(
    models: Path, servers: Mapping[str, Running], failed: Mapping[str, str], connections: int, requests: list[list[str]]
) -> Table:
    """Give one closed loop's table: this service in both forms, the peers, its empty route, and no server at all."""
    ours = servers[UNDERSTUDY]
    theirs = {name: server for name, server in servers.items() if server is not ours}
    floats = replace(ours, peer=understudy(models, encoding="float"))
    loads = {
        f"{UNDERSTUDY}, base64": partial(closed_loop, ours, connections, requests),
        f"{UNDERSTUDY}, floats": partial(closed_loop, floats, connections, requests),
        **{name: partial(closed_loop, server, connections, requests) for name, server in theirs.items()},
        EMPTY: partial(closed_loop, ours, connections, requests, empty=True),
        "in process, tokenising included": partial(in_process, models, connections, requests),
    }
    return closed_table(loads, failed, connections, len(requests[0]))
