"""A models folder with one bundle of each kind, and a client of a service that has loaded it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bundles import write_encoder, write_task
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings


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
    """Start a service with some settings changed, and wait until it has loaded its models, or failed to."""
    with ExitStack() as stack:

        def start(**settings: object) -> TestClient:
            defaults = {"models_dir": models_dir, "threads": 2, "drain_seconds": 0}
            client = stack.enter_context(TestClient(create_app(Settings(**defaults | settings))))
            client.portal.call(client.app.state.service.loaded.wait)
            return client

        yield start


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    """A service with the default settings."""
    return serve()
