"""A picture of the Grafana dashboard without Grafana.

The dashboard's own file says which panels there are, where they lie, what they ask and how they show it. A real
Prometheus answers; only the ink is matplotlib's.
"""

import io
import itertools
import json
import math
import re
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, MaxNLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from benchmarks.prometheus import Prometheus, Series
from training.plots import COLOURS, DPI, STYLE

FILE = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards" / "understudy.json"
SCRAPES_IN_A_RATE = 4  # Grafana's $__rate_interval: four scrapes, unless the picture is coarser than that

# What a value is divided by, and how it is called then, from Grafana's name of its unit.
SCALES: dict[str, dict[float, str]] = {
    "short": {1: "", 1e3: " K", 1e6: " Mil"},
    "s": {1e-6: " µs", 1e-3: " ms", 1: " s"},
    "bytes": {1: " B", 2**10: " KiB", 2**20: " MiB", 2**30: " GiB"},
    "percentunit": {0.01: "%"},
    "reqps": {1: " req/s", 1e3: "K req/s"},
}
SUFFIX = "suffix:"
ON_AN_AXIS = ("s", "bytes", "percentunit")  # the other units are in the legend only, for want of room

# Inches.
WIDTH = 10.0
COLUMN, ROW = WIDTH / 24, 0.22
HEAD, FOOT, GAP, PAD = 0.42, 0.26, 0.05, 0.09
TITLE, TICKS, CLOCK, ENTRY, MARK = 0.24, 0.46, 0.2, 0.125, 0.18
LETTER = 0.057  # the mean width of one
SMALL = 7  # points
MOST_ENTRIES = 6  # in a legend that is not cut short

STYLE_HERE = STYLE | {"font.size": 7.5, "axes.linewidth": 0.5, "axes.edgecolor": "#AAAAAA"}
BACKGROUND, PAPER, EDGE, INK, FAINT, GOOD = "#F1F2F4", "#FFFFFF", "#D8D9DD", "#24292E", "#6B7078", "#1A7F37"


@dataclass(frozen=True)
class Line:
    """What one series of a panel is called, and what was found."""

    name: str
    series: Series

    @property
    def last(self) -> float:
        """The last value there is."""
        values = self.series.values
        return float(values[~np.isnan(values)][-1])

    @property
    def is_nought(self) -> bool:
        """Whether it is 0 all along."""
        return not np.nan_to_num(self.series.values).any()


@dataclass(frozen=True)
class Place:
    """A box in inches, from the lower left corner of the picture."""

    left: float
    bottom: float
    width: float
    height: float


def variables(board: Mapping[str, Any], scrape_seconds: int) -> dict[str, str]:
    """Give what Grafana puts into queries and titles: what is chosen at first, and its own interval."""
    chosen = {choice["name"]: choice["current"]["value"] for choice in board["templating"]["list"]}
    return {**chosen, "__rate_interval": f"{SCRAPES_IN_A_RATE * scrape_seconds}s"}


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put variables into a query or a title.

    Raises:
        KeyError: it asks for another one.
    """
    return Template(text).substitute(values)


def legend(pattern: str, labels: Mapping[str, str]) -> str:
    """Name a series by its labels, as a legend says: {{model}} stands for its value."""
    return " ".join(re.sub(r"{{\s*(\w+)\s*}}", lambda label: labels.get(label[1], ""), pattern).split())


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """Write a value as Grafana does: scaled, with three digits unless a number of decimals is set."""
    scales = {1.0: unit.removeprefix(SUFFIX)} if unit.startswith(SUFFIX) else SCALES[unit]
    if value == 0:
        return "0" + scales.get(1, scales[min(scales)])
    scale = max((scale for scale in scales if scale <= abs(value) * (1 + 1e-9)), default=min(scales))
    scaled = value / scale
    if decimals is not None:
        return f"{scaled:,.{decimals}f}{scales[scale]}"
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(scaled) * (1 + 1e-9)))))
    number = f"{scaled:,.{digits}f}"
    return (number.rstrip("0").rstrip(".") if digits else number) + scales[scale]


def place(panel: Mapping[str, Any], height: float) -> Place:
    """Where a panel lies in a picture of some height, from Grafana's grid, whose top is 0."""
    grid = panel["gridPos"]
    bottom = height - HEAD - (grid["y"] + grid["h"]) * ROW
    return Place(grid["x"] * COLUMN, bottom, grid["w"] * COLUMN, grid["h"] * ROW)


async def ask(
    board: Mapping[str, Any], prometheus: Prometheus, values: Mapping[str, str], times: Sequence[float]
) -> dict[int, list[Line]]:
    """Have every query of the dashboard answered: the lines of each panel, by its id."""
    return {
        panel["id"]: [
            Line(legend(target["legendFormat"], series.labels), series)
            for target in panel["targets"]
            for series in await prometheus.series(filled(target["expr"], values), times)
        ]
        for panel in board["panels"]
        if "targets" in panel
    }


