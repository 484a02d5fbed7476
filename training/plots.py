"""Plots as PNG: how runs learnt, and how faithful encoders are to texts of each length."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from training.evaluation import Evaluation
from training.measures import LENGTH

# Okabe and Ito's colours, which colour-blind readers tell apart; lines and markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "font.size": 10,
    "legend.frameon": False,
}
DPI = 150


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, float]]], file: Path) -> None:
    """Draw the loss by step, and below it what was measured at the end of each epoch.

    Args:
        runs: The lines of metrics.jsonl by run.
        file: The PNG to write.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 6), layout="constrained")
        loss, score = figure.subplots(2, 1, sharex=True)
        for number, (name, lines) in enumerate(runs.items()):
            drawn: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "label": name}
            logged = [line for line in lines if "loss" in line]
            loss.plot([line["step"] for line in logged], [line["loss"] for line in logged], linewidth=1.2, **drawn)
            ends = [line for line in lines if "epoch" in line]
            metric = next((key for key in ends[-1] if key not in ("step", "epoch")), "score") if ends else "score"
            mark = MARKERS[number % len(MARKERS)]
            values = [line.get(metric, np.nan) for line in ends]
            drawn["label"] = f"{name}, {metric.replace('_', ' ')}"
            score.plot([line["step"] for line in ends], values, marker=mark, **drawn)
            for line, value in zip(ends, values, strict=True):
                score.annotate(f"{value:.3f}", (line["step"], value), (-4, 5), textcoords="offset points", ha="right")
        loss.set(yscale="log", ylabel="training loss (mean over 50 steps)", title="Learning curves")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_locator(NullLocator())
        score.xaxis.set_major_formatter("{x:,.0f}")
        score.set(xlabel="optimiser step", ylabel="score at the end of an epoch")
        score.margins(y=0.25)
        for axes in (loss, score):
            _legend(axes, runs)
        figure.savefig(file, dpi=DPI)


def fidelity_by_length(evaluation: Evaluation, file: Path) -> None:
    """Draw the mean cosine to the teacher by the tokens of a text, with the number of texts below.

    Columns in another space than the teacher's, and the teacher itself, are left out.

    Args:
        evaluation: Holds the section LENGTH.
        file: The PNG to write.
    """
    found = evaluation.section(LENGTH)
    places = np.arange(len(found))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 5), layout="constrained")
        cosine, count = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        shown = [
            (name, [figures[column] for _, figures in found])
            for column, name in enumerate(evaluation.columns)
            if column and found[0][1][column]
        ]
        for number, (name, figures) in enumerate(shown):
            values = [one[0] for one in figures]
            # int8 lies on its float32 line: the later lines are broken, so that both are seen
            dash, mark = ("-", "--", ":", "-.")[number % 4], MARKERS[number % len(MARKERS)]
            cosine.plot(places, values, dash, marker=mark, label=name, color=COLOURS[number % len(COLOURS)])
        cosine.set(ylabel="mean cosine to the teacher", title="Fidelity by length")
        cosine.legend(loc="best")
        bars = count.bar(places, [row.size for row, _ in found], color="#999999", width=0.7)
        count.bar_label(bars, labels=[f"{row.size:,}" for row, _ in found], fontsize=9)
        count.set(ylabel="texts", xlabel="tokens in a text, start and end marks included")
        count.margins(y=0.3)
        count.yaxis.set_major_formatter("{x:,.0f}")
        count.grid(visible=False)
        count.set_xticks(places, [row.title for row, _ in found])
        figure.savefig(file, dpi=DPI)


def _legend(axes: Axes, runs: Mapping[str, Any]) -> None:
    if len(runs) > 1 or axes.get_xlabel():
        axes.legend(loc="best")
