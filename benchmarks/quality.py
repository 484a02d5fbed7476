"""What a model keeps of its teacher against what it costs: both measured of the very same graphs, in one run."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from app.bundle import TOKENIZER, read_bundle
from app.tokenizer import Tokenizer
from benchmarks.in_process import BERT_BASE, TEACHER, Batch, Encode, contenders, measure, sentence_batches
from benchmarks.report import Cell, Table, lead
from training.encoding import Encode as EncodeTexts
from training.evaluation import domain_texts, evaluate
from training.glue import TASKS, read_dev
from training.measures import RANK, domains, similarity
from training.plots import COLOURS, DPI, MARKERS, STYLE

BATCH = 32

Points = Mapping[str, tuple[float, float, float]]  # by model: sentences/s, STS-B, rank agreement


def tables(models: Path, cache: Path, sentences: Sequence[str], data: Path, into: Path) -> list[Table]:
    """Measure every model but the one of random weights, and draw quality.png into a folder.

    Raises:
        TaskError: the data folder has no STS-B.
        CorpusError: it has no domains that no student was trained on.
    """
    opened = {name: encode for name, encode in contenders(models, cache).items() if name != BERT_BASE}
    found = measure(opened, sentence_batches(models, sentences, BATCH))
    measures = [similarity(read_dev(TASKS["stsb"], data)), domains(domain_texts(data))]
    bundle = read_bundle(models / "student")  # the teacher's tokenizer is the same
    tokenizer = Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens)
    first = sorted(opened, key=lambda name: name != TEACHER)  # all others are held against the teacher
    evaluation = evaluate({name: _of_texts(opened[name], tokenizer) for name in first}, measures)
    meaning, rank = evaluation.figures[0], evaluation.section(RANK)[-1][1]
    points = {
        name: (statistics.median(found[name]), meaning[column][0], rank[column][0])
        for column, name in enumerate(evaluation.columns)
    }
    into.mkdir(parents=True, exist_ok=True)
    draw(points, into / "quality.png")
    rows: list[tuple[Cell, ...]] = [
        (name, *(f"{value:.4f}" for value in points[name][1:]), points[name][0], lead(rates, found[TEACHER]))
        for name, rates in found.items()
    ]
    title = f"Quality against speed: batch {BATCH}, STS-B dev and {evaluation.section(RANK)[-1][0].title}"
    columns = ("model", "STS-B, Spearman", "rank agreement with the teacher", "sentences/s", "times the teacher's")
    return [Table(title, columns, rows)]


def draw(points: Points, file: Path) -> None:
    """Draw what each model keeps against its sentences per second."""
    labels = ("STS-B dev, Spearman", "rank agreement with the teacher, ten domains")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        for place, (axes, label) in enumerate(zip(figure.subplots(1, 2), labels, strict=True), start=1):
            for number, (name, point) in enumerate(points.items()):
                shown = name.partition(" (")[0]
                axes.plot(point[0], point[place], MARKERS[number], color=COLOURS[number], markersize=9, label=shown)
            axes.set(xscale="log", xlabel=f"sentences per second, batch {BATCH}, both cores", ylabel=label)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.margins(0.12)
        figure.axes[0].legend(loc="lower left")
        figure.savefig(file, dpi=DPI)


def _of_texts(encode: Encode, tokenizer: Tokenizer) -> EncodeTexts:
    return lambda texts: encode(Batch(list(texts), [row.ids for row in tokenizer.rows([(text,) for text in texts])]))
