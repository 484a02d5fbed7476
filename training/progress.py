"""How far long work is: a bar with rate and time left for people, JSON lines for programs."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Some work, as a context manager. A line holds `work`, `done`, `total` and `seconds`; the end writes one too."""

    def __init__(self, name: str, total: int, done: int, unit: str, file: Path | None) -> None:
        """Show a bar.

        Args:
            name: Stands before the bar.
            total: All there is to do.
            done: What was done before.
            unit: Of both.
            file: The lines, which name the work too, are appended to it; without it there are none.
        """
        self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, unit_scale=True)
        self._name, self._file = name, file
        self._began = self._written = time.monotonic()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def add(self, amount: int) -> None:
        """So much more is done."""
        self._bar.update(amount)
        if time.monotonic() - self._written > SECONDS_BETWEEN_LINES:
            self._write()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End, finished or not."""
        self._write()
        self._bar.close()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._file is None:
            return
        line = {
            "work": self._name,
            "done": int(self._bar.n),
            "total": int(self._bar.total),
            "seconds": self._written - self._began,
        }
        with self._file.open("a") as out:
            out.write(json.dumps(line) + "\n")
