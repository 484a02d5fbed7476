"""How the cost grows: throughput by batch, length and connections, and latency by arrival rate, student and teacher."""

import asyncio
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from app.bundle import MODEL, read_bundle
from app.session import EncoderSession
from benchmarks.in_process import Batch, Encode, measure, sentence_batches
from benchmarks.report import Cell, Table
from benchmarks.servers import Running, running, understudy
from benchmarks.through_http import closed_loop, in_turn, open_loop
from training.plots import COLOURS, DPI, MARKERS, STYLE

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (8, 16, 32, 64, 128, 256)
LENGTH_BATCH = 8
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
LOADS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)  # arrival rates, as shares of what the closed loop reached
OPEN_SECONDS = 5.0
ROUNDS = 3
ROUND_SECONDS = 0.5
MODELS = ("student", "teacher")
NAMES = {"student": "student, int8", "teacher": "teacher, float32"}

Line = list[tuple[float, ...]]  # points: x, y, and further ys
Lines = Mapping[str, Line]


def tables(models: Path, cache: Path, sentences: Sequence[str], into: Path) -> list[Table]:
    """Measure, draw throughput.png and latency.png into a folder, and give the points as tables."""
    opened = {model: _encoder(models / model) for model in MODELS}
    batch = _by_batch(opened, models, sentences)
    length = _by_length(opened, models, sentences)
    with running(understudy(models), cache) as server:
        served = {model: _asking(server, model) for model in MODELS}
        connections = _by_connections(served, sentences)
        latency = _by_rate(served, sentences, {model: line[-1][1] for model, line in connections.items()})
    into.mkdir(parents=True, exist_ok=True)
    throughput = {
        "sentences in a batch": batch,
        "tokens in a sentence": length,
        "connections, one sentence each": connections,
    }
    draw_throughput(throughput, into / "throughput.png")
    draw_latency(latency, into / "latency.png")
    return [
        *(_table(f"Throughput by {name}", (name, "sentences/s"), lines) for name, lines in throughput.items()),
        _table("Latency by arrival rate", ("requests/s", "p50 ms", "p99 ms"), latency),
    ]


def draw_throughput(panels: Mapping[str, Lines], file: Path) -> None:
    """Draw sentences per second against each of several things, on one scale."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4), layout="constrained")
        for axes, (name, lines) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            for number, (model, line) in enumerate(lines.items()):
                values = [point[:2] for point in line]
                axes.plot(*zip(*values, strict=True), color=COLOURS[number], marker=MARKERS[number], label=NAMES[model])
            ticks = [point[0] for point in next(iter(lines.values()))]
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set(xlabel=name, yscale="log")
            axes.yaxis.set_major_formatter("{x:,.0f}")
        first: Axes = figure.axes[0]
        first.set_ylabel("sentences per second, both cores")
        first.legend(loc="best")
        figure.savefig(file, dpi=DPI)


def draw_latency(lines: Lines, file: Path) -> None:
    """Draw median and 99th percentile against the arrival rate; a rate that is not borne ends its line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for number, (model, line) in enumerate(lines.items()):
            rates = [point[0] for point in line]
            for place, (label, dash) in enumerate((("p50", "-"), ("p99", "--")), start=1):
                values = [point[place] for point in line]
                axes.plot(
                    rates, values, dash, color=COLOURS[number], marker=MARKERS[number], label=f"{NAMES[model]}, {label}"
                )
        axes.set(xscale="log", yscale="log", xlabel="requests per second, one sentence each", ylabel="latency, ms")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.legend(loc="best")
        figure.savefig(file, dpi=DPI)


def _by_batch(opened: Mapping[str, Encode], models: Path, sentences: Sequence[str]) -> Lines:
    lines: dict[str, Line] = {model: [] for model in opened}
    for size in BATCHES:
        found = measure(opened, sentence_batches(models, sentences, size), ROUNDS, ROUND_SECONDS)
        for model, rates in found.items():
            lines[model].append((size, statistics.median(rates)))
    return lines


def _by_length(opened: Mapping[str, Encode], models: Path, sentences: Sequence[str]) -> Lines:
    (everything,) = sentence_batches(models, [" ".join(sentences)], 1)[:1]
    ids = np.resize(np.asarray(everything.rows[0]), max(LENGTHS))
    lines: dict[str, Line] = {model: [] for model in opened}
    for length in LENGTHS:
        batch = Batch([""] * LENGTH_BATCH, [np.roll(ids, turn)[:length].tolist() for turn in range(LENGTH_BATCH)])
        for model, rates in measure(opened, [batch], ROUNDS, ROUND_SECONDS).items():
            lines[model].append((length, statistics.median(rates)))
    return lines


def _by_connections(served: Mapping[str, Running], sentences: Sequence[str]) -> dict[str, Line]:
    requests = in_turn(sentences, 1)
    lines: dict[str, Line] = {model: [] for model in served}
    for connections in CONNECTIONS:
        for model, server in served.items():
            lines[model].append((connections, closed_loop(server, connections, requests).requests_per_second))
    return lines


def _by_rate(served: Mapping[str, Running], sentences: Sequence[str], capacity: Mapping[str, float]) -> Lines:
    lines: dict[str, Line] = {model: [] for model in served}
    for share in LOADS:
        for model, server in served.items():
            rate = share * capacity[model]
            times = asyncio.run(open_loop(server, rate, sentences, OPEN_SECONDS))
            p50, p99 = (1e3 * float(np.quantile(times, part, method="higher")) for part in (0.5, 0.99))
            lines[model].append((rate, *(value if math.isfinite(value) else math.nan for value in (p50, p99))))
    return lines


def _asking(server: Running, model: str) -> Running:
    body = server.peer.body
    return replace(server, peer=replace(server.peer, body=lambda texts: {**body(texts), "model": model}))


def _encoder(folder: Path) -> Encode:
    bundle = read_bundle(folder)
    session = EncoderSession(bundle.path(MODEL), bundle.embedding)
    return lambda batch: session.run(batch.rows)


def _table(title: str, columns: tuple[str, ...], lines: Lines) -> Table:
    rows: list[tuple[Cell, ...]] = [(NAMES[model], *point) for model, line in lines.items() for point in line]
    return Table(title, ("model", *columns), rows)
