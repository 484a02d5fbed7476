"""Which package may import what: the rules that keep serving free of torch and each folder free of surprises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"app", "training", "export", "benchmarks", "tests"}
WEB = {"fastapi", "starlette", "uvicorn"}
# `evaluate` sets bundles beside students; nothing else in training knows what a bundle is.
TRAINERS_COMMANDS = ROOT / "training" / "__main__.py"


def imports(file: Path) -> set[str]:
    """Give the dotted name of every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: imports are absolute"
            found.add(node.module)
    return found


def packages(files: list[Path]) -> set[str]:
    return {name.partition(".")[0] for file in files for name in imports(file)}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("app", {"torch", "transformers", "onnx"} | OURS - {"app"}),
        ("training", {"onnx", "onnxruntime"} | WEB | OURS - {"training"}),
        ("export", WEB | OURS - {"app", "training", "export"}),
    ],
)
def test_a_package_keeps_out_of_what_is_not_its_business(package: str, forbidden: set[str]) -> None:
    assert not packages([file for file in sources(package) if file != TRAINERS_COMMANDS]) & forbidden


def test_the_trainers_command_line_reaches_bundles_through_one_module_of_export() -> None:
    foreign = {name for name in imports(TRAINERS_COMMANDS) if name.partition(".")[0] in OURS - {"training"}}
    assert foreign == {"export.columns"}
    assert not packages([TRAINERS_COMMANDS]) & (WEB | {"onnx", "onnxruntime"})
    top = [node for node in ast.parse(TRAINERS_COMMANDS.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert not [node for node in top if node.module in foreign], "only the command that needs it imports it"


def test_export_reads_bundles_through_the_very_modules_that_serve_them() -> None:
    from_app = {name for file in sources("export") for name in imports(file) if name.startswith("app")}
    assert from_app <= {"app.bundle", "app.drift", "app.fidelity", "app.session", "app.tokenizer"}


def test_only_the_edge_of_the_service_knows_its_web_framework() -> None:
    inside = [file for file in sources("app") if packages([file]) & WEB]
    requests = {"json_route.py", "routes.py", "express.py", "protocol.py"}
    assert {file.name for file in inside} <= requests | {"main.py", "errors.py", "__main__.py", "documentation.py"}


def test_the_batcher_knows_neither_web_nor_model() -> None:
    assert not packages([ROOT / "app" / "batcher.py"]) & (WEB | {"onnxruntime", "tokenizers", "pydantic"})


def test_file_names_are_unique_across_packages() -> None:
    names = [file.name for package in ("app", "training", "export") for file in sources(package)]
    shared = {name for name in names if names.count(name) > 1} - {"__init__.py", "__main__.py"}
    assert not shared


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "core", "helpers", "misc"}
    found = [path for package in OURS for path in (ROOT / package).rglob("*") if path.stem in drawers]
    assert not found


def test_answering_a_request_imports_neither_torch_nor_transformers() -> None:
    script = """
import sys
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Settings

with TestClient(create_app(Settings(models_dir="models", _env_file=None))) as client:
    while client.get("/health/ready").status_code != 200:
        assert client.get("/health/live").status_code == 200, client.get("/health/live").text
    answer = client.post("/encode", json={"sentences": "hello"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["embeddings"][0]) == 384
    print(*sorted({"torch", "transformers", "onnx"} & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", ["app.session", "export.graph"])
def test_onnx_runtime_reports_to_nobody(module: str, tmp_path: Path) -> None:
    # it keeps what it is about to send, and the machine's id, in the home folder
    code = f"import {module}, onnxruntime; onnxruntime.SessionOptions()"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env={"HOME": str(tmp_path)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))
