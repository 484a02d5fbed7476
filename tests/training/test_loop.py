import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn

from training.batches import Batches, Rows
from training.checkpoint import Run, RunError
from training.loop import fit, optimisers_of, parameter_groups, rate_share
from training.muon import FloatMuon
from training.peers import ALONE
from training.recipe import Optimisation

LENGTHS = np.random.default_rng(0).integers(1, 5, 200)
INPUTS = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
HOW = Optimisation(epochs=3, learning_rate=0.1, batch_rows=16, batch_tokens=64, average=0.9)


class KilledError(Exception):
    """Stands for a kill at an exact step."""


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))


def squared(network: nn.Module, before: Callable[[], None] = lambda: None) -> Callable[[Rows], Tensor]:
    def loss_of(rows: Rows) -> Tensor:
        before()
        loss: Tensor = (network(INPUTS[rows]) - INPUTS[rows].sum(dim=1, keepdim=True)).square().mean()
        return loss

    return loss_of


def train(
    network: nn.Module, run: Run, before: Callable[[], None] = lambda: None, how: Optimisation = HOW
) -> dict[str, float]:
    run.start({"name": "test"}, Tokenizer(WordLevel({"a": 0}, unk_token="a")), [])
    return fit(
        network,
        parameter_groups(network, {"": how.learning_rate}, how.weight_decay),
        Batches(np.arange(200), LENGTHS, 1, how.batch_rows, how.batch_tokens),
        squared(network, before),
        how,
        run,
        seed=1,
        bfloat16=False,
        peers=ALONE,
        evaluate=lambda trained: {"norm": float(sum(p.detach().norm() for p in trained.parameters()))},
    )


def stop_at(call: int, stop: Callable[[], None]) -> Callable[[], None]:
    calls = iter(range(1, 10_000))

    def count() -> None:
        if next(calls) == call:
            stop()

    return count


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def _save_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.SECONDS_BETWEEN_SAVES", -1)
    monkeypatch.setattr("training.loop.STEPS_BETWEEN_LOGS", 1)


@pytest.mark.parametrize("more", [{}, {"keep": 0.3}, {"matrix_rate": 0.02}], ids=["adam", "kept", "muon"])
def test_a_killed_run_that_resumes_equals_one_that_was_never_killed(tmp_path: Path, more: dict):
    whole, killed, resumed, how = model(), model(), model(), replace(HOW, **more)
    figures = train(whole, Run(tmp_path / "whole"), how=how)

    def kill() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(killed, Run(tmp_path / "killed"), stop_at(20, kill), how)
    assert train(resumed, Run(tmp_path / "killed"), how=how) == figures
    assert same(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_step_that_would_spoil_the_weights_stops_the_run_and_is_not_saved(
    broken: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("training.loop.SECONDS_BETWEEN_SAVES", -1)
    run, network, steps = Run(tmp_path / "run"), model(), iter(range(100))

    def spoil() -> None:
        if next(steps) == 4:
            with torch.no_grad():
                network[0].weight[0, 0] = broken

    with pytest.raises(RunError, match=r"gradient of step 5 is not finite.*lower the recipe's rates"):
        train(network, run, spoil)
    state = run.load()
    assert state is not None
    assert state["step"] == 4
    assert all(weight.isfinite().all() for weight in run.weights().values())


def test_metrics_of_a_resumed_run_name_every_step_once(tmp_path: Path):
    def kill() -> None:
        raise KilledError

    run = Run(tmp_path / "run")
    with pytest.raises(KilledError):
        train(model(), run, stop_at(20, kill))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "loss": 1}\n{"step": 2')  # logged after the last checkpoint, and cut off
    train(model(), run)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, steps[-1] + 1))


def test_a_checkpoint_of_another_version_is_refused_in_words(tmp_path: Path):
    run = Run(tmp_path / "run")
    train(model(), run)
    state = run.load()
    assert state is not None
    run.save({**state, "optimisers": []})
    with pytest.raises(RunError, match="another version"):
        train(model(), run)


