"""Finished runs of tasks as one table: a row per setting, runs that differ only in their seed folded into one."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from training.checkpoint import Run, RunError

# In the order of the paper: Wu et al. 2020, section 4.
SETTINGS = (
    "student from scratch",
    "student from scratch + task distillation",
    "student + approximation, head alone",
    "student + approximation",
    "student + approximation + task distillation",
    "fine-tuned teacher",
)


@dataclass(frozen=True)
class Figure:
    """A metric over seeds: its mean and standard deviation, the latter of a sample, none for a single seed."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.spread is None else f"{self.mean:.4f} ± {self.spread:.4f}"


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seed.

    Attributes:
        task: What they learnt.
        setting: One of SETTINGS.
        runs: Their folders' names, in the order of `seeds`.
        seeds: Theirs, ascending.
        figures: Metrics of the task's dev rows after the last epoch, by name.
    """

    task: str
    setting: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    figures: dict[str, Figure]


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Group runs, by task and then in the order of SETTINGS.

    Raises:
        RunError: a folder holds no finished run of a task, or two runs have everything in common, the seed included.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if "task" not in run.facts():
            raise RunError(f"{run.folder} holds an encoder; only runs of tasks are compared")
        run.require_finished()
        alike = {name: value for name, value in run.recipe().items() if name != "seed"}
        groups.setdefault(json.dumps([alike, run.facts()["rows"]], sort_keys=True), []).append(run)
    rows = [_fold(group) for group in groups.values()]
    return sorted(rows, key=lambda row: (row.task, SETTINGS.index(row.setting)))


def as_markdown(rows: Sequence[Setting]) -> str:
    """Give a Markdown table; a metric that a task does not have is left empty."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [
        f"| task | setting | {' | '.join(metrics)} | seeds | runs |",
        f"| --- | --- |{' ---: |' * len(metrics)} --- | --- |",
    ]
    for row in rows:
        cells = [str(row.figures.get(name, "")) for name in metrics]
        cells += [", ".join(map(str, row.seeds)), ", ".join(row.runs)]
        lines.append(f"| {row.task} | {row.setting} | {' | '.join(cells)} |")
    if any(len(row.seeds) > 1 for row in rows):
        lines += ["", "Mean ± standard deviation over seeds."]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Setting]) -> str:
    """Give the same as JSON: a list of objects."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"


def setting_of(recipe: dict[str, Any], facts: dict[str, Any]) -> str:
    """Name what a run did, as one of SETTINGS."""
    if facts.get("role") == "teacher":
        return "fine-tuned teacher"
    start = "student from scratch" if "scratch" in recipe["from"] else "student + approximation"
    if "taught_by" in recipe:
        return f"{start} + task distillation"
    return f"{start}, head alone" if recipe["encoder_rate"] == 0 else start


def _fold(group: Sequence[Run]) -> Setting:
    group = sorted(group, key=lambda run: int(run.recipe()["seed"]))
    seeds = tuple(int(run.recipe()["seed"]) for run in group)
    if len(set(seeds)) < len(seeds):
        folders = ", ".join(str(run.folder) for run in group)
        raise RunError(f"{folders}: two of these are one and the same, the seed included")
    recipe, facts, figures = group[0].recipe(), group[0].facts(), [run.final_figures() for run in group]
    return Setting(
        facts["task"]["name"],
        setting_of(recipe, facts),
        tuple(run.folder.name for run in group),
        seeds,
        {name: _figure([found[name] for found in figures]) for name in facts["task"]["metrics"]},
    )


def _figure(values: Sequence[float]) -> Figure:
    return Figure(mean(values), stdev(values) if len(values) > 1 else None)
