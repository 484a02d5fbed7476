"""The README's commands are run, and must answer what it shows."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.app.processes import Process

README = (Path(__file__).parents[2] / "README.md").read_text()
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")

pytestmark = pytest.mark.slow


def shown() -> list[tuple[str, str]]:
    """Give each curl command of the README with the answer below it."""
    return re.findall(r"^    \$ (curl .*)\n    (.*)$", README, flags=re.MULTILINE)


def test_curls_answer_as_shown():
    assert len(shown()) >= 2
    service = Process()
    try:
        service.wait_until(200)
        for command, expected in shown():
            ours = command.replace("localhost:8000", f"localhost:{service.port}")
            answer = subprocess.run(["sh", "-c", ours], capture_output=True, text=True, check=True).stdout.rstrip("\n")
            assert NUMBER.sub("#", answer) == NUMBER.sub("#", expected), command
            # the last number may be cut off
            numbers = [[float(number) for number in NUMBER.findall(text)][:-1] for text in (answer, expected)]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.01)
    finally:
        service.kill()
