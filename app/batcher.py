"""Dynamic batching: rows of many requests leave together, and no row ever waits for a timer.

A request that meets an idle worker leaves at once. While every worker is busy, what arrives waits, and forms the next
batch. How much may wait is bounded in tokens, and a request is admitted whole or refused at once.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int]
Vectors = NDArray[np.float32]
Run = Callable[[Sequence[Ids]], Vectors]

# How far into a long queue one choice looks: choosing must stay cheap beside the batch itself.
WINDOW = 512

logger = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """More tokens wait than allowed; `retry_after` is when the queue should have room, in seconds."""

    def __init__(self, waiting: int, limit: int, retry_after: int) -> None:
        """Keep the figures for the message."""
        super().__init__(f"{waiting} tokens are waiting; the limit is {limit}")
        self.waiting, self.limit, self.retry_after = waiting, limit, retry_after


class PoisonError(RuntimeError):
    """The model failed on this row even when it ran alone."""


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how large a batch may be.

    Attributes:
        queue_tokens: Tokens that may wait; a request that finds the queue empty is admitted whatever its size.
        batch_tokens: Padded tokens in a batch, rows times the longest; a longer single row runs alone.
        batch_rows: Rows in a batch.
    """

    queue_tokens: int
    batch_tokens: int
    batch_rows: int


@dataclass(frozen=True)
class Answer:
    """A request's vectors, and when its rows were worked on.

    Attributes:
        vectors: float32 (rows, dimensions), in the order of the request.
        admitted: When the request was admitted, in seconds on time.perf_counter's clock.
        started: When its first batch started.
        finished: When its last batch was done.
    """

    vectors: Vectors
    admitted: float
    started: float
    finished: float


@dataclass(eq=False)
class Request:
    """Rows that were admitted together and are answered together."""

    rows: Sequence[Ids]
    admitted: float
    future: "Future[Answer]" = field(default_factory=Future)
    vectors: Vectors | None = None  # (rows, dimensions), filled as batches come back
    answered: int = 0
    started: float = math.inf


