import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import Run
from training.distillation import distil
from training.peers import ALONE, Peers, PeersError, join_peers
from training.recipe import DistillRecipe, read_recipe

ROOT = Path(__file__).parents[2]

RECIPE = """
name = "small"
teacher = "{teacher}"
precision = "float32"
[corpus]
sources = [{{ path = "corpus/lines.txt.xz", sentences = 400 }}]
max_tokens = 32
held_out = 0.1
[student]
embedding = 16
hidden = 16
[optimisation]
epochs = 8
learning_rate = 1e-2
batch_rows = 32
average = 0.9
"""


def test_shares_of_a_batch_hold_every_row_once():
    rows = np.arange(7)
    shares = [Peers(rank, 3).share(rows).tolist() for rank in range(3)]
    assert sorted(row for share in shares for row in share) == rows.tolist()
    assert Peers(2, 3).share(rows[:2]).tolist() == []


def test_a_single_peer_changes_nothing():
    parameter = torch.ones(2, requires_grad=True)
    parameter.sum().backward()
    assert ALONE.add_up([parameter], 1.5, 0.0) == [1.5, 0.0]
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1, 1]
    assert ALONE.share(np.arange(3)).tolist() == [0, 1, 2]
    ALONE.take_over([parameter])
    assert parameter.tolist() == [1, 1]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("held_out_cosine", line.get("accuracy"))) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["distill", "finetune"])
def test_two_processes_give_the_losses_of_one(
    small_bert: Path, small_student: Path, corpus: Path, tmp_path: Path, command: str
):
    (tmp_path / "small.toml").write_text(RECIPE.format(teacher=small_bert))
    own = {
        "distill": ["--recipe", tmp_path / "small.toml", "--cache", tmp_path / "cache"],
        "finetune": ["--task", "sst2", "--from", small_student],
    }
    options = [*map(str, own[command]), "--data", str(corpus), "--threads", "1"]
    two = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "training"]
    for name, module in (("one", ["training"]), ("two", two)):
        asked = [sys.executable, "-m", *module, command, *options, "--into", str(tmp_path / name)]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert len(losses(tmp_path / "one")) > 2


def test_without_enough_gpus_training_stays_on_the_cpu_unless_they_were_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with join_peers("auto") as peers:
        assert peers.device.type == "cuda"
    with join_peers("cpu") as peers:
        assert peers.device.type == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with join_peers("auto") as peers:
        assert peers.device.type == "cpu"
    with pytest.raises(PeersError, match="each of 2 processes, and there are 1"), join_peers("cuda"):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
def test_a_gpu_gives_the_losses_of_the_cpu(small_bert: Path, corpus: Path, tmp_path: Path):
    file = tmp_path / "small.toml"
    file.write_text(RECIPE.format(teacher=small_bert))
    curves = []
    for device in ("cpu", "cuda"):
        run = Run(tmp_path / device)
        with join_peers(device) as peers:
            distil(read_recipe(file, DistillRecipe), corpus, tmp_path / f"cache-{device}", run, peers)
        curves.append([line["held_out_cosine"] for line in run.metrics() if "epoch" in line])
    assert curves[0] == pytest.approx(curves[1], abs=2e-3)
