"""Shadow: the teacher answers a sample of what the student answered, off the response path, to show how faithful it is.

It must not be felt. Rows wait in a small queue, and what does not fit is dropped and counted; they run aside, one batch
at a time, while the student has nothing waiting, and after each batch the shadow sleeps in proportion to the time that
it took. By the clock, not in CPU time: on busy cores a batch takes longer, and they are then left alone for longer.
"""

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from app.aside import Aside
from app.bundle import Texts
from app.engine import Engine, Task
from app.fidelity import cosines, rank_agreement
from app.metrics import Metrics
from app.registry import Catalogue
from app.session import Vectors

logger = logging.getLogger(__name__)

QUEUE_ROWS = 64
BATCH_ROWS = 8
RANKED_ROWS = 32  # 496 pairs to a rank agreement
LOOK_SECONDS = 0.1

Judge = Callable[[Sequence[Texts], Vectors], None]


class Sample(NamedTuple):
    """One row: who compares it, its input, and the student's vector or scores."""

    judge: Judge
    texts: Texts
    answer: Vectors


class Shadow:
    """Samples the student's answers and compares the teacher's. `offer` and `follow` belong to the event loop."""

    def __init__(self, rate: float, cpu_share: float, cores: int, metrics: Metrics) -> None:
        """Nothing is followed yet.

        Args:
            rate: Share of the student's rows that the teacher answers as well; 0 turns the shadow off.
            cpu_share: Share of `cores` that the teacher may be at work on, by the clock.
            cores: How many this process may use.
            metrics: Where the comparisons are counted.
        """
        self._rate, self._cores, self._metrics = rate, cpu_share * cores, metrics
        self._judges: dict[Engine | Task, Judge] = {}
        self._students: list[Engine] = []
        self._waiting: deque[Sample] = deque()
        self._skip = self._gap() - 1  # rows to let pass before the next that is taken
        self._aside = Aside()  # the thread's alone
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, catalogue: Catalogue) -> None:
        """Compare what these bundles answer from now on; what waits is of earlier ones, and would hold them."""
        self._count("busy", len(self._waiting))
        self._waiting = deque()
        self._judges = dict(self._pairs(catalogue)) if self._rate else {}
        self._students = [engine for engine in catalogue.engines if engine.manifest.role == "student"]
        if not self._judges:
            logger.info("shadow is off: %s", "no teacher is loaded" if self._rate else "its rate is 0")
        elif self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
            self._thread.start()

    def offer(self, student: Engine | Task, inputs: Sequence[Texts], answers: Vectors) -> None:
        """Sample a request's rows, once the student has answered them; costs next to nothing.

        Args:
            student: Who answered; passed over if no teacher is there to compare.
            inputs: Texts or pairs.
            answers: Vectors (inputs, dimensions) or scores (inputs, labels).
        """
        judge = self._judges.get(student)
        if judge is None:
            return
        while self._skip < len(inputs):
            self._take(Sample(judge, inputs[self._skip], answers[self._skip].copy()))
            self._skip += self._gap()
        self._skip -= len(inputs)

    def close(self) -> None:
        """End after the batch that it is at; does not wait for that."""
        self._closing.set()

    def _pairs(self, catalogue: Catalogue) -> list[tuple[Engine | Task, Judge]]:
        pairs: list[tuple[Engine | Task, Judge]] = []
        if "student" in catalogue.encoders and "teacher" in catalogue.encoders:
            judge = partial(self._judge_vectors, catalogue.encoders["teacher"], [])
            pairs.append((catalogue.encoders["student"], judge))
        for name in catalogue.task_names:
            student, teacher = (catalogue.tasks.get((name, role)) for role in ("student", "teacher"))
            if student and teacher and student.manifest.kind == teacher.manifest.kind == "classifier":
                pairs.append((student, partial(self._judge_labels, student, teacher)))
        return pairs

    def _gap(self) -> int:
        """Rows from one that is taken to the next: 1 / rate on average, geometrically distributed."""
        if not 0 < self._rate < 1:
            return 1
        return 1 + int(math.log(1 - random.random()) / math.log1p(-self._rate))

    def _take(self, sample: Sample) -> None:
        if self._is_busy():
            self._count("busy")
        elif len(self._waiting) >= QUEUE_ROWS:
            self._count("queue_full")
        else:
            self._waiting.append(sample)

    def _is_busy(self) -> bool:
        """Whether anybody waits for the student."""
        return any(engine.waiting_tokens for engine in self._students)

    def _count(self, outcome: str, rows: int = 1) -> None:
        self._metrics.shadow_rows.labels(outcome).inc(rows)

    def _work(self) -> None:
        pause = LOOK_SECONDS
        while not self._closing.wait(pause):
            if not self._judges:  # a reload has left no teacher
                self._aside.close()
            pause = max(LOOK_SECONDS, rest(self._step(), self._cores))
        self._aside.close()

    def _step(self) -> float:
        """Compare a batch, if one waits and nobody else does; gives the seconds that it took."""
        began = time.perf_counter()
        if not self._is_busy() and (batch := self._next()):
            self._compare(batch)
        return time.perf_counter() - began

    def _next(self) -> list[Sample]:
        """Take the oldest rows that one judge can compare together; only this thread takes any."""
        waiting, batch = self._waiting, list[Sample]()  # `follow` may begin another queue meanwhile
        while waiting and len(batch) < BATCH_ROWS and (not batch or waiting[0].judge is batch[0].judge):
            batch.append(waiting.popleft())
        return batch

    def _compare(self, batch: Sequence[Sample]) -> None:
        try:
            batch[0].judge([sample.texts for sample in batch], np.stack([sample.answer for sample in batch]))
        except Exception as error:  # nobody waits for these rows, and the next ones may do
            logger.warning("the shadow lost %d rows to %s", len(batch), type(error).__name__)
            self._count("failed", len(batch))
        else:
            self._count("answered", len(batch))

    def _judge_vectors(
        self, teacher: Engine, ranked: list[tuple[Vectors, Vectors]], texts: Sequence[Texts], ours: Vectors
    ) -> None:
        """Compare vectors, and rank those of several batches; `ranked` collects these, of one loading alone."""
        theirs = teacher.encode_now(texts, self._aside)  # (rows, dimensions)
        for cosine in cosines(ours, theirs):
            self._metrics.shadow_cosine.observe(cosine)
        ranked += zip(ours, theirs, strict=True)
        if len(ranked) >= RANKED_ROWS:
            mine, others = map(np.stack, zip(*ranked, strict=True))
            ranked.clear()
            agreement = rank_agreement(mine, others)
            if agreement is not None:
                self._metrics.shadow_rank_agreement.observe(agreement)

    def _judge_labels(self, student: Task, teacher: Task, texts: Sequence[Texts], ours: Vectors) -> None:
        theirs = teacher.score_now(texts, self._aside)  # (rows, labels)
        for mine, other in zip(ours.argmax(axis=1), theirs.argmax(axis=1), strict=True):
            agree = student.manifest.labels[mine] == teacher.manifest.labels[other]
            self._metrics.shadow_label_agreement.labels(student.manifest.name, str(agree).lower()).inc()


def rest(spent: float, cores: float) -> float:
    """Give the seconds to sleep after `spent` seconds of work on one core, to be at work on no more than `cores`."""
    return max(0.0, spent / cores - spent)
