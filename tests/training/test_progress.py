import json
from contextlib import suppress
from pathlib import Path

import pytest

from training import progress as module
from training.progress import Progress


def lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_step_may_write_a_line_and_the_end_always_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("work", 10, 4, "row", tmp_path / "work.jsonl") as progress:
        progress.add(3)
        progress.add(3)
    assert [(line["done"], line["total"]) for line in lines(tmp_path / "work.jsonl")] == [(7, 10), (10, 10), (10, 10)]


def test_what_was_stopped_and_taken_up_again_is_told_in_one_file(tmp_path: Path):
    stopped = Progress("work", 10, 0, "row", tmp_path / "work.jsonl")
    with suppress(KeyboardInterrupt), stopped:
        stopped.add(4)
        raise KeyboardInterrupt
    with Progress("work", 10, 4, "row", tmp_path / "work.jsonl") as progress:
        progress.add(6)
    assert [(line["work"], line["done"]) for line in lines(tmp_path / "work.jsonl")] == [("work", 4), ("work", 10)]


def test_without_a_file_there_is_only_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Progress("work", 10, 0, "row", None) as progress:
        progress.add(10)
    assert "work: 100%" in capsys.readouterr().err
