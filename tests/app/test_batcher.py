import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, wait

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batcher import Batcher, Job, Limits, PoisonError, QueueFullError, Request, take_batch

ROOMY = Limits(queue_tokens=10_000, batch_tokens=1000, batch_rows=100)


def waiting(*lengths: int) -> list[Job]:
    """Jobs of these lengths, each from a request of its own."""
    return [Job(Request([[1] * length], 0.0), 0, [1] * length) for length in lengths]


def lengths(jobs: Sequence[Job]) -> list[int]:
    return [len(job.ids) for job in jobs]


def test_rows_of_like_length_leave_together_and_the_others_wait() -> None:
    batch, rest = take_batch(waiting(10, 90, 11, 9, 100), ROOMY)
    assert (lengths(batch), lengths(rest)) == ([10, 11, 9], [90, 100])


def test_the_oldest_always_leaves_even_if_it_alone_is_over_the_budget() -> None:
    batch, rest = take_batch(waiting(50, 5), Limits(1, batch_tokens=10, batch_rows=9))
    assert (lengths(batch), lengths(rest)) == ([50], [5])


def test_a_batch_counts_its_padding_against_the_budget() -> None:
    batch, _ = take_batch(waiting(8, 8, 10), Limits(1, batch_tokens=25, batch_rows=9))
    assert lengths(batch) == [8, 8]  # three rows of ten would be 30


def test_a_batch_has_no_more_rows_than_allowed() -> None:
    batch, rest = take_batch(waiting(3, 3, 3), Limits(1, batch_tokens=100, batch_rows=2))
    assert (len(batch), len(rest)) == (2, 1)


def test_jobs_that_nobody_waits_for_are_dropped() -> None:
    jobs = waiting(3, 3, 3)
    jobs[0].request.future.cancel()
    batch, rest = take_batch(jobs, ROOMY)
    assert (batch, rest) == (jobs[1:], [])


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 2000), st.integers(1, 70))
def test_any_queue_is_emptied_within_the_limits_and_no_job_is_lost(sizes: list[int], tokens: int, rows: int) -> None:
    jobs = rest = waiting(*sizes)
    seen: list[Job] = []
    while rest:
        oldest = rest[0]
        batch, rest = take_batch(rest, Limits(1, tokens, rows))
        assert oldest in batch
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths(batch)) <= tokens
        assert len(batch) == 1 or max(lengths(batch)) <= min(lengths(batch)) * 2 + 12
        seen += batch
    assert sorted(map(id, seen)) == sorted(map(id, jobs))


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.tokens = 0

    def batch(self, lengths: Sequence[int]) -> None:
        self.batches.append(list(lengths))

    def waiting(self, change: int) -> None:
        self.tokens += change