def draw(
    board: Mapping[str, Any], found: Mapping[int, list[Line]], values: Mapping[str, str], times: Sequence[float]
) -> bytes:
    """Draw the dashboard, as PNG."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    height = HEAD + rows * ROW + FOOT
    with mpl.rc_context(STYLE_HERE):
        figure = Figure(figsize=(WIDTH, height), facecolor=BACKGROUND)
        _frame(figure, board, values, round((times[-1] - times[0]) / 60))
        for panel in board["panels"]:
            box = _box(figure, place(panel, height), panel["type"])
            title = filled(panel["title"], values)
            KINDS[panel["type"]](box, {**panel, "title": title}, found.get(panel["id"], []), times)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=DPI)
    return drawn.getvalue()


def _frame(figure: Figure, board: Mapping[str, Any], values: Mapping[str, str], minutes: int) -> None:
    """Say above what this is, and below how it was made."""
    width, height = figure.get_size_inches()
    top, low = 1 - HEAD / 2 / height, FOOT / 2 / height
    chosen = [f"{choice['label']}: {values[choice['name']]}" for choice in board["templating"]["list"]]
    aside = "     ".join([*chosen, f"Last {minutes} minutes"])
    figure.text(PAD / width, top, board["title"], size=13, weight="bold", color=INK, va="center")
    figure.text(1 - PAD / width, top, aside, size=9, color=INK, va="center", ha="right")
    made = "Drawn by benchmarks/pictures.py, not by Grafana: the dashboard's panels, and Prometheus' answers to them."
    figure.text(PAD / width, low, made, size=7.5, color=FAINT, va="center")


def _box(figure: Figure, where: Place, kind: str) -> Axes:
    """Lay a sheet of paper for a panel, measured in inches from its lower left corner."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = where.left + GAP, where.bottom + GAP, where.width - 2 * GAP, where.height - 2 * GAP
    box = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    box.set(xlim=(0, wide), ylim=(0, high), xticks=[], yticks=[], facecolor=PAPER)
    box.grid(visible=False)
    for spine in box.spines.values():
        spine.set(visible=kind != "row", color=EDGE)
    if kind == "row":
        box.patch.set_visible(False)
    return box


def _write(box: Axes, x: float, y: float, text: str, **style: Any) -> None:
    box.text(x, y, text, **{"color": INK, "va": "center"} | style)


def _titled(box: Axes, panel: Mapping[str, Any]) -> tuple[float, float]:
    """Write a panel's title: its width, and the height that is left."""
    (_, wide), (_, high) = box.get_xlim(), box.get_ylim()
    lines = textwrap.wrap(panel["title"], int((wide - 2 * PAD) / LETTER / 1.15))
    _write(box, PAD, high - PAD / 2, "\n".join(lines), va="top", size=8, weight="bold")
    return wide, high - TITLE - (len(lines) - 1) * ENTRY


def _row(box: Axes, panel: Mapping[str, Any], _lines: list[Line], _times: Sequence[float]) -> None:
    _write(box, PAD / 2, box.get_ylim()[1] / 2, panel["title"], size=9.5, weight="bold")


def _timeseries(box: Axes, panel: Mapping[str, Any], lines: list[Line], times: Sequence[float]) -> None:
    """Draw curves over a legend that holds the last value of each."""
    wide, high = _titled(box, panel)
    defaults = panel["fieldConfig"]["defaults"]
    kept = [line for line in lines if not line.is_nought] if len(lines) > MOST_ENTRIES else lines
    kept = kept or lines[:1]
    low = _legend(box, defaults, kept, len(lines) - len(kept)) + PAD / 2
    axes = box.inset_axes(
        (TICKS, low + CLOCK, wide - TICKS - 2 * PAD, high - low - CLOCK), transform=box.transData, facecolor="none"
    )
    _scales(axes, defaults, times)
    if kept:
        _curves(axes, defaults, [line.series.values for line in kept], times)
    else:
        axes.text(0.5, 0.5, defaults["noValue"], transform=axes.transAxes, ha="center", va="center", color=FAINT)


def _legend(box: Axes, defaults: Mapping[str, Any], lines: list[Line], left_out: int) -> float:
    """Write names and last values in as many columns as there is room for: the height that they take."""
    entries = [(line.name, shown(line.last, *_form(defaults))) for line in lines]
    room = box.get_xlim()[1] - 2 * PAD
    names, values = (max((_inches(entry[part]) for entry in entries), default=0.0) for part in (0, 1))
    across = MARK + names + 2 * PAD + values
    columns = max(1, int((room + 2 * PAD) / (across + 2 * PAD)))
    size = SMALL * min(1, room / across)
    rows = math.ceil(len(entries) / columns)
    high = (rows + bool(left_out)) * ENTRY + PAD / 2
    for number, (name, last) in enumerate(entries):
        column, row = divmod(number, rows)
        left, y = PAD + column * (across + 2 * PAD), high - (row + 0.5) * ENTRY
        box.plot([left, left + MARK - 0.06], [y, y], linewidth=2, **_pen(number))
        _write(box, left + MARK, y, name, size=size)
        _write(box, left + min(across, room), y, last, size=size, ha="right")
    if left_out:
        _write(box, PAD, high - (rows + 0.5) * ENTRY, f"and {left_out} more, all 0", size=SMALL, color=FAINT)
    return high