@dataclass(frozen=True, eq=False)
class Job:
    """One row waiting for its batch."""

    request: Request
    index: int
    ids: Ids

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for it any more: its caller left, or another row of its request failed."""
        return self.request.future.done()


class Watcher(Protocol):
    """Who wants to know how batches and the queue look."""

    def batch(self, lengths: Sequence[int]) -> None:
        """A batch with rows of these lengths starts."""

    def waiting(self, change: int) -> None:
        """The tokens waiting changed by so many."""


def take_batch(waiting: Sequence[Job], limits: Limits) -> tuple[list[Job], list[Job]]:
    """Choose the next batch: the oldest job and those of like length, as many as the limits allow.

    Args:
        waiting: Jobs in the order of their arrival; those that nobody waits for appear in neither answer.
        limits: The batch holds at most `batch_rows` rows, and `batch_tokens` tokens once padded.

    Returns:
        The batch and the jobs that still wait, both in order of arrival.
    """
    live = [job for job in waiting if not job.dropped]
    if not live:
        return [], []
    # The oldest job always goes, so that none starves. Rows no longer than it cost the others nothing, so they come
    # first; after them the longer ones, shortest first. sorted() keeps the order of arrival, and so the oldest first.
    oldest = len(live[0].ids)
    alike = [job for job in live if _alike(len(job.ids), oldest)]
    batch: set[Job] = set()
    longest = oldest
    for job in sorted(alike, key=lambda job: max(len(job.ids), oldest)):
        longest = max(longest, len(job.ids))
        if batch and (len(batch) == limits.batch_rows or (len(batch) + 1) * longest > limits.batch_tokens):
            break
        batch.add(job)
    return [job for job in live if job in batch], [job for job in live if job not in batch]


def _alike(tokens: int, oldest: int) -> bool:
    """Whether two rows may share a batch: the longer exceeds the shorter by a third, or by a few tokens, at most."""
    return abs(tokens - oldest) <= 4 + min(tokens, oldest) // 3


class Batcher:
    """A queue and the worker threads that empty it. One per model; all of it is safe to call from any thread."""

    def __init__(self, run: Run, limits: Limits, threads: int, watcher: Watcher, name: str = "batcher") -> None:
        """Start `threads` workers.

        Args:
            run: Rows of token ids -> float32 (rows, dimensions); several threads call it at once.
            limits: What may wait and what may run.
            threads: Batches in flight.
            watcher: Told of each batch and each change of the queue.
            name: For the threads' names.
        """
        self._run, self._limits, self._watcher = run, limits, watcher
        self._waiting: deque[Job] = deque()
        self._tokens = 0
        self._reserved = 0  # by large requests that are still being tokenised
        self._speed = 0.0  # tokens per second of one worker, a moving average
        self._running: dict[int, float] = {}  # worker -> when its batch started
        self._closing = False
        self._given_up = False  # by a caller or for an error, maybe while rows waited, since these were last looked at
        self._changed = threading.Condition()
        self._workers = [
            threading.Thread(target=self._work, args=(worker,), name=f"{name}-{worker}", daemon=True)
            for worker in range(threads)
        ]
        for thread in self._workers:
            thread.start()

    def submit(self, rows: Sequence[Ids]) -> "Future[Answer]":
        """Admit a request whole, or refuse it now. Cancel the future to give the request up.

        Raises:
            QueueFullError: too many tokens wait already.
            RuntimeError: the batcher is closed.
        """
        request = Request(rows, admitted=time.perf_counter())
        request.future.add_done_callback(self._note)
        tokens = sum(map(len, rows))
        with self._changed:
            if self._closing:
                raise RuntimeError("this batcher is closed")
            self._require_room(tokens)
            self._waiting.extend(Job(request, index, ids) for index, ids in enumerate(rows))
            self._count(tokens)
            self._changed.notify()
        return request.future

    def require_room(self, tokens: int) -> None:
        """Refuse a request before any work on it, by an estimate of its tokens.

        Raises:
            QueueFullError: too many tokens wait already.
        """
        with self._changed:
            self._require_room(tokens)

    @contextmanager
    def reserve(self, tokens: int) -> Iterator[None]:
        """Refuse a request before any longer work on it, or hold its place against others of its kind meanwhile.

        Raises:
            QueueFullError: too many tokens wait or are reserved already.
        """
        with self._changed:
            self._require_room(tokens, self._reserved)
            self._reserved += tokens
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= tokens

    @property
    def waiting_tokens(self) -> int:
        """Tokens waiting for a batch."""
        return self._tokens

    def oldest_age(self) -> float:
        """How long the oldest job has been waiting, in seconds; 0 when none is."""
        with self._changed:
            return time.perf_counter() - self._waiting[0].request.admitted if self._waiting else 0.0

    def longest_run(self) -> float:
        """How long the oldest batch in flight has been running, in seconds; 0 when none is."""
        with self._changed:
            return time.perf_counter() - min(self._running.values()) if self._running else 0.0

    @property
    def is_open(self) -> bool:
        """Whether requests are still admitted."""
        return not self._closing

    def close(self) -> None:
        """Admit no more; the workers end once everything admitted is answered. Does not wait for that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for the workers of a closed batcher; tells whether all have ended."""
        deadline = time.monotonic() + seconds
        for thread in self._workers:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._workers)

    def _work(self, worker: int) -> None:
        while batch := self._next(worker):
            try:
                self._execute(batch)
            except Exception as error:  # a bug of ours, or of the watcher: the callers learn of it, the worker lives on
                logger.error("a batch was lost to %s; this is a bug", type(error).__name__)
                _fail(batch, error)
            finally:
                with self._changed:
                    del self._running[worker]

    def _next(self, worker: int) -> list[Job]:
        """Wait for a batch; empty once closed and nothing is left."""
        with self._changed:
            while True:
                while self._waiting:
                    if batch := self._take():
                        self._running[worker] = time.perf_counter()
                        if self._waiting:
                            self._changed.notify()
                        return batch
                if self._closing:
                    return []
                self._changed.wait()

    def _take(self) -> list[Job]:
        head = [self._waiting.popleft() for _ in range(min(WINDOW, len(self._waiting)))]
        batch, rest = take_batch(head, self._limits)
        self._waiting.extendleft(reversed(rest))
        self._count(_tokens(rest) - _tokens(head))
        return batch

    def _execute(self, batch: list[Job]) -> None:
        rows = [job.ids for job in batch]
        self._watcher.batch([len(row) for row in rows])
        started = time.perf_counter()
        try:
            vectors = self._run(rows)  # (rows, dimensions)
        except Exception as error:
            logger.warning("a batch of %d rows failed (%s); trying each row alone", len(batch), type(error).__name__)
            self._execute_alone(batch)
            return
        finished = time.perf_counter()
        self._settle(batch, vectors, started, finished)
        self._speed += 0.1 * (_tokens(batch) / max(finished - started, 1e-6) - self._speed)

    def _execute_alone(self, batch: list[Job]) -> None:
        """Find the row that made a batch fail, so that it alone does."""
        for job in batch:
            if job.dropped:
                continue
            started = time.perf_counter()
            try:
                vectors = self._run([job.ids])  # (1, dimensions)
            except Exception as error:
                poison = PoisonError(f"the model failed on input {job.index}: {type(error).__name__}")
                poison.__cause__ = error
                _fail([job], poison)
            else:
                self._settle([job], vectors, started, time.perf_counter())

    def _settle(self, batch: list[Job], vectors: Vectors, started: float, finished: float) -> None:
        """Hand each row its vector, and answer the requests that miss none any more."""
        complete: list[Request] = []
        with self._changed:  # rows of one request come back on several workers
            for job, vector in zip(batch, vectors, strict=True):
                request = job.request
                if request.vectors is None:
                    request.vectors = np.empty((len(request.rows), len(vector)), dtype=np.float32)
                request.vectors[job.index] = vector
                request.started = min(request.started, started)
                request.answered += 1
                if request.answered == len(request.rows):
                    complete.append(request)
        for request in complete:
            assert request.vectors is not None
            with suppress(InvalidStateError):  # given up meanwhile
                request.future.set_result(Answer(request.vectors, request.admitted, request.started, finished))

    def _require_room(self, tokens: int, reserved: int = 0) -> None:
        if self._given_up and not self._has_room(tokens, reserved):
            self._forget_dropped()
        if not self._has_room(tokens, reserved):
            waiting = self._tokens + reserved
            raise QueueFullError(waiting, self._limits.queue_tokens, self._retry_after(waiting))

    def _has_room(self, tokens: int, reserved: int) -> bool:
        return not (self._waiting or reserved) or self._tokens + reserved + tokens <= self._limits.queue_tokens

    def _note(self, future: "Future[Answer]") -> None:
        self._given_up |= future.cancelled() or future.exception() is not None

    def _forget_dropped(self) -> None:
        self._given_up = False
        self._waiting = deque(job for job in self._waiting if not job.dropped)
        self._count(_tokens(self._waiting) - self._tokens)

    def _count(self, change: int) -> None:
        if change:
            self._tokens += change
            self._watcher.waiting(change)

    def _retry_after(self, tokens: int) -> int:
        """Seconds until so many tokens should be answered at the present speed, between 1 and 60."""
        speed = self._speed * len(self._workers)
        return min(60, math.ceil(tokens / speed)) if speed else 1


def _tokens(jobs: Iterable[Job]) -> int:
    return sum(len(job.ids) for job in jobs)


def _fail(batch: Sequence[Job], error: Exception) -> None:
    for job in batch:
        with suppress(InvalidStateError):  # given up meanwhile, or failed already by another row
            job.request.future.set_exception(error)
