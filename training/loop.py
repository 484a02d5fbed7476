"""The one training loop: distillation and fine-tuning differ only in model, rows and loss."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.batches import Batches, Rows
from training.checkpoint import Run, RunError
from training.muon import FloatMuon
from training.peers import Peers
from training.precision import autocast, computes_in_bfloat16
from training.recipe import Optimisation

SECONDS_BETWEEN_SAVES = 60
STEPS_BETWEEN_LOGS = 50

Groups = list[dict[str, Any]]


def rate_share(step: int, steps: int, warmup: float, decay: float = 1.0) -> float:
    """Give the learning rate of a step as a share of its peak: linear warm-up, plateau, cosine decay to zero."""
    climb = max(1, round(warmup * steps))
    if step < climb:
        return (step + 1) / climb
    fall = max(climb, round((1 - decay) * steps))
    return 0.5 * (1 + math.cos(math.pi * max(0, step - fall) / max(1, steps - fall)))


def parameter_groups(model: nn.Module, rates: Mapping[str, float], decay: float) -> Groups:
    """Group parameters by learning rate, the longest matching prefix in `rates` deciding; only matrices decay.

    Embeddings do not decay: rare rows would shrink with every batch that does not hold them.
    """
    groups: Groups = []
    looked_up = {table.weight for table in model.modules() if isinstance(table, nn.Embedding)}
    for name, parameter in model.named_parameters():
        prefix = max((p for p in rates if name.startswith(p)), key=len)
        if rates[prefix] == 0:
            parameter.requires_grad = False
            continue
        matrix = parameter.dim() > 1 and parameter not in looked_up
        groups.append(
            {
                "params": [parameter],
                "peak": rates[prefix],
                "weight_decay": decay if matrix else 0.0,
                "matrix": matrix,
            }
        )
    return groups


def optimisers_of(groups: Groups, how: Optimisation) -> list[torch.optim.Optimizer]:
    """Give AdamW, and beside it Muon for the matrices where `how` has a rate for it."""
    if not how.matrix_rate:
        return [torch.optim.AdamW(groups, lr=how.learning_rate, fused=True)]
    share = how.matrix_rate / how.learning_rate
    matrices = [{**group, "peak": group["peak"] * share} for group in groups if group["matrix"]]
    others = [group for group in groups if not group["matrix"]]
    device = groups[0]["params"][0].device
    muon = torch.optim.Muon if computes_in_bfloat16(device) else FloatMuon
    return [
        torch.optim.AdamW(others, lr=how.learning_rate, fused=True),
        muon(matrices, lr=how.matrix_rate),
    ]


def fit(
    model: nn.Module,
    groups: Groups,
    batches: Batches,
    loss_of: Callable[[Rows], Tensor],
    how: Optimisation,
    run: Run,
    *,
    seed: int,
    bfloat16: bool,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    peers: Peers,
) -> dict[str, float]:
    """Train until the last step, from the last checkpoint where there is one, and give the final figures.

    Every step depends only on the checkpoint before it, the seed and its number: a run that was killed and resumed
    ends with the same weights as one that was not.

    Args:
        model: Trained in place; at the end it holds the weights that ship: averaged, and between those and the first
            ones, where the recipe says so.
        groups: From `parameter_groups`.
        batches: Which rows a step sees.
        loss_of: Mean loss over rows.
        how: Rates, epochs, clipping, averaging, how much of the first weights to keep.
        run: Where checkpoints and metrics go.
        seed: Decides dropout.
        bfloat16: Autocast the forward pass, where the device computes in it.
        evaluate: Called after each epoch, on the weights that would ship.
        peers: The processes that train together; each batch is shared among them, and `model` is on their device.

    Raises:
        RunError: a gradient is not finite, or the checkpoint is of another version of this code.
    """
    steps = how.epochs * batches.per_epoch
    optimisers = optimisers_of(groups, how)
    average = _moving_average(model, how.average) if how.average else None
    began_as = {name: weight.clone() for name, weight in model.state_dict().items()} if how.keep else {}
    first, spent = _resume(run, model, optimisers, average)
    started = time.monotonic() - spent
    saved = time.monotonic()
    bar = tqdm(total=steps, initial=first, desc=run.folder.name, unit="step", disable=not peers.first)
    parameters = [parameter for group in groups for parameter in group["params"]]
    losses: list[float] = []
    figures: dict[str, float] = {}

    def shipped() -> nn.Module:
        trained: nn.Module = average.module if average else model
        return _between(trained, began_as, how.keep) if how.keep else trained

    def save(step: int) -> None:
        run.save(
            {
                "step": step,
                "seconds": time.monotonic() - started,
                "model": model.state_dict(),
                "average": average.module.state_dict() if average else None,
                "shipped": shipped().state_dict() if how.keep else None,
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            }
        )

    with _stop_signal() as asked_to_stop:
        for step in range(first, steps):
            torch.manual_seed(seed * 1_000_003 + step)
            share = rate_share(step, steps, how.warmup, how.decay)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * share
            rows = batches.rows(step)
            mine = peers.share(rows)
            loss = torch.zeros((), device=peers.device)
            if len(mine):
                model.train()
                with autocast(peers.device, bfloat16=bfloat16):
                    # rare lengths make small batches: weighting by rows keeps every sentence equal
                    loss = loss_of(mine) * (len(mine) / how.batch_rows)
                loss.backward()  # type: ignore[no-untyped-call]
            summed, stop = peers.add_up(parameters, float(loss.detach()), float(asked_to_stop()))
            if not nn.utils.clip_grad_norm_(parameters, how.clip).isfinite():
                raise RunError(
                    f"{run.folder}: the gradient of step {step + 1} is not finite, and its loss {summed:g}: lower the "
                    "recipe's rates, and choose another folder with --into"
                )
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            if average:
                average.update_parameters(model)

            losses.append(summed * how.batch_rows / len(rows))
            done = step + 1
            bar.update()
            if done % STEPS_BETWEEN_LOGS == 0:
                mean = sum(losses) / len(losses)
                bar.set_postfix(loss=f"{mean:.4f}")
                run.log(step=done, loss=mean, rate=how.learning_rate * share, seconds=time.monotonic() - started)
                losses.clear()
            if done % batches.per_epoch == 0:
                figures = dict(evaluate(shipped()))
                run.log(step=done, epoch=done // batches.per_epoch, **figures)
                shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
                if peers.first:
                    bar.write(f"epoch {done // batches.per_epoch}: {shown}")
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES or stop or done == steps:
                save(done)
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    bar.close()
    if average or how.keep:
        model.load_state_dict(shipped().state_dict())
    return figures or dict(evaluate(model))


def _between(model: nn.Module, first: Mapping[str, Tensor], keep: float) -> nn.Module:
    """Give a copy whose weights lie between a model's and its first ones (Wortsman et al. 2022, arXiv 2109.01903)."""
    copy = deepcopy(model)
    copy.load_state_dict({name: weight.lerp(first[name], keep) for name, weight in model.state_dict().items()})
    return copy


def _moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Average with a decay of (1 + n) / (10 + n) after n updates, until that exceeds `decay`.

    As TensorFlow's `tf.train.ExponentialMovingAverage` does: a short run would otherwise ship its first weights.
    """

    def update(averages: Any, weights: Any, updates: Tensor | int) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, weights, n)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=update)


def _resume(
    run: Run, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], average: AveragedModel | None
) -> tuple[int, float]:
    state = run.load()
    if state is None:
        run.forget_after(0)
        return 0, 0.0
    try:
        model.load_state_dict(state["model"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        if average:
            average.module.load_state_dict(state["average"])
            average.n_averaged.fill_(state["step"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{run.folder} was begun by another version of this code: finish it with that one, or delete it"
        ) from error
    run.forget_after(state["step"])
    return int(state["step"]), float(state["seconds"])


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and SIGINT into a question, so that a step ends and is saved before the run stops."""
    received: list[int] = []
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in wanted}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
