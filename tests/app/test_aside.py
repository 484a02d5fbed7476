import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundles import EMBEDDINGS, encoder_graph, write_encoder
from waiting import until

from app.aside import Aside, AsideError
from app.bundle import MODEL, Bundle, BundleError, read_bundle
from app.session import EncoderSession

ROWS = [[1, 5, 2], [1, 6, 7, 2]]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_encoder(tmp_path)


@pytest.fixture
def aside() -> Iterator[Aside]:
    made = Aside()
    yield made
    made.close()


def process_of(aside: Aside) -> int:
    assert aside._process
    return aside._process.pid


def test_it_encodes_as_a_session_does(aside: Aside, bundle: Bundle) -> None:
    expected = EncoderSession(bundle.path(MODEL)).run(ROWS)
    assert np.array_equal(aside.encode(bundle, ROWS), expected)
    first = process_of(aside)
    assert np.array_equal(aside.encode(bundle, ROWS), expected)
    assert process_of(aside) == first != os.getpid()


def test_what_fails_there_is_raised_here_and_the_next_call_is_answered(aside: Aside, bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        aside.encode(bundle, [[]])
    assert len(aside.encode(bundle, ROWS)) == len(ROWS)


def test_a_process_that_was_killed_is_told_and_replaced(aside: Aside, bundle: Bundle) -> None:
    aside.encode(bundle, ROWS)
    killed = process_of(aside)
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(AsideError, match="has ended"):
        aside.encode(bundle, ROWS)
    assert len(aside.encode(bundle, ROWS)) == len(ROWS)
    assert process_of(aside) != killed


def test_a_bundle_that_was_loaded_anew_is_opened_anew(aside: Aside, bundle: Bundle) -> None:
    before = aside.encode(bundle, ROWS)
    changed = write_encoder(bundle.folder.parent, graph=encoder_graph(EMBEDDINGS[::-1].copy()))
    assert np.array_equal(aside.encode(bundle, ROWS), before)  # what was opened stays, whatever the folder holds
    expected = EncoderSession(changed.path(MODEL)).run(ROWS)
    assert not np.array_equal(expected, before)
    assert np.array_equal(aside.encode(changed, ROWS), expected)
    with pytest.raises(BundleError, match="not what it was when it was loaded"):
        aside.encode(bundle, ROWS)


def test_a_model_whose_folder_is_gone_is_let_go_of_once_another_comes(aside: Aside, bundle: Bundle) -> None:
    before = aside.encode(bundle, ROWS)
    moved = read_bundle(bundle.folder.rename(bundle.folder.with_name("moved")))
    assert np.array_equal(aside.encode(bundle, ROWS), before)
    assert np.array_equal(aside.encode(moved, ROWS), before)
    with pytest.raises(BundleError, match="student is no bundle"):
        aside.encode(bundle, ROWS)


@pytest.mark.skipif(sys.platform != "linux", reason="SCHED_IDLE is Linux's")
def test_it_runs_at_the_lowest_priority_and_nothing_else_does(aside: Aside, bundle: Bundle) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
    aside.encode(bundle, ROWS)
    process = process_of(aside)
    assert os.getpriority(os.PRIO_PROCESS, process) == 19
    assert os.sched_getscheduler(process) == os.SCHED_IDLE
    core = {max(os.sched_getaffinity(0))}
    assert os.sched_getaffinity(process) == core
    others = [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir() if thread.name != str(process)]
    beats = [thread for thread in others if os.sched_getscheduler(thread) == os.SCHED_OTHER]
    assert core in [os.sched_getaffinity(thread) for thread in beats]
    assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == mine


def test_a_terminals_interrupt_does_not_end_it(aside: Aside, bundle: Bundle) -> None:
    aside.encode(bundle, ROWS)
    os.kill(process_of(aside), signal.SIGINT)
    assert len(aside.encode(bundle, ROWS)) == len(ROWS)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_does_not_outlive_a_service_that_is_killed(bundle: Bundle) -> None:
    program = f"""
import time
from pathlib import Path
from app.aside import Aside
from app.bundle import read_bundle
aside = Aside()
aside.encode(read_bundle(Path({str(bundle.folder)!r})), [[1, 2]])
print(aside._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout
        process = int(service.stdout.readline())
        assert is_running(process)
        service.kill()
    until(lambda: not is_running(process))


def is_running(process: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_ends_it_and_closing_twice_does_no_harm(bundle: Bundle) -> None:
    aside = Aside()
    aside.close()
    aside.encode(bundle, ROWS)
    process = process_of(aside)
    aside.close()
    aside.close()
    assert not is_running(process)
