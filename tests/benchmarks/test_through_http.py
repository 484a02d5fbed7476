import asyncio
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_servers import SERVER, peer

from benchmarks.servers import Running, running
from benchmarks.through_http import Round, closed_loop, closed_table, in_turn, open_loop

REFUSING = SERVER.replace("send_response(200)", "send_response(200 if self.command == 'GET' else 429)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(peer(SERVER), tmp_path_factory.mktemp("logs")) as server:
        yield server


def test_an_open_loop_sends_what_its_rate_asks_for_and_times_every_request(server: Running):
    times = asyncio.run(open_loop(server, 40, ["one", "two"], 0.5))
    assert len(times) == 20
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < math.inf


def test_what_is_refused_counts_as_never_answered(tmp_path: Path):
    with running(peer(REFUSING), tmp_path) as refusing:
        assert asyncio.run(open_loop(refusing, 20, ["one"], 0.2)) == [math.inf] * 4


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_closed_loop_counts_answers_and_failures(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.through_http.SECONDS", 1)
    found = closed_loop(server, 1, in_turn(["a ]==] b", "c"], 2))
    assert found.requests_per_second > 0
    assert 0 < found.p50 <= found.p99
    assert found.failed == 0
    with running(peer(REFUSING), tmp_path) as refusing:
        assert closed_loop(refusing, 1, in_turn(["a"], 1)).failed > 0


def test_a_table_leads_with_its_first_row_and_keeps_who_could_not_be_started():
    loads = {"ours": lambda: Round(100.0, 0.001, 0.002, 0, 1.0), "theirs": lambda: Round(10.0, 0.01, 0.02, 0, 9.0)}
    table = closed_table(loads, {"broken": "cannot be installed"}, 4, 32)
    assert [row[:2] for row in table.rows] == [("ours", 100.0), ("theirs", 10.0), ("broken", "cannot be installed")]
    assert [row[3] for row in table.rows] == [1, 10, None]


def test_requests_take_the_sentences_in_turn():
    assert in_turn(["a", "b", "c"], 2)[:3] == [["a", "b"], ["c", "a"], ["b", "c"]]
