"""The make targets, in a copy of what they read, in bad surroundings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("app", "training", "export"):
        (tmp_path / package).mkdir()
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # a make that runs these tests must not speak to the one that they run
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=outside | environment, capture_output=True, text=True, timeout=120)


def test_help_lists_the_commands():
    said = make(ROOT, "help").stdout
    for target in ("serve", "test", "check", "distill", "export", "bench"):
        assert f"make {target} " in said


def test_every_target_in_the_list_can_be_made():
    listed = [line.split()[1] for line in make(ROOT, "help").stdout.splitlines()]
    for target in listed:
        assert make(ROOT, "--dry-run", target).returncode == 0


def test_snips_is_made_by_its_own_recipe():
    commands = make(ROOT, "--dry-run", "tasks").stdout.splitlines()
    (snips,) = [line for line in commands if "finetune --task snips " in line]
    assert "--recipe training/recipes/snips.toml" in snips


def test_tasks_are_exported_beside_the_student_that_is_there_where_none_was_distilled(copy: Path):
    def exports() -> str:
        return make(copy, "--dry-run", "export").stdout

    assert "-m export student" not in exports()
    assert "-m export task --run runs/" in exports()
    (copy / "runs" / "student").mkdir(parents=True)
    assert "-m export student --run runs/student" in exports()


def test_a_python_too_old_is_named_with_the_way_out(copy: Path):
    old = copy / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make(copy, "serve", "PYTHON=./old-python")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, and ./old-python is Python 3.9.2" in done.stderr
    assert "PYTHON=python3.12 make serve" in done.stderr


def test_an_index_out_of_reach_is_named(copy: Path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_EXTRA_INDEX_URL": ""}
    done = make(copy, "serve", f"PYTHON={sys.executable}", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull, **nowhere)
    assert done.returncode != 0
    assert "Is the package index reachable?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (copy / ".venv" / "serving").exists()
