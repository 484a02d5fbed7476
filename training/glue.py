"""The GLUE tasks as a table: official files, official columns, official metrics (Wang et al. 2018, 1804.07461)."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Scores = NDArray[np.float64]
Metric = Callable[[Scores, Scores], float]


class TaskError(ValueError):
    """Task files that cannot be used; the message names the file, the row and what was expected."""


@dataclass(frozen=True)
class Task:
    """One sentence-level task.

    Attributes:
        name: Lower case; the name of its bundle and route.
        folder: Below <data>/glue.
        texts: The columns that hold its one text or its two.
        label: The column that holds the label.
        classes: Values of that column, in the order of the scores; empty for a regression.
        labels: What the service calls them.
        metrics: Official ones by name; the first decides.
        dev: The file that is scored.
        columns: For a file without a header: the names of its columns.
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: Mapping[str, Metric]
    dev: str = "dev.tsv"
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Labelled rows: `texts` holds one tuple per row, `labels` float64 (rows), class numbers or values."""

    texts: list[tuple[str, ...]]
    labels: Scores


def _correlation(measure: Callable[[Scores, Scores], Sequence[float]]) -> Metric:
    return lambda truth, answer: float(measure(truth, answer)[0])


ACCURACY = {"accuracy": accuracy_score}
CORRELATIONS = {"spearman": _correlation(spearmanr), "pearson": _correlation(pearsonr)}
F1_AND_ACCURACY = {"f1": f1_score, "accuracy": accuracy_score}
ENTAILMENT = ("entailment", "not_entailment")
MNLI = ("entailment", "neutral", "contradiction")

TASKS = {
    task.name: task
    for task in (
        Task("sst2", "SST-2", ("sentence",), "label", ("0", "1"), ("negative", "positive"), ACCURACY),
        Task(
            "cola",
            "CoLA",
            ("sentence",),
            "label",
            ("0", "1"),
            ("unacceptable", "acceptable"),
            {"matthews": matthews_corrcoef},
            columns=("source", "label", "mark", "sentence"),
        ),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1"), ("different", "same"), F1_AND_ACCURACY),
        Task("stsb", "STS-B", ("sentence1", "sentence2"), "score", (), (), CORRELATIONS),
        Task(
            "qqp", "QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), ("different", "same"), F1_AND_ACCURACY
        ),
        Task("mnli", "MNLI", ("sentence1", "sentence2"), "gold_label", MNLI, MNLI, ACCURACY, dev="dev_matched.tsv"),
        Task(
            "mnli-mm", "MNLI", ("sentence1", "sentence2"), "gold_label", MNLI, MNLI, ACCURACY, dev="dev_mismatched.tsv"
        ),
        Task("qnli", "QNLI", ("question", "sentence"), "label", ENTAILMENT, ENTAILMENT, ACCURACY),
        Task("rte", "RTE", ("sentence1", "sentence2"), "label", ENTAILMENT, ENTAILMENT, ACCURACY),
        Task("wnli", "WNLI", ("sentence1", "sentence2"), "label", ("0", "1"), ENTAILMENT[::-1], ACCURACY),
    )
}


def read_examples(task: Task, data: Path, file: str) -> Examples:
    """Read `train.tsv` or the dev file of a task.

    Raises:
        TaskError: the file is missing, a column is missing, a row is cut short, or a label is none of the task's.
    """
    path = data / "glue" / task.folder / file
    try:
        lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
    except FileNotFoundError as error:
        raise TaskError(f"{path} is missing: DATA_DIR (or --data) names the folder that holds glue/") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error}") from error
    table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = list(task.columns) or next(table, [])
    missing = [column for column in (*task.texts, task.label) if column not in header]
    if missing:
        raise TaskError(f"{path} has no column {missing[0]!r}; its columns are {header}")
    places = [header.index(column) for column in task.texts]
    label_place = header.index(task.label)
    first_row = 1 if task.columns else 2
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    for number, row in enumerate(table, start=first_row):
        if len(row) <= max(*places, label_place):
            raise TaskError(f"{path}, row {number}: {len(row)} columns, expected {len(header)}")
        texts.append(tuple(row[place].strip() for place in places))
        labels.append(_label(task, row[label_place], f"{path}, row {number}"))
    if not texts:
        raise TaskError(f"{path} holds no rows")
    return Examples(texts, np.asarray(labels))


def _label(task: Task, value: str, where: str) -> float:
    try:
        return float(task.classes.index(value)) if task.classes else float(value)
    except ValueError as error:
        raise TaskError(f"{where}: label {value!r} is none of {list(task.classes) or 'the numbers'}") from error


def score(task: Task, truth: Scores, scores: NDArray[np.float32]) -> dict[str, float]:
    """Give the task's official metrics, as fractions.

    Args:
        task: The task.
        truth: (rows), class numbers or values.
        scores: (rows, labels), or (rows, 1) for a regression.
    """
    answer = scores.argmax(axis=1).astype(np.float64) if task.classes else scores[:, 0].astype(np.float64)
    return {name: float(metric(truth, answer)) for name, metric in task.metrics.items()}
