import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import write_encoder
from fastapi.testclient import TestClient
from waiting import until

from app.aside import Aside
from app.batcher import Limits
from app.bundle import MODEL
from app.engine import Engine
from app.metrics import Metrics
from app.registry import Catalogue, load_catalogue
from app.session import EncoderSession
from app.shadow import BATCH_ROWS, QUEUE_ROWS, RANKED_ROWS, Shadow, rest

TEXTS = [
    (f"{one} {other}",) for one in ("good", "bad", "very", "not", "cat", "dog") for other in ("film", "mat", "sat")
]
TEXTS = [(f"{text} {number}",) for (text,) in TEXTS for number in ("one", "two")][:RANKED_ROWS]


class World:
    """A shadow of what the models folder holds, everything sampled."""

    def __init__(self, catalogue: Catalogue, rate: float = 1, cpu_share: float = 1) -> None:
        self.metrics, self.catalogue = Metrics(), catalogue
        self.shadow = Shadow(rate, cpu_share, 1, self.metrics)
        self.shadow.follow(catalogue)
        self.student = catalogue.encoders["student"]

    def offer(self, times: int = 1) -> None:
        """Have the student answer all texts, and offer the answers."""
        vectors = self.student.encode_now(TEXTS)
        for _ in range(times):
            self.shadow.offer(self.student, TEXTS, vectors)

    def read(self, series: str) -> float:
        lines = self.metrics.exposition().decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"understudy_shadow_{series} ")), 0)

    def rows(self, outcome: str) -> float:
        return self.read(f'rows_total{{outcome="{outcome}"}}')


@pytest.fixture
def catalogue(models_dir: Path) -> Iterator[Catalogue]:
    loaded = load_catalogue(models_dir, Limits(2**16, 2048, 64), 1, Metrics())
    yield loaded
    loaded.retire()


