"""Two worker processes behind one port."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import write_encoder
from processes import Process
from waiting import until

Start = Callable[..., Process]


def children(process: Process) -> list[int]:
    """The workers' process ids."""
    task = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children")
    return [int(number) for number in task.read_text().split() if is_worker(number)]


def is_worker(pid: str) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def total(process: Process, name: str) -> float:
    status, body = process.call("GET", "/metrics")
    assert status == 200, process.logged()
    return next(float(line.rpartition(" ")[2]) for line in body.decode().splitlines() if line.startswith(name))


def kill_one(process: Process) -> None:
    """Kill a worker, and wait until another has taken its place."""
    before = children(process)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: before[0] not in (now := children(process)) and len(now) == len(before))


def spaces(process: Process) -> set[str]:
    """Whose vectors are answered, over many requests. A replacement may still be loading, and answers none then."""
    answers = [process.call("POST", "/encode", {"sentences": ["good"]}) for _ in range(20)]
    assert {status for status, _ in answers} <= {200, 503}
    return {json.loads(body)["space"] for status, body in answers if status == 200}


def loads(process: Process) -> int:
    """How many times a worker has read the models folder."""
    return process.logged().count("loaded /")


def until_serving(process: Process, workers: int) -> None:
    """Wait until so many workers have begun to serve, replacements among them."""
    until(lambda: process.logged().count('"serving ') == workers)


FILES = ["counter_0.db", "counter_1.db", "counter_supervisor.db", "histogram_0.db", "histogram_1.db"]
DEATHS = "understudy_worker_deaths_total"
ENCODED = 'understudy_requests_total{model="student",route="/encode",status="200"}'


@pytest.mark.slow
def test_metrics_add_up_over_processes_and_start_from_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for _ in range(2):  # the second run finds what the first left, and must not count it
        service = start(workers=2).wait_until()
        assert len(children(service)) == 2
        assert total(service, ENCODED) == 0
        assert [service.encode() for _ in range(40)] == [200] * 40
        assert total(service, ENCODED) == 40
        assert total(service, 'understudy_queue_tokens{model="student"}') == 0
        kill_one(service)
        until_serving(service, 3)
        assert [service.encode() for _ in range(10)] == [200] * 10
        assert total(service, ENCODED) == 50  # what the dead one counted is not lost
        assert sorted(file.name for file in tmp_path.glob("[ch]*.db")) == FILES
        code, error = service.end()
        assert code == 0, error
        (tmp_path / "counter_12.db").write_bytes(b"stale")


