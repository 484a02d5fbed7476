"""Finished runs of tasks as one table: a row per setting, runs that differ only in their seed folded into one.

Each row is set against the one above by paired differences: both answered the same dev rows, so how hard these happen
to be falls out. The interval tells whether other rows of their kind might turn the difference round.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from training.checkpoint import Run, RunError
from training.task import Examples, Scores, Task, examples_from, task_from

# In the order of the paper: Wu et al. 2020, section 4.
SETTINGS = (
    "student from scratch",
    "student from scratch + task distillation",
    "student + approximation, head alone",
    "student + approximation",
    "student + approximation + task distillation",
    "fine-tuned teacher, pairs joined",
    "fine-tuned teacher",
)


RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """A metric over seeds: its mean and standard deviation, the latter of a sample, none for a single seed."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.spread is None else f"{self.mean:.4f} ± {self.spread:.4f}"


@dataclass(frozen=True)
class Gain:
    """A difference of two settings' deciding metric, each its mean over seeds, and the interval of it.

    The interval is the percentile bootstrap's over dev rows (Efron 1979), at CONFIDENCE; the seeds are taken as given.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seed.

    Attributes:
        task: What they learnt.
        setting: One of SETTINGS.
        runs: Their folders' names, in the order of `seeds`.
        seeds: Theirs, ascending.
        figures: Metrics of the task's dev rows after the last epoch, by name; the first decides.
        gain: Over the same task's setting before it; none for the first, or where a single row was scored.
    """

    task: str
    setting: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    figures: dict[str, Figure]
    gain: Gain | None = None


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Group runs, by task and then in the order of SETTINGS.

    Raises:
        RunError: a folder holds no finished run of a task, two runs have everything in common, the seed included, or
            two runs of one task were scored on different dev rows.
    """
    of_task: dict[str, list[Run]] = {}
    for run in runs:
        if "task" not in run.facts():
            raise RunError(f"{run.folder} holds an encoder; only runs of tasks are compared")
        run.require_finished()
        of_task.setdefault(run.facts()["task"]["name"], []).append(run)
    return [row for _, those in sorted(of_task.items()) for row in _of_one_task(those)]


def as_markdown(rows: Sequence[Setting]) -> str:
    """Give a Markdown table; a metric that a task does not have is left empty."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [
        f"| task | setting | {' | '.join(metrics)} | over the row above | seeds | runs |",
        f"| --- | --- |{' ---: |' * len(metrics)} ---: | --- | --- |",
    ]
    for row in rows:
        cells = [str(row.figures.get(name, "")) for name in metrics]
        cells += [str(row.gain or ""), ", ".join(map(str, row.seeds)), ", ".join(row.runs)]
        lines.append(f"| {row.task} | {row.setting} | {' | '.join(cells)} |")
    notes = []
    if any(len(row.seeds) > 1 for row in rows):
        notes.append("Mean ± standard deviation over seeds.")
    if any(row.gain for row in rows):
        notes.append(
            f"Over the row above: by the task's first metric, with the {CONFIDENCE:.0%} interval of a paired bootstrap "
            "over dev rows."
        )
    return "\n".join([*lines, *(["", " ".join(notes)] if notes else [])]) + "\n"


def as_json(rows: Sequence[Setting]) -> str:
    """Give the same as JSON: a list of objects."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"


def setting_of(recipe: dict[str, Any], facts: dict[str, Any]) -> str:
    """Name what a run did, as one of SETTINGS."""
    if facts.get("role") == "teacher":
        joined = facts["task"]["texts"] == 2 and not facts.get("apart", False)
        return "fine-tuned teacher, pairs joined" if joined else "fine-tuned teacher"
    start = "student from scratch" if "scratch" in recipe["from"] else "student + approximation"
    if "taught_by" in recipe:
        return f"{start} + task distillation"
    return f"{start}, head alone" if recipe["encoder_rate"] == 0 else start


@dataclass(frozen=True)
class _Folded:
    """Runs that differ in their seed alone: their row, and what they answered to the dev rows."""

    row: Setting
    task: Task
    answers: tuple[NDArray[np.float32], ...]  # of each run, (rows, outputs)

    @staticmethod
    def of(group: Sequence[Run]) -> "_Folded":
        group = sorted(group, key=lambda run: int(run.recipe()["seed"]))
        seeds = tuple(int(run.recipe()["seed"]) for run in group)
        if len(set(seeds)) < len(seeds):
            folders = ", ".join(str(run.folder) for run in group)
            raise RunError(f"{folders}: two of these are one and the same, the seed included")
        recipe, facts, figures = group[0].recipe(), group[0].facts(), [run.final_figures() for run in group]
        task = task_from(facts["task"])
        row = Setting(
            task.name,
            setting_of(recipe, facts),
            tuple(run.folder.name for run in group),
            seeds,
            {name: _figure([found[name] for found in figures]) for name in task.metrics},
        )
        return _Folded(row, task, tuple(run.dev_answers() for run in group))

    def over(self, other: "_Folded", truth: Scores) -> Gain:
        """Compare the deciding metric with another setting's, on the same dev rows."""

        def difference(rows: NDArray[np.int64]) -> float:
            return self._score(truth, rows) - other._score(truth, rows)

        every = np.arange(len(truth))
        drawn = bootstrap(
            (every,),
            difference,
            n_resamples=RESAMPLES,
            vectorized=False,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=1,
        ).confidence_interval
        return Gain(difference(every), float(drawn.low), float(drawn.high))

    def _score(self, truth: Scores, rows: NDArray[np.int64]) -> float:
        decides = replace(self.task, metrics=self.task.metrics[:1])
        return mean(found for each in self.answers for found in decides.score(truth[rows], each[rows]).values())


def _of_one_task(runs: Sequence[Run]) -> list[Setting]:
    truth = _shared_dev(runs).labels
    groups: dict[str, list[Run]] = {}
    for run in runs:
        alike = {name: value for name, value in run.recipe().items() if name != "seed"}
        # first weights are among what a run's rows tell apart, and from scratch the seed decides them
        rows = run.facts()["rows"] if "scratch" in alike.get("from", {}) else run.rows()
        symmetric = task_from(run.facts()["task"]).symmetric
        groups.setdefault(json.dumps([alike, rows, symmetric], sort_keys=True), []).append(run)
    folded = sorted(map(_Folded.of, groups.values()), key=lambda one: SETTINGS.index(one.row.setting))
    # of a single row nothing can be drawn
    gains = [None, *(one.over(above, truth) if len(truth) > 1 else None for above, one in pairwise(folded))]
    return [replace(one.row, gain=gain) for one, gain in zip(folded, gains, strict=True)]


def _shared_dev(runs: Sequence[Run]) -> Examples:
    first, *others = runs
    dev = first.dev()
    for other in others:
        if other.dev() != dev:
            raise RunError(f"{first.folder} and {other.folder} were scored on different dev rows: not to be compared")
    return examples_from(dev)


def _figure(values: Sequence[float]) -> Figure:
    return Figure(mean(values), stdev(values) if len(values) > 1 else None)
