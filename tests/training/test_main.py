import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill", "--recipe", "none.toml"], "error: cannot read the recipe none.toml"),
        (["distill", "--data", "nowhere"], "error: nowhere/corpus/wiki_core.txt.xz is missing: DATA_DIR"),
        (["finetune", "--task", "sst2", "--data", "nowhere"], "error: nowhere/glue/SST-2/train.tsv is missing"),
        (["evaluate", "--run", "nowhere"], "error: nowhere holds no complete run"),
    ],
)
def test_what_a_user_can_mend_is_one_line(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_help_names_the_commands():
    assert "distill | finetune | evaluate" in run("--help").stdout