@pytest.mark.slow
def test_all_workers_take_new_bundles_or_none_does(start: Start, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    service = start(models_dir=tmp_path, workers=2, admin=True, api_key="key").wait_until()
    key = {"authorization": "Bearer key"}
    write_encoder(tmp_path, "teacher")
    assert service.call("POST", "/admin/reload", **key) == (200, b'{"bundles":["student","teacher"]}')
    for _ in range(20):
        assert b"teacher" in service.call("GET", "/models", **key)[1]
    (tmp_path / "half").mkdir()
    status, body = service.call("POST", "/admin/reload", **key)
    assert (status, b"half is no bundle" in body) == (409, True)
    (tmp_path / "half").rmdir()
    (tmp_path / "teacher").rename(tmp_path / ".teacher")
    service.popen.send_signal(signal.SIGHUP)
    until(lambda: all(b"teacher" not in service.call("GET", "/models", **key)[1] for _ in range(10)))
    assert service.end()[0] == 0


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(start: Start) -> None:
    service = start(workers=2).wait_until()
    _, second = children(service)
    assert total(service, DEATHS) == 0
    kill_one(service)
    service.wait_until()
    assert second in children(service)
    assert total(service, DEATHS) == 1
    assert service.end()[0] == 0


@pytest.mark.slow
def test_while_a_replacement_cannot_load_the_others_serve_on(start: Start, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    service = start(models_dir=tmp_path, workers=2).wait_until()
    (tmp_path / "half").mkdir()
    kill_one(service)
    until(lambda: len(children(service)) == 1)  # the replacement has ended as well
    assert [service.encode() for _ in range(10)] == [200] * 10
    assert total(service, DEATHS) == 2
    (tmp_path / "half").rmdir()
    until(lambda: len(children(service)) == 2)
    service.wait_until()
    code, log = service.end()
    assert code == 0
    assert "half is no bundle" in log


@pytest.mark.slow
def test_what_a_replacement_finds_all_workers_take(start: Start, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    service = start(models_dir=tmp_path, workers=2).wait_until()
    write_encoder(tmp_path, "teacher")
    kill_one(service)
    until(lambda: all(b"teacher" in service.call("GET", "/models")[1] for _ in range(20)))
    assert service.end()[0] == 0


@pytest.mark.slow
def test_after_a_refused_round_a_replacement_and_the_others_take_the_new_bundles_together(
    start: Start, tmp_path: Path
) -> None:
    write_encoder(tmp_path, space="old")
    service = start(models_dir=tmp_path, workers=2).wait_until()
    write_encoder(tmp_path, space="new")
    stopped, _ = children(service)
    os.kill(stopped, signal.SIGSTOP)
    service.popen.send_signal(signal.SIGHUP)
    until(lambda: loads(service) == 3)  # the other one votes, and the round waits
    os.kill(stopped, signal.SIGKILL)
    until(lambda: spaces(service) == {"new"})
    until(lambda: len(children(service)) == 2)
    assert spaces(service.wait_until()) == {"new"}
    assert total(service, 'understudy_loads_total{outcome="refused"}') == 1
    assert service.end()[0] == 0


@pytest.mark.slow
def test_a_replacement_serves_nothing_that_the_others_refuse(start: Start, tmp_path: Path) -> None:
    write_encoder(tmp_path, space="old")
    service = start(models_dir=tmp_path, workers=2).wait_until()
    write_encoder(tmp_path, space="new")
    killed, stopped = children(service)
    os.kill(stopped, signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    until(lambda: loads(service) == 3)  # by the replacement
    (tmp_path / "half").mkdir()
    os.kill(stopped, signal.SIGCONT)
    until(lambda: children(service) == [stopped])
    assert spaces(service) == {"old"}
    (tmp_path / "half").rmdir()
    until(lambda: spaces(service) == {"new"})
    code, log = service.end()
    assert code == 0
    assert "the other workers serve other bundles" in log


@pytest.mark.slow
def test_a_round_asked_for_while_no_worker_serves_takes_place_once_one_does(start: Start, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    service = start(models_dir=tmp_path, workers=2).wait_until()
    first = children(service)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len({*children(service)} - {*first}) == 2)  # these import yet
    service.popen.send_signal(signal.SIGHUP)
    until(lambda: loads(service) > 4)  # two at the start, two by the replacements, then the round's
    assert service.end()[0] == 0


@pytest.mark.slow
def test_a_bundle_that_cannot_be_served_ends_all_workers(start: Start, tmp_path: Path) -> None:
    code, error = start(models_dir=tmp_path, workers=2).ended()
    assert code == 1
    assert "holds no bundle" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_workers_end_when_their_supervisor_is_killed(start: Start) -> None:
    service = start(workers=2).wait_until()
    workers = children(service)
    service.popen.kill()
    service.popen.wait()
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))


@pytest.mark.slow
def test_one_worker_has_the_shadow_for_all_and_its_replacement_takes_it_over(start: Start) -> None:
    service = start(workers=2, shadow_rate=0.5).wait_until()
    kill_one(service)  # whichever of the two had it
    service.wait_until()
    shadowed = 'understudy_shadow_rows_total{outcome="answered"}'

    def compared() -> bool:
        assert service.encode(*["good film"] * 16) in {200, 503}  # the replacement may still be loading
        return total(service, shadowed) > 0

    until(compared)
    code, log = service.end()
    assert code == 0
    assert 1 <= log.count("shadow is off: its rate is 0") <= 2  # of three processes; the killed one had it or not
