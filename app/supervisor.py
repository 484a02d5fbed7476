"""Several processes behind one port: started, ended and reloaded together.

Each worker loads the models by itself and then votes; only when all could, all swap. A start is such a round as well,
so that no worker answers before every worker can. A worker that dies is replaced. Its replacement serves only what the
others do: if it found anything else, they are to take that first; while it cannot load, or they cannot, they serve on.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

from app.metrics import clear_stale, keep_as, worker_deaths
from app.service import Load
from app.settings import Settings

logger = logging.getLogger(__name__)

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own name; it is read when that is imported

# After a replacement that could not load: while another one tries, it answers its share of the requests with 503.
RETRY_SECONDS = 10.0

# What is said on the line. A worker asks for "reload", or votes: "loaded", with the digest of what, or "refused", with
# the reason. Its supervisor says "load", or the "verdict": None, or the reason for a refusal.
Message = tuple[str, str | None]
Work = Callable[[Settings, socket.socket, Connection], int]


class Line:
    """A worker's line to its supervisor: the Crew of a Service that is not alone."""

    def __init__(self, connection: Connection) -> None:
        """Use the worker's end of the pipe."""
        self._connection = connection
        self._verdict: asyncio.Future[str | None] | None = None
        self._asking: list[asyncio.Future[None]] = []
        self._rounds: set[asyncio.Task[None]] = set()

    def attach(self, load: Load) -> None:
        """Listen to the supervisor, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._connection.fileno(), self._hear, load)

    async def agree(self, models: str, refusal: str | None) -> str | None:
        """Vote, and wait for the verdict."""
        self._verdict = self._loop.create_future()
        self._connection.send(("refused", refusal) if refusal is not None else ("loaded", models))
        return await self._verdict

    async def reload(self, _load: Load) -> None:
        """Ask the supervisor for a round, and wait for its outcome."""
        asked: asyncio.Future[None] = self._loop.create_future()
        self._asking.append(asked)
        self._connection.send(("reload", None))
        await asked

    def _hear(self, load: Load) -> None:
        try:
            kind, reason = self._connection.recv()
        except EOFError:  # the supervisor is gone, and nobody else would end this worker
            self._loop.remove_reader(self._connection.fileno())
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if kind == "verdict" and self._verdict and not self._verdict.done():
            self._verdict.set_result(reason)
        elif kind == "load":
            asked, self._asking = self._asking, []
            task = self._loop.create_task(self._round(load, asked))
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)

    async def _round(self, load: Load, asked: list["asyncio.Future[None]"]) -> None:
        refusal: Exception | None = None
        try:
            await load()
        except Exception as error:  # logged where it happened; here, whoever asked is told
            refusal = error
        for one in asked:
            if refusal and not one.done():
                one.set_exception(refusal)
            elif not one.done():
                one.set_result(None)


@dataclass(eq=False)
class _Worker:
    number: int  # below that of workers; its replacement has it as well
    process: SpawnProcess
    connection: Connection
    speaks: bool = True  # until its end of the line is closed
    serves: bool = False  # once it was told that it may


class Supervisor:
    """Keeps the workers running, and their rounds apart."""

    def __init__(self, settings: Settings, listener: socket.socket, work: Work) -> None:
        """Prepare; `work` serves in each worker and gives its exit code."""
        self._settings, self._listener, self._work = settings, listener, work
        self._workers: list[_Worker] = []
        self._votes: dict[_Worker, Message] = {}
        self._voters: list[_Worker] = []  # of the round that is on
        self._again = False
        self._models: str | None = None  # what those that serve have loaded
        self._newcomers: dict[_Worker, str | None] = {}  # replacements that do not serve yet, and what they have loaded
        self._not_before = 0.0  # when missing workers may be started, on the monotonic clock
        self._stopping = False
        self._failed = False

    def run(self) -> int:
        """Serve until a signal ends it; the exit code is 0 if every worker ended well."""
        folder = os.environ.get(METRICS_FOLDER)
        if folder:
            return self._run(Path(folder))
        with tempfile.TemporaryDirectory(prefix="understudy-metrics-") as folder:
            os.environ[METRICS_FOLDER] = folder
            return self._run(Path(folder))

    def _run(self, folder: Path) -> int:
        clear_stale(folder)
        keep_as("supervisor")
        self._deaths = worker_deaths(CollectorRegistry())
        wake = self._on_signals()
        self._fill()
        self._voters = list(self._workers)
        while self._workers:
            lines = {worker.connection: worker for worker in self._workers if worker.speaks}
            ends = {worker.process.sentinel: worker for worker in self._workers}
            for ready in wait([wake, *lines, *ends], self._patience()):
                if isinstance(ready, Connection):
                    self._hear(lines[ready])
                elif isinstance(ready, int):
                    self._bury(ends[ready])
                else:
                    self._obey(wake.recv(1)[0])
            self._fill()
        clear_stale(folder)
        return int(self._failed)

    def _patience(self) -> float | None:
        """Seconds until a missing worker may be started; None while none is missing."""
        missing = not self._stopping and len(self._workers) < self._settings.workers
        return max(0.0, self._not_before - time.monotonic()) if missing else None

    def _fill(self) -> None:
        """Start the workers that are missing, unless it is too early."""
        while self._patience() == 0:
            self._workers.append(self._start())

    def _serving(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.serves]

    def _start(self) -> _Worker:
        number = min({*range(self._settings.workers)} - {worker.number for worker in self._workers})
        # The first worker has the shadow, and with it what the others' share of the traffic would have brought.
        rate = min(1.0, self._settings.shadow_rate * self._settings.workers) if number == 0 else 0.0
        settings = self._settings.model_copy(update={"shadow_rate": rate})
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of threads that it does not copy
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(number, self._work, settings, self._listener, theirs))
        process.start()
        theirs.close()
        return _Worker(number, process, ours)

    def _on_signals(self) -> socket.socket:
        """Turn signals into bytes that the loop reads."""
        wake, write = socket.socketpair()
        write.setblocking(False)  # noqa: FBT003
        signal.set_wakeup_fd(write.detach())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        return wake

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._call_round()
        else:
            self._stop()

    def _hear(self, worker: _Worker) -> None:
        try:
            message: Message = worker.connection.recv()
        except (EOFError, OSError):
            worker.speaks = False
            return
        match message:
            case "reload", _:
                self._call_round()
            case vote if worker in self._voters:
                self._votes[worker] = vote
                self._count()
            case "loaded", models:
                self._meet(worker, models)
            case _, reason:
                self._announce([worker], reason)

    def _meet(self, newcomer: _Worker, models: str | None) -> None:
        """Let the replacement of a worker serve, at once or after a round in which the others take what it found."""
        self._newcomers[newcomer] = models
        if self._serving() and models != self._models:
            self._call_round()
        elif not self._voters:
            self._welcome()

    def _welcome(self) -> None:
        """Let the newcomers serve that have loaded what the others have. The rest end, and others try again."""
        for newcomer, models in self._newcomers.items():
            if not self._serving():
                self._models = models
            self._announce([newcomer], None if models == self._models else "the other workers serve other bundles")
        self._newcomers = {}
        self._call_again()

    def _call_round(self) -> None:
        """Have those that serve load, once the round that is on has ended, and as soon as any serves."""
        if self._voters or not self._serving():
            self._again = True
            return
        self._voters = self._serving()
        for worker in self._voters:
            self._tell(worker, ("load", None))

    def _call_again(self) -> None:
        if self._again:
            self._again = False
            self._call_round()

    def _count(self) -> None:
        """End the round once all have voted."""
        if len(self._votes) < len(self._voters):
            return
        refusals = [reason for kind, reason in self._votes.values() if kind == "refused"]
        found = {models for kind, models in self._votes.values() if kind == "loaded"}
        if len(found) > 1:
            refusals.append("the models folder changed while the workers read it")
        if not refusals:
            self._models = found.pop()
        self._announce(self._voters, refusals[0] if refusals else None)
        self._voters, self._votes = [], {}
        self._call_again()
        if not self._voters:
            self._welcome()

    def _announce(self, workers: list[_Worker], refusal: str | None) -> None:
        for worker in workers:
            self._tell(worker, ("verdict", refusal))
            worker.serves |= refusal is None

    def _bury(self, worker: _Worker) -> None:
        """See a worker off: the end, a bad start, or an accident after which another takes its place."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        self._newcomers.pop(worker, None)
        mark_process_dead(worker.number)  # type: ignore[no-untyped-call]
        code = worker.process.exitcode
        if not self._stopping:
            self._deaths.inc()
        if worker in self._voters and worker not in self._votes:
            self._votes[worker] = ("refused", f"a worker ended with {code}")
            self._count()
        if self._stopping:
            self._failed |= worker.serves and code != 0  # one that had not begun had nothing to finish
        elif worker.serves:
            logger.error("worker %s ended with %s; another takes its place", worker.process.pid, code)
            self._not_before = 0.0
        elif self._serving():
            logger.error("no worker could take the place; the next attempt is in %.0f s", RETRY_SECONDS)
            self._not_before = time.monotonic() + RETRY_SECONDS
        else:
            self._failed = True
            self._stop()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._listener.close()
        for worker in self._workers:
            worker.process.terminate()

    def _tell(self, worker: _Worker, message: Message) -> None:
        with suppress(OSError):  # it has ended, and its end is noticed elsewhere
            worker.connection.send(message)


def _work(number: int, work: Work, settings: Settings, listener: socket.socket, connection: Connection) -> None:
    keep_as(str(number))
    raise SystemExit(work(settings, listener, connection))
