"""How many cores this process may really use, and how much memory it holds.

The machine's count of cores is wrong in a container and under taskset.
"""

import ctypes
import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
STATM = Path("/proc/self/statm")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Count the cores of the affinity mask, or fewer where a cgroup's quota allows fewer; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(cgroup))))


def resident_bytes() -> int:
    """Tell the memory that this process holds; 0 where the system has no /proc."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def release_freed() -> None:
    """Give the system back what is freed: glibc keeps it for each thread, and so every set of models added to it."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _quota(cgroup: Path) -> float:
    """Read the cores that the quota grants (cgroup version 2, else 1); infinite where there is none."""
    for read in (_quota_v2, _quota_v1):
        try:
            return read(cgroup)
        except (OSError, ValueError):
            continue
    return math.inf


def _quota_v2(cgroup: Path) -> float:
    quota, period = (cgroup / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_v1(cgroup: Path) -> float:
    quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
    return math.inf if quota < 0 else quota / int((cgroup / "cpu/cpu.cfs_period_us").read_text())
