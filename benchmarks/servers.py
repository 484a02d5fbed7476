"""The servers that are compared: this one, and peers that the harness installs into venvs of their own."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import psutil

from benchmarks.client import Client, free_port

UNDERSTUDY = "understudy"
TORCH = "torch==2.13.0"
CACHE = Path(".cache/benchmarks")
START_SECONDS = 180.0
POLL_SECONDS = 0.01
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past any proxy in the environment


class PeerError(RuntimeError):
    """A peer that could not be installed or started; the message is what its row says."""


@dataclass(frozen=True)
class Peer:
    """A server.

    Attributes:
        name: Its row.
        path: Where sentences are posted.
        body: Sentences -> what is posted.
        ready: A path that answers 200 once sentences are welcome.
        command: Python, port -> how it is started.
        requirements: What its venv holds; none for what runs in ours.
        environment: Set for the process.
    """

    name: str
    path: str
    body: Callable[[Sequence[str]], dict[str, object]]
    ready: str
    command: Callable[[str, int], list[str]]
    requirements: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A started server; `start_seconds` is from the start of its process to its first readiness."""

    peer: Peer
    client: Client
    pid: int
    start_seconds: float

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.client.port

    def resident_bytes(self) -> int:
        """Memory of the process and of its descendants now."""
        return int(self._total(lambda process: process.memory_info().rss))

    def cpu_seconds(self) -> float:
        """Processor time of the process and of its descendants so far."""
        return self._total(lambda process: sum(process.cpu_times()[:2]))  # user and system, without ended children

    def _total(self, figure: Callable[[psutil.Process], float]) -> float:
        process, total = psutil.Process(self.pid), 0.0
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a child may end meanwhile
                total += figure(one)
        return total


def understudy(models: Path, encoding: str = "base64") -> Peer:
    """Describe this project's service with the bundles of a folder."""
    return Peer(
        UNDERSTUDY,
        "/encode",
        lambda sentences: {"sentences": list(sentences), "encoding_format": encoding},
        "/health/ready",
        lambda python, _port: [python, "-m", "app"],
        environment={"UNDERSTUDY_MODELS_DIR": str(models), "UNDERSTUDY_LOG_LEVEL": "warning"},
    )


def others(teacher: Path) -> list[Peer]:
    """Describe the peers; all serve the teacher that lies in a folder."""
    plain = str(Path(__file__).parent / "plain_server.py")
    return [
        Peer(
            "infinity",
            "/embeddings",
            lambda sentences: {"model": teacher.name, "input": list(sentences)},
            "/health",
            lambda python, port: [
                *(str(Path(python).parent / "infinity_emb"), "v2", "--model-id", str(teacher), "--port", str(port)),
                *("--engine", "torch", "--device", "cpu", "--host", "127.0.0.1", "--log-level", "warning"),
            ],
            ("infinity-emb[server,torch,optimum]",),
            {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        ),
        Peer(
            "FastAPI + sentence-transformers",
            "/encode",
            lambda sentences: {"sentences": list(sentences)},
            "/health",
            lambda python, port: [python, "-P", plain, str(teacher), str(port)],
            ("sentence-transformers", "fastapi", "uvicorn[standard]"),
            {"HF_HUB_OFFLINE": "1"},
        ),
    ]


def teacher_folder() -> Path:
    """Find the teacher's checkpoint in the installed package."""
    from training.teacher import load_teacher

    return Path(str(load_teacher("package").encoder.bert.name_or_path))


def python_of(peer: Peer, cache: Path) -> str:
    """Give the Python that a peer runs in, installing its venv where that is not done yet.

    Raises:
        PeerError: the package index does not have it, or pip fails.
    """
    if not peer.requirements:
        return sys.executable
    folder = cache / "peers" / "".join(letter if letter.isalnum() else "-" for letter in peer.name)
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.is_file():
        sys.stderr.write(f"installing {peer.name} into {folder}\n")
        venv.create(folder, clear=True, with_pip=True)
        index = os.environ.get("TORCH_INDEX")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for wanted in ([*(["--index-url", index] if index else []), TORCH], [TORCH, *peer.requirements]):
            ran = subprocess.run([*pip, *wanted], capture_output=True, text=True)
            if ran.returncode:
                lines = [line for line in ran.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
                raise PeerError(f"cannot be installed: {lines[-1]}")
        done.touch()
    return str(python)


@contextmanager
def running(peer: Peer, cache: Path = CACHE, cores: set[int] | None = None) -> Iterator[Running]:
    """Start a server on a free port, and on some cores only, until the block is left.

    Raises:
        PeerError: it cannot be installed, ends, or is not ready in time.
    """
    python = python_of(peer, cache)
    port = free_port()
    environment = {**os.environ, **peer.environment, "UNDERSTUDY_PORT": str(port)}
    with tempfile.NamedTemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(peer.command(python, port), env=environment, stdout=log, stderr=log)
        try:
            if cores:
                os.sched_setaffinity(process.pid, cores)  # before it has counted them
            while not _ready(port, peer.ready):
                if process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                    said = Path(log.name).read_text(errors="replace").splitlines()
                    raise PeerError(f"did not start: {(said or ['it said nothing'])[-1]}")
                time.sleep(POLL_SECONDS)
            yield Running(peer, Client(port), process.pid, time.perf_counter() - started)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def serving(models: Path, cores: set[int] | None = None, **settings: object) -> Iterator[Running]:
    """Serve a models folder with some settings changed, and on some cores only, until the block is left.

    Raises:
        PeerError: the service ended, or was not ready in time.
    """
    peer = understudy(models)
    changed = {f"UNDERSTUDY_{name.upper()}": str(value) for name, value in ({"drain_seconds": 0} | settings).items()}
    with running(replace(peer, environment={**peer.environment, **changed}), cores=cores) as server:
        yield server


async def sizes(server: Running, stop: float) -> list[int]:
    """Take the resident size each second."""
    found = []
    while time.monotonic() < stop:
        await asyncio.sleep(1)
        found.append(server.resident_bytes())
    return found


def post(server: Running, sentences: Sequence[str]) -> bytes:
    """Post sentences once: the answer's body; raises PeerError unless it is a 200."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{server.peer.path}",
        orjson.dumps(server.peer.body(sentences)),
        {"Content-Type": "application/json"},
    )
    try:
        with DIRECT.open(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.URLError as error:
        raise PeerError(f"does not answer: {error}") from error


def _ready(port: int, path: str) -> bool:
    try:
        with DIRECT.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
