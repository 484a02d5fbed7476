"""A lean asyncio client, and what else the scripts share that put a load on a service."""

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

TOTAL = re.compile(rb"total;dur=([0-9.]+)")


class Client:
    """Requests over as many kept connections as are needed at once."""

    def __init__(self, port: int) -> None:
        """Talk to this machine's `port`."""
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, content: object) -> tuple[int, bytes]:
        """Send JSON: the answer's status and body."""
        status, answer, _ = await self._call("POST", path, orjson.dumps(content))
        return status, answer

    async def timed_post(self, path: str, content: object) -> tuple[int, bytes, float]:
        """Send JSON: the answer's status and body, and the seconds that the service says it took (Server-Timing)."""
        return await self._call("POST", path, orjson.dumps(content))

    async def get(self, path: str) -> tuple[int, bytes]:
        """Ask for a page: the answer's status and body."""
        status, answer, _ = await self._call("GET", path, b"")
        return status, answer

    def close(self) -> None:
        """Close what is kept open."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _call(self, method: str, path: str, body: bytes) -> tuple[int, bytes, float]:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answered = await reader.readuntil(b"\r\n\r\n")
        lines = answered.decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        answer = await reader.readexactly(length)
        self._idle.append((reader, writer))
        total = TOTAL.search(answered)
        return int(answered.split(maxsplit=2)[1]), answer, float(total[1]) / 1000 if total else 0.0


def program(name: str) -> str:
    """Find a program, which Debian calls as its package.

    Raises:
        RuntimeError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed; on Debian and Ubuntu: apt install {name}")
    return found


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def cores_apart() -> Iterator[set[int]]:
    """Keep this process on the first core, and give the others, which are for the service; all, if there is one."""
    every = os.sched_getaffinity(0)
    own = {min(every)}
    os.sched_setaffinity(0, own)
    try:
        yield (every - own) or every
    finally:
        os.sched_setaffinity(0, every)
