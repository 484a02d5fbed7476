"""The real service in a process of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from tempfile import TemporaryFile


class Process:
    """`python -m app` with some settings, on a free port."""

    def __init__(self, port: int = 0, python: str = sys.executable, **settings: object) -> None:
        self.port = port or free_port()
        chosen = {"port": self.port, "drain_seconds": 0.2, "threads": 2, "lag_seconds": 30} | settings
        names = {f"UNDERSTUDY_{name.upper()}": str(value) for name, value in chosen.items()}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
        self.log = TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would fill up and hold the service)
        self.popen = subprocess.Popen([python, "-m", "app"], env=plain | names, stderr=self.log)

    def call(self, method: str, path: str, content: object = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(content) if content else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def encode(self, *sentences: str) -> int:
        return self.call("POST", "/encode", {"sentences": sentences or ["good"]})[0]

    def wait_until(self, status: int = 200, path: str = "/health/ready") -> "Process":
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            try:
                if self.call("GET", path)[0] == status:
                    return self
            except OSError:
                assert self.popen.poll() is None, self.ended()[1]
        raise AssertionError(f"{path} never answered {status}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait for the end: the exit code and what stood on standard error."""
        self.popen.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the end: the exit code and what stood on standard error."""
        code = self.popen.wait(60)
        self.log.seek(0)
        return code, self.log.read()

    def logged(self) -> str:
        """What stands on standard error so far."""
        return os.pread(self.log.fileno(), 1 << 20, 0).decode()  # a seek would move where the process writes

    def kill(self) -> None:
        """Make sure that it is gone."""
        self.popen.kill()
        self.popen.wait()
        self.log.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
