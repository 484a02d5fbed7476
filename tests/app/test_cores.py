import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.cores import release_freed, resident_bytes, usable_cores

ALLOWED = len(os.sched_getaffinity(0))


def quota(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        file = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, ALLOWED),
        ({"cpu_max": "max 100000\n"}, ALLOWED),
        ({"cpu_max": "50000 100000\n"}, 1),
        ({"cpu_max": "100000 100000\n"}, 1),
        ({"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, ALLOWED),
        ({"cpu__cfs_quota_us": "30000\n", "cpu__cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_quota_lowers_the_count(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert usable_cores(quota(tmp_path, **files)) == cores


def test_the_affinity_mask_lowers_the_count() -> None:
    script = "import os; os.sched_setaffinity(0, {%d}); from app.cores import usable_cores; print(usable_cores())"
    script %= min(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_what_was_freed_is_no_longer_held(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library decides for itself")
    blocks = [bytes(4000) for _ in range(50_000)]
    last = blocks.pop()  # what lies below it stays with the process
    blocks.clear()
    held = resident_bytes()
    release_freed()
    assert resident_bytes() < held - 100 * 2**20
    assert last
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    release_freed()