def _inches(text: str) -> float:
    """How wide a legend's text is."""
    return float(TextPath((0, 0), text, size=SMALL).get_extents().width) / 72


def _form(defaults: Mapping[str, Any]) -> tuple[str, int | None]:
    return defaults["unit"], defaults.get("decimals")


def _pen(number: int) -> dict[str, Any]:
    """Colours in turn; the line is solid while they last."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3]}


def _scales(axes: Axes, defaults: Mapping[str, Any], times: Sequence[float]) -> None:
    unit = defaults["unit"] if defaults["unit"] in ON_AN_AXIS else "short"
    axes.set_xlim(times[0], times[-1])
    minutes = math.ceil((times[-1] - times[0]) / 60 / 4)
    axes.xaxis.set_major_locator(MultipleLocator(60 * minutes))
    axes.xaxis.set_major_formatter(lambda when, _: time.strftime("%H:%M", time.localtime(when)))
    if "scaleDistribution" in defaults["custom"]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.tick_params(length=0, labelcolor=FAINT, labelsize=6.5, pad=2)
    axes.spines["left"].set_visible(False)


def _curves(
    axes: Axes, defaults: Mapping[str, Any], values: Sequence[NDArray[np.float64]], times: Sequence[float]
) -> None:
    custom = defaults["custom"]
    width = custom["lineWidth"] * 0.6
    below = np.zeros(len(times))
    for number, each in enumerate(values):
        if "stacking" in custom:
            above = below + np.nan_to_num(each)
            axes.fill_between(
                times, below, above, color=_pen(number)["color"], alpha=custom["fillOpacity"] / 100, linewidth=0
            )
            each, below = np.where(np.isnan(each), np.nan, above), above
        axes.plot(times, each, linewidth=width, **_pen(number))
    least, most = (function([*itertools.chain(*values)]) for function in (np.nanmin, np.nanmax))
    if axes.get_yscale() == "log":  # whole powers of ten, as in Grafana
        axes.set_ylim(10 ** math.floor(math.log10(least)), 10 ** math.ceil(math.log10(most)))
    else:
        axes.set_ylim(bottom=defaults["min"], top=None if most > 0 else 1)
    if defaults["unit"] == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(most / 4))))


def _stat(box: Axes, panel: Mapping[str, Any], lines: list[Line], times: Sequence[float]) -> None:
    """Write one number large, over its course."""
    wide, high = _titled(box, panel)
    defaults = panel["fieldConfig"]["defaults"]
    if not lines:
        _write(box, wide / 2, high / 2, "\n".join(textwrap.wrap(defaults["noValue"], 12)), ha="center", size=9)
        return
    (line,) = lines
    number = shown(line.last, *_form(defaults))
    _write(box, wide / 2, 0.6 * high, number, ha="center", size=24, weight="bold", color=GOOD)
    axes = box.inset_axes((0, 0, wide, 0.3 * high), transform=box.transData)
    axes.set_axis_off()
    axes.fill_between(times, line.series.values, color=GOOD, alpha=0.15, linewidth=0)
    axes.plot(times, line.series.values, color=GOOD, linewidth=1)
    axes.set(xlim=(times[0], times[-1]), ylim=(0, None if line.last else 1))


def _table(box: Axes, panel: Mapping[str, Any], lines: list[Line], _times: Sequence[float]) -> None:
    """List the labels of what is there, in the order that the panel sets."""
    wide, high = _titled(box, panel)
    (organised,) = panel["transformations"]
    order = organised["options"]["indexByName"]
    columns = sorted(order, key=order.__getitem__)
    across = (wide - 2 * PAD) / len(columns)
    rows = [columns, *([line.series.labels[column] for column in columns] for line in lines)]
    for number, row in enumerate(rows):
        y = high - (number + 0.5) * 0.2
        for column, cell in enumerate(row):
            letters = int(across / LETTER) - 2
            text = cell if len(cell) <= letters else f"{cell[: letters - 1]}…"
            _write(box, PAD + column * across, y, text, size=SMALL, weight="normal" if number else "bold")
        box.plot([PAD, wide - PAD], [y - 0.1, y - 0.1], color=EDGE, linewidth=0.5)


KINDS: dict[str, Callable[[Axes, Mapping[str, Any], list[Line], Sequence[float]], None]] = {
    "row": _row,
    "timeseries": _timeseries,
    "stat": _stat,
    "table": _table,
}


def read(file: Path = FILE) -> dict[str, Any]:
    """Read the dashboard that ships."""
    board: dict[str, Any] = json.loads(file.read_text())
    return board
