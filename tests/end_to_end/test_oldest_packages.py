"""The service with the oldest packages that pyproject.toml allows, in a virtual environment of its own."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.app.processes import Process

ROOT = Path(__file__).parents[2]
WORDS = ["A man is eating.", "Somebody eats."]

pytestmark = pytest.mark.slow


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Give an interpreter that has each of the service's own dependencies at its lower bound."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert all(">=" in package for package in declared)
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    interpreter = str(tmp_path / "bin" / "python")
    oldest = [package.replace(">=", "==") for package in declared]
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *oldest], check=True)
    return interpreter


def test_the_service_serves_with_the_oldest_packages_that_it_allows(python: str):
    service = Process(python=python)
    try:
        service.wait_until(200)  # so every bundle has answered its canary as it should
        routes = json.loads(service.call("GET", "/openapi.json")[1])["paths"]
        plain = [path for path, verbs in routes.items() if "get" in verbs and "{" not in path]
        for path in ["/", "/docs", *plain]:
            assert service.call("GET", path)[0] == 200, path
        for path, content in {
            "/encode": {"sentences": WORDS},
            "/compare": {"sentences": WORDS},
            "/classify/sst2": {"sentences": WORDS},
            "/classify/stsb": {"pairs": [WORDS]},
            "/v1/embeddings": {"model": "student", "input": WORDS},
        }.items():
            status, answer = service.call("POST", path, content)
            assert status == 200, answer
        status, answer = service.call("POST", "/encode", {"texts": WORDS})
        assert (status, json.loads(answer)["error"]["param"]) == (422, "sentences")
    finally:
        service.kill()
