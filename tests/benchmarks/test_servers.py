import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.servers import Peer, PeerError, post, python_of, running

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b"ready")
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def peer(program: str, requirements: tuple[str, ...] = ()) -> Peer:
    return Peer(
        "echo",
        "/say",
        lambda sentences: {"said": list(sentences)},
        "/",
        lambda python, port: [python, "-c", program, str(port)],
        requirements,
    )


def test_a_server_is_started_asked_weighed_and_ended(tmp_path: Path):
    with running(peer(SERVER), tmp_path) as server:
        assert post(server, ["hello"]) == b'{"said":["hello"]}'
        assert server.resident_bytes() > 1_000_000
        assert server.cpu_seconds() > 0
        assert server.start_seconds > 0
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    with pytest.raises(PeerError, match="does not answer"):
        post(server, ["hello"])
    assert list(tmp_path.iterdir()) == []


def test_what_a_server_starts_is_weighed_with_it_and_may_end_meanwhile(tmp_path: Path):
    child = "import subprocess; subprocess.Popen(['sh', '-c', 'while :; do sleep 0.01; done']);"
    with running(peer(child + SERVER), tmp_path) as server:
        alone = psutil.Process(server.pid)
        assert all(server.resident_bytes() > alone.memory_info().rss for _ in range(50))
        (shell,) = alone.children()
        shell.kill()


def test_a_server_that_ends_says_its_last_words(tmp_path: Path):
    with (
        pytest.raises(PeerError, match="did not start: no luck today"),
        running(peer("raise SystemExit('no luck today')"), tmp_path),
    ):
        pass


@pytest.mark.slow
def test_a_peer_that_pip_cannot_install_is_an_error_and_not_left_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):
        with pytest.raises(PeerError, match=r"cannot be installed: .*No matching distribution"):
            python_of(peer(SERVER, ("no-such-package",)), tmp_path)


def test_what_needs_no_package_runs_in_our_own_python(tmp_path: Path):
    assert python_of(peer(SERVER), tmp_path) == sys.executable
