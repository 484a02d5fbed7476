"""Encoding aside: in a process of its own, of the lowest priority, so that what goes on there is not felt here.

A thread would not do: whoever holds Python's lock must not be kept from the cores, since the whole service would wait
with it. And it must be SCHED_IDLE, not only nice: for Linux a core counts as free then, and who wakes up is put there,
instead of in a queue on the next. The price is a second copy of the model.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from app.bundle import MODEL, Bundle, BundleError, read_bundle
from app.session import EncoderSession, Vectors

BEAT_SECONDS = 0.001

Rows = Sequence[Sequence[int]]


class AsideError(RuntimeError):
    """The process ended; the next call starts another."""


class Aside:
    """One such process, which starts with the first call and holds what was called for. Belongs to one thread."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def encode(self, bundle: Bundle, rows: Rows) -> Vectors:
        """Encode rows of token ids as one batch, by a bundle's own encoder: float32 (rows, dimensions).

        Raises:
            AsideError: the process ended, by a signal or for want of memory.
            BundleError: the bundle's files are no longer those that were read.
            ValueError, NonFiniteError: as EncoderSession.run.
        """
        connection = self._connection or self._start()
        try:
            connection.send((bundle.folder, bundle.manifest.files[MODEL], rows))
            found: Vectors | Exception = connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise AsideError("the process that encodes aside has ended") from error
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._connection and self._process:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        with theirs:
            line = theirs.fileno()
            # Not in a session of its own, which Linux's autogroups would give as many cores as this one. It ends when
            # the line does, however that happens.
            self._process = subprocess.Popen([sys.executable, "-m", "app.aside", str(line)], pass_fds=[line])
        self._connection = ours
        return ours


def answer(connection: Connection) -> None:
    """Answer until the line closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the service decides when this ends
    at_work = threading.Event()
    _give_way(at_work)
    sessions: dict[Path, tuple[str, EncoderSession]] = {}
    with suppress(EOFError, OSError):
        while True:
            folder, checksum, rows = connection.recv()
            at_work.set()
            try:
                if folder not in sessions or sessions[folder][0] != checksum:
                    # a reload may bring models in folders of other names: what is gone is asked for no more
                    sessions = {place: opened for place, opened in sessions.items() if place.is_dir()}
                    sessions[folder] = checksum, _open(folder, checksum)
                connection.send(sessions[folder][1].run(rows))
            except Exception as error:  # the caller's to handle
                connection.send(error)
            finally:
                at_work.clear()


def _open(folder: Path, checksum: str) -> EncoderSession:
    bundle = read_bundle(folder)
    if bundle.manifest.files[MODEL] != checksum:
        raise BundleError(f"{folder} is not what it was when it was loaded")
    return EncoderSession(bundle.path(MODEL), bundle.embedding)


def _give_way(at_work: threading.Event) -> None:
    """Run on one core, and only when nothing else wants it; where a system knows no such thing, as seldom as it can.

    Whoever wakes up takes the core at once. But one whose turn there has just ended, and who is ready again, is seen at
    Linux's next tick alone, up to 4 ms later, and may hold Python's lock over there meanwhile. So while there is work a
    thread of common priority wakes up on this core every millisecond: each time Linux looks who should have it.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        threading.Thread(target=_beat, args=(at_work,), daemon=True).start()
    os.nice(19)  # on Linux this thread alone, like the next
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _beat(at_work: threading.Event) -> None:
    while at_work.wait():
        time.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    answer(Connection(int(sys.argv[1])))