@pytest.fixture
def world(catalogue: Catalogue) -> Iterator[World]:
    made = World(catalogue)
    yield made
    made.shadow.close()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what goes aside happen in this process, where a test can interfere."""
    monkeypatch.setattr(Aside, "encode", lambda _, bundle, rows: EncoderSession(bundle.path(MODEL)).run(rows))


def test_every_row_that_is_taken_is_compared(world: World) -> None:
    world.offer()
    until(lambda: world.rows("answered") == RANKED_ROWS)
    assert world.read("cosine_count") == RANKED_ROWS
    assert world.read("cosine_sum") == pytest.approx(RANKED_ROWS)  # here, both have the same weights
    assert world.read("rank_agreement_count") == 1
    assert world.read("rank_agreement_sum") == pytest.approx(1)


def test_ranks_are_of_one_loading_whose_vectors_are_of_one_width(world: World) -> None:
    vectors = world.student.encode_now(TEXTS)
    for half in (TEXTS[1:], TEXTS[:1]):
        world.shadow.offer(world.student, half, vectors[: len(half)])
        until(lambda: not world.shadow._waiting)
        world.shadow.follow(world.catalogue)
    world.offer()
    until(lambda: world.rows("answered") == 2 * RANKED_ROWS)
    assert world.read("rank_agreement_count") == 1


def test_labels_are_compared_where_the_teacher_knows_the_task(world: World) -> None:
    mood = world.catalogue.tasks["mood", "student"]
    world.shadow.offer(mood, TEXTS, mood.score_now(TEXTS))
    until(lambda: world.rows("answered") == RANKED_ROWS)
    assert world.read('label_agreement_total{agree="true",task="mood"}') == RANKED_ROWS
    assert world.read("cosine_count") == 0


def test_what_has_no_teacher_is_passed_over(world: World) -> None:
    same = world.catalogue.tasks["same", "student"]
    pairs = [("good", "bad")] * 4
    world.shadow.offer(same, pairs, same.score_now(pairs))
    world.shadow.offer(world.catalogue.encoders["teacher"], TEXTS, world.student.encode_now(TEXTS))
    world.offer()
    until(lambda: world.rows("answered") == RANKED_ROWS)


def test_the_share_is_the_one_that_was_set(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(3)
    world = World(catalogue, rate=0.1)
    monkeypatch.setattr(Engine, "waiting_tokens", 7)  # so that each is counted where it is taken
    world.offer(times=1000)
    assert world.rows("busy") == pytest.approx(0.1 * 1000 * len(TEXTS), rel=0.1)
    world.shadow.close()


@pytest.mark.usefixtures("here")
def test_what_does_not_fit_is_dropped_and_counted(catalogue: Catalogue, request: pytest.FixtureRequest) -> None:
    world = World(catalogue)
    vectors = world.student.encode_now(TEXTS)
    hold = request.getfixturevalue("hold")
    world.shadow.offer(world.student, TEXTS, vectors)
    assert hold.entered.wait(60)  # one batch is being answered, and no other
    for _ in range(4):
        world.shadow.offer(world.student, TEXTS, vectors)
    assert world.rows("queue_full") == 5 * RANKED_ROWS - BATCH_ROWS - QUEUE_ROWS
    hold.release.set()
    until(lambda: world.rows("answered") == BATCH_ROWS + QUEUE_ROWS)
    world.shadow.close()


@pytest.mark.usefixtures("here")
def test_what_waits_as_other_bundles_come_is_dropped_and_counted(
    catalogue: Catalogue, request: pytest.FixtureRequest
) -> None:
    world = World(catalogue)
    vectors = world.student.encode_now(TEXTS)
    hold = request.getfixturevalue("hold")
    world.shadow.offer(world.student, TEXTS, vectors)
    assert hold.entered.wait(60)
    world.shadow.follow(catalogue)
    assert world.rows("busy") == RANKED_ROWS - BATCH_ROWS
    world.shadow.offer(world.student, TEXTS[:1], vectors[:1])
    hold.release.set()
    until(lambda: world.rows("answered") == BATCH_ROWS + 1)
    world.shadow.close()


def test_while_anybody_waits_for_the_student_nothing_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "waiting_tokens", 7)
    world.offer()
    assert world.rows("busy") == RANKED_ROWS


@pytest.mark.usefixtures("here")
def test_a_teacher_that_fails_costs_only_its_own_batch(world: World, faults) -> None:
    vectors = world.student.encode_now(TEXTS)

    def fail(_rows: object) -> None:
        raise RuntimeError("broken")

    faults.before = fail
    world.shadow.offer(world.student, TEXTS, vectors)
    until(lambda: world.rows("failed") == RANKED_ROWS)
    faults.before = lambda _rows: None
    world.shadow.offer(world.student, TEXTS, vectors)
    until(lambda: world.rows("answered") == RANKED_ROWS)


def test_it_rests_in_proportion_to_the_time_that_it_took() -> None:
    assert rest(spent=0.04, cores=0.1) == pytest.approx(0.36)
    assert rest(spent=0.04, cores=1.6) == 0


def test_without_a_teacher_it_is_off_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_encoder(tmp_path)
    loaded = load_catalogue(tmp_path, Limits(2**16, 2048, 64), 1, Metrics())
    with caplog.at_level(logging.INFO):
        world = World(loaded)
    assert caplog.messages[-1] == "shadow is off: no teacher is loaded"
    world.offer()
    assert world.shadow._thread is None
    loaded.retire()


def test_once_no_teacher_is_loaded_any_more_its_process_ends(world: World, tmp_path: Path) -> None:
    world.offer()
    until(lambda: world.rows("answered") == RANKED_ROWS)
    process = world.shadow._aside._process
    assert process
    write_encoder(tmp_path)
    alone = load_catalogue(tmp_path, Limits(2**16, 2048, 64), 1, Metrics())
    world.shadow.follow(alone)
    until(lambda: process.poll() is not None)
    world.shadow.follow(world.catalogue)
    world.offer()
    until(lambda: world.rows("answered") == 2 * RANKED_ROWS)
    alone.retire()


def test_a_rate_of_zero_turns_it_off(catalogue: Catalogue, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        world = World(catalogue, rate=0)
    assert caplog.messages[-1] == "shadow is off: its rate is 0"
    assert world.shadow._thread is None


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/encode", {"sentences": ["good", "bad"]}),
        ("/classify/mood", {"sentences": ["good", "bad"]}),
        ("/v1/embeddings", {"model": "student", "input": ["good", "bad"]}),
    ],
)
def test_what_the_routes_answer_is_offered(serve: Callable[..., TestClient], path: str, content: object) -> None:
    client = serve(shadow_rate=1)
    assert client.post(path, json=content).status_code == 200
    answered = 'understudy_shadow_rows_total{outcome="answered"} 2.0'
    until(lambda: answered in client.get("/metrics").text)