def test_sigterm_ends_the_step_saves_and_stops(tmp_path: Path):
    run = Run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(model(), run, stop_at(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    state = run.load()
    assert state is not None
    assert state["step"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_training_lowers_the_loss_and_what_ships_is_the_average(tmp_path: Path):
    network, run = model(), Run(tmp_path / "run")
    train(network, run)
    losses = [json.loads(line).get("loss") for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    known = [loss for loss in losses if loss is not None]
    assert np.mean(known[-10:]) < 0.5 * np.mean(known[:10])
    state = run.load()
    assert state is not None
    assert same(run.weights(), network.state_dict())
    assert not same(state["model"], network.state_dict())


def test_the_average_of_a_short_run_has_left_its_first_weights_behind(tmp_path: Path):
    network, run = model(), Run(tmp_path / "run")
    train(network, run, how=replace(HOW, epochs=1, average=0.999))
    state = run.load()
    assert state is not None

    def distance(weights: Mapping[str, Tensor]) -> float:
        shipped = network.state_dict()
        return sum(float((shipped[name] - weight).norm()) for name, weight in weights.items())

    assert distance(state["model"]) < 0.5 * distance(model().state_dict())


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_what_ships_keeps_its_share_of_the_first_weights_and_training_goes_on_without(tmp_path: Path, average: float):
    first, plain, kept = model().state_dict(), Run(tmp_path / "plain"), Run(tmp_path / "kept")
    train(model(), plain, how=replace(HOW, average=average))
    network = model()
    figures = train(network, kept, how=replace(HOW, average=average, keep=0.25))
    halfway = {name: 0.75 * weight + 0.25 * first[name] for name, weight in plain.weights().items()}
    for weights in (kept.weights(), network.state_dict()):
        torch.testing.assert_close(dict(weights), halfway)
    assert figures["norm"] == pytest.approx(float(sum(weight.norm() for weight in halfway.values())), rel=1e-5)
    assert same(kept.load()["model"], plain.load()["model"])


def test_the_rate_climbs_then_falls_to_zero():
    shares = [rate_share(step, 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] < 0.001


def test_a_late_decay_leaves_a_plateau_that_does_not_depend_on_the_end():
    shares = [rate_share(step, 100, 0.1, decay=0.2) for step in range(100)]
    assert shares[9:80] == [1.0] * 71
    assert shares[80:] == sorted(shares[80:], reverse=True)
    assert 1 > shares[81] > shares[-1] > 0


def test_the_longest_prefix_sets_a_rate_zero_freezes_and_only_matrices_decay():
    network = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2), "word_embedding": nn.Embedding(3, 2)})
    groups = parameter_groups(network, {"": 1.0, "head": 2.0, "encoder": 0.0}, decay=0.1)
    found = [(group["peak"], group["weight_decay"]) for group in groups]
    assert found == [(2.0, 0.1), (2.0, 0.0), (1.0, 0.0)]
    assert not network["encoder"].weight.requires_grad


def test_muon_takes_the_matrices_alone_and_at_their_own_rate():
    network = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "encoder": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    groups = parameter_groups(network, {"": 0.1, "encoder": 0.05}, decay=0.01)
    adam, muon = optimisers_of(groups, replace(HOW, matrix_rate=0.02))
    assert isinstance(muon, torch.optim.Muon)
    assert [tuple(group["params"][0].shape) for group in muon.param_groups] == [(4, 4), (2, 4)]
    assert [group["peak"] for group in muon.param_groups] == [pytest.approx(0.01), pytest.approx(0.02)]
    assert [tuple(group["params"][0].shape) for group in adam.param_groups] == [(5, 4), (4,), (2,)]
    assert len(optimisers_of(groups, HOW)) == 1


@pytest.mark.parametrize("native", [True, False])
def test_muon_is_pytorchs_where_the_processor_computes_in_bfloat16(native: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    groups = parameter_groups(nn.Linear(4, 4), {"": 0.1}, decay=0.01)
    _, muon = optimisers_of(groups, replace(HOW, matrix_rate=0.02))
    assert type(muon) is (torch.optim.Muon if native else FloatMuon)