class Model:
    """Answers each row with its first token; can be held, and fails where it is told to."""

    def __init__(self, poison: int | None = None) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.rows = 0
        self._poison = poison

    def run(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        self.entered.set()
        assert self.open.wait(60)
        self.rows += len(rows)
        if any(row[0] == self._poison for row in rows):
            raise ArithmeticError("poison")
        return np.array([[row[0]] for row in rows], dtype=np.float32)


@pytest.fixture
def start():
    """Start batchers that are closed, and seen to end, after the test."""
    started: list[tuple[Batcher, Model]] = []

    def build(model: Model, limits: Limits = ROOMY, threads: int = 1, watcher: Silent | None = None) -> Batcher:
        batcher = Batcher(model.run, limits, threads, watcher or Silent())
        started.append((batcher, model))
        return batcher

    yield build
    for batcher, model in started:
        model.open.set()
        batcher.close()
        assert batcher.join(60)


def hold(model: Model, batcher: Batcher) -> Future:
    """Occupy the batcher's only worker until `model.open` is set."""
    model.open.clear()
    model.entered.clear()
    future = batcher.submit([[99]])
    assert model.entered.wait(60)
    return future


def test_a_request_is_answered_in_its_own_order(start) -> None:
    batcher = start(Model(), threads=3)
    rows = [[token] * (1 + token % 50) for token in range(1, 200)]
    answer = batcher.submit(rows).result(60)
    assert answer.vectors[:, 0].tolist() == [float(row[0]) for row in rows]
    assert answer.admitted <= answer.started <= answer.finished


def test_what_arrives_while_the_worker_is_busy_forms_the_next_batch(start) -> None:
    model, watcher = Model(), Silent()
    batcher = start(model, watcher=watcher)
    hold(model, batcher)
    futures = [batcher.submit([[token]]) for token in range(1, 9)]
    model.open.set()
    assert [future.result(60).vectors[0, 0] for future in futures] == list(range(1, 9))
    assert watcher.batches == [[1], [1] * 8]


def test_a_request_is_refused_whole_when_too_much_waits(start) -> None:
    model = Model()
    batcher = start(model, Limits(queue_tokens=10, batch_tokens=100, batch_rows=9))
    hold(model, batcher)
    batcher.submit([[1] * 8])
    with pytest.raises(QueueFullError) as refused:
        batcher.submit([[1], [1, 2]])
    assert (refused.value.waiting, refused.value.limit) == (8, 10)
    assert 1 <= refused.value.retry_after <= 60
    assert batcher.waiting_tokens == 8


def test_a_request_larger_than_the_queue_is_admitted_when_nothing_waits(start) -> None:
    batcher = start(Model(), Limits(queue_tokens=2, batch_tokens=100, batch_rows=9))
    assert len(batcher.submit([[1, 1, 1]] * 5).result(60).vectors) == 5


def test_what_is_reserved_takes_room_from_other_reservations_alone(start) -> None:
    batcher = start(Model(), Limits(queue_tokens=10, batch_tokens=100, batch_rows=9))
    with batcher.reserve(50):  # nothing waits
        with pytest.raises(QueueFullError) as refused, batcher.reserve(1):
            pass
        assert refused.value.waiting == 50
        batcher.require_room(1)
        assert len(batcher.submit([[1, 1]]).result(60).vectors) == 1
    with batcher.reserve(4), batcher.reserve(6):
        pass


def test_cancelled_requests_make_room_and_never_run(start) -> None:
    model, watcher = Model(), Silent()
    batcher = start(model, Limits(queue_tokens=10, batch_tokens=100, batch_rows=9), watcher=watcher)
    hold(model, batcher)
    assert batcher.submit([[1] * 10]).cancel()
    later = batcher.submit([[2] * 9])
    model.open.set()
    assert later.result(60).vectors[0, 0] == 2
    assert watcher.batches == [[1], [9]]
    assert (watcher.tokens, batcher.waiting_tokens) == (0, 0)


def test_a_refusal_searches_the_queue_only_after_something_was_given_up(start, monkeypatch) -> None:
    model = Model()
    batcher = start(model, Limits(queue_tokens=10, batch_tokens=100, batch_rows=9))
    hold(model, batcher)
    waiting = batcher.submit([[1] * 10])
    searched: list[Batcher] = []
    search = Batcher._forget_dropped
    monkeypatch.setattr(Batcher, "_forget_dropped", lambda self: (searched.append(self), search(self)))
    for _ in range(5):
        with pytest.raises(QueueFullError):
            batcher.submit([[2]])
    assert not searched
    waiting.cancel()
    batcher.submit([[2] * 10])
    with pytest.raises(QueueFullError):
        batcher.submit([[2]])
    assert searched == [batcher]


def test_a_request_cancelled_while_it_runs_harms_nobody(start) -> None:
    model = Model()
    batcher = start(model)
    gone = hold(model, batcher)
    assert gone.cancel()
    model.open.set()
    assert batcher.submit([[4]]).result(60).vectors[0, 0] == 4
    with pytest.raises(CancelledError):
        gone.result(60)


def test_a_failing_row_fails_only_its_own_request(start) -> None:
    model = Model(poison=13)
    batcher = start(model)
    hold(model, batcher)
    good, bad, other = batcher.submit([[1]]), batcher.submit([[2], [13]]), batcher.submit([[3]])
    model.open.set()
    assert (good.result(60).vectors[0, 0], other.result(60).vectors[0, 0]) == (1, 3)
    with pytest.raises(PoisonError, match="input 1: ArithmeticError"):
        bad.result(60)
    assert batcher.submit([[5]]).result(60).vectors[0, 0] == 5


def test_a_watcher_that_fails_does_not_end_the_worker(start) -> None:
    class Broken(Silent):
        def batch(self, lengths: Sequence[int]) -> None:
            if lengths == [2]:
                raise OSError("disk full")

    batcher = start(Model(), watcher=Broken())
    with pytest.raises(OSError, match="disk full"):
        batcher.submit([[1, 1]]).result(60)
    assert batcher.submit([[1]]).result(60)


def test_closing_answers_what_was_admitted_and_admits_no_more(start) -> None:
    model = Model()
    batcher = start(model)
    futures = [hold(model, batcher), batcher.submit([[1]]), batcher.submit([[2] * 400])]
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit([[3]])
    model.open.set()
    assert not wait(futures, 10).not_done
    assert [future.result().vectors[0, 0] for future in futures] == [99, 1, 2]


def test_a_batch_that_hangs_is_seen(start) -> None:
    model = Model()
    batcher = start(model)
    assert (batcher.longest_run(), batcher.oldest_age()) == (0, 0)
    hold(model, batcher)
    batcher.submit([[1]])
    first = batcher.longest_run(), batcher.oldest_age()
    assert 0 < first[0] < batcher.longest_run()
    assert 0 < first[1] < batcher.oldest_age()


def test_many_threads_get_each_their_own_answers(start) -> None:
    batcher = start(Model(), threads=3)
    wrong: list[int] = []

    def ask(thread: int) -> None:
        for number in range(100):
            token = thread * 1000 + number + 1
            answer = batcher.submit([[token] * (1 + number % 7), [-token]]).result(60)
            if answer.vectors[:, 0].tolist() != [token, -token]:
                wrong.append(token)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert batcher.waiting_tokens == 0
