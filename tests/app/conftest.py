"""A models folder with one bundle of each kind, and a client of a service that has loaded it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
from bundles import write_encoder, write_task
from fastapi.testclient import TestClient
from processes import Process

from app.main import create_app
from app.session import EncoderSession, Vectors
from app.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work where no .env lies: one in the checkout is for the service that is run there."""
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Student and teacher; sentiment for both; a pair task on the student; a regression task with its own encoder."""
    folder = tmp_path_factory.mktemp("models")
    student = write_encoder(folder)
    write_encoder(folder, "teacher")
    write_task(folder, "mood", base=student)
    write_task(folder, "mood", role="teacher")
    write_task(folder, "same", base=student, inputs="pair_apart", labels=("different", "same"))
    write_task(folder, "joined", inputs="pair_joined", labels=("no", "maybe", "yes"))
    write_task(folder, "stars", labels=())
    return folder


@pytest.fixture
def serve(models_dir: Path) -> Iterator[Callable[..., TestClient]]:
    """Start services with some settings changed; each is waited for until it has loaded its models, or failed to."""
    with ExitStack() as stack:

        def start(**settings: object) -> TestClient:
            # lag is the machine's affair; tests may run on a busy one
            defaults = {"models_dir": models_dir, "threads": 2, "drain_seconds": 0, "lag_seconds": 30}
            client = stack.enter_context(TestClient(create_app(Settings(**defaults | settings))))
            client.portal.call(client.app.state.service.loaded.wait)
            return client

        yield start


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    """A service with the default settings."""
    return serve()


class Faults:
    """What every encoder session does before it answers, once the bundles are loaded."""

    def __init__(self) -> None:
        self.before: Callable[[Sequence[Sequence[int]]], None] = lambda rows: None


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Let a test make sessions fail or wait: it sets `before`."""
    injected, run = Faults(), EncoderSession.run

    def faulty(session: EncoderSession, rows: Sequence[Sequence[int]]) -> Vectors:
        injected.before(rows)
        return run(session, rows)

    monkeypatch.setattr(EncoderSession, "run", faulty)
    return injected


class Hold:
    """Holds whoever calls it until `release` is set; `entered` tells that somebody is held."""

    def __init__(self) -> None:
        self.entered, self.release = Event(), Event()

    def __call__(self, rows: Sequence[Sequence[int]]) -> None:
        self.entered.set()
        assert self.release.wait(60)


@pytest.fixture
def hold(faults: Faults) -> Iterator[Hold]:
    """Hold every batch from now on. It is released at the end of the test at the latest."""
    held = Hold()
    faults.before = held
    yield held
    held.release.set()


@pytest.fixture
def start(models_dir: Path) -> Iterator[Callable[..., Process]]:
    """Start services that are killed after the test if they still run."""
    with ExitStack() as stack:

        def launch(**settings: object) -> Process:
            process = Process(**{"models_dir": models_dir} | settings)
            stack.callback(process.kill)
            return process

        yield launch
