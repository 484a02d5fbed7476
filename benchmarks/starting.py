"""How soon each server is ready, and how much memory it holds, idle and after a load."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.report import Cell, Table, spread
from benchmarks.servers import UNDERSTUDY, Peer, PeerError, others, post, running, teacher_folder, understudy

ROUNDS = 3
REQUESTS = 50
REQUEST_SENTENCES = 32


def table(student: Path, everything: Path, cache: Path, sentences: Sequence[str]) -> Table:
    """Start every server several times, in turn.

    Args:
        student: A models folder that holds the student alone.
        everything: A models folder with all bundles.
        cache: For the peers.
        sentences: What is sent before the memory is taken a second time.
    """
    peers = [
        replace(understudy(student), name=f"{UNDERSTUDY}, student alone"),
        replace(understudy(everything), name=f"{UNDERSTUDY}, all of models/"),
        *others(teacher_folder()),
    ]
    return Table(
        f"Start and memory: {ROUNDS} starts; memory resident when ready, and after {REQUESTS} requests of "
        f"{REQUEST_SENTENCES} sentences",
        ("server", "ready, s", "of all starts", "idle, MB", "after the load, MB"),
        [_row(peer, cache, (list(sentences) * REQUEST_SENTENCES)[:REQUEST_SENTENCES]) for peer in peers],
    )


def _row(peer: Peer, cache: Path, sentences: Sequence[str]) -> tuple[Cell, ...]:
    seconds: list[float] = []
    idle = loaded = 0
    try:
        for _ in range(ROUNDS):
            with running(peer, cache) as server:
                seconds.append(server.start_seconds)
                idle = server.resident_bytes()
                for _ in range(REQUESTS):
                    post(server, sentences)
                loaded = server.resident_bytes()
    except PeerError as error:
        return (peer.name, None, str(error), None, None)
    return (peer.name, statistics.median(seconds), spread(seconds), idle // 10**6, loaded // 10**6)
