"""Waiting for what happens elsewhere."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; a minute at most."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)
