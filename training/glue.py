"""The GLUE tasks as a table: official files, official columns, official metrics (Wang et al. 2018, 1804.07461)."""

from dataclasses import dataclass
from pathlib import Path

from training.table import Columns, read_table
from training.task import Examples, Task, TaskError


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    Attributes:
        task: What is learnt.
        folder: Below <data>/glue.
        columns: Where texts and label stand in its files.
        classes: Values of the label column, in the order of the task's labels; empty for a regression.
        dev: The file that is scored.
        licence: Of its texts, for the model card.
    """

    task: Task
    folder: str
    columns: Columns
    classes: tuple[str, ...]
    dev: str = "dev.tsv"
    licence: str = "not stated by its source"


ONE, TWO = ("sentence",), ("sentence1", "sentence2")
ACCURACY, F1, CORRELATIONS = ("accuracy",), ("f1", "accuracy"), ("spearman", "pearson")
BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
MNLI = ("entailment", "neutral", "contradiction")
SAME = ("different", "same")
QQP = Columns(("question1", "question2"), "is_duplicate", strict=False)
RESEARCH = "research use"
COLA = ("source", "label", "mark", "sentence")  # its files have no header

TASKS = {
    row.task.name: row
    for row in (
        GlueTask(Task("sst2", 1, ("negative", "positive"), ACCURACY), "SST-2", Columns(ONE, "label"), BINARY),
        GlueTask(
            Task("cola", 1, ("unacceptable", "acceptable"), ("matthews",)),
            "CoLA",
            Columns(ONE, "label", COLA),
            BINARY,
            licence=RESEARCH,
        ),
        GlueTask(
            Task("mrpc", 2, SAME, F1, symmetric=True),
            "MRPC",
            Columns(("#1 String", "#2 String"), "Quality"),
            BINARY,
            licence=RESEARCH,
        ),
        GlueTask(
            Task("stsb", 2, (), CORRELATIONS, symmetric=True), "STS-B", Columns(TWO, "score"), (), licence=RESEARCH
        ),
        GlueTask(Task("qqp", 2, SAME, F1, symmetric=True), "QQP", QQP, BINARY),
        GlueTask(Task("mnli", 2, MNLI, ACCURACY), "MNLI", Columns(TWO, "gold_label"), MNLI, "dev_matched.tsv"),
        GlueTask(Task("mnli-mm", 2, MNLI, ACCURACY), "MNLI", Columns(TWO, "gold_label"), MNLI, "dev_mismatched.tsv"),
        GlueTask(
            Task("qnli", 2, ENTAILMENT, ACCURACY),
            "QNLI",
            Columns(("question", "sentence"), "label"),
            ENTAILMENT,
            licence="CC BY-SA 4.0",
        ),
        GlueTask(Task("rte", 2, ENTAILMENT, ACCURACY), "RTE", Columns(TWO, "label"), ENTAILMENT),
        GlueTask(Task("wnli", 2, ENTAILMENT[::-1], ACCURACY), "WNLI", Columns(TWO, "label"), BINARY),
    )
}


def read_train(row: GlueTask, data: Path) -> Examples:
    """Read a task's training rows; raises TaskError as `read_table` does."""
    return _read(row, data, "train.tsv")


def read_dev(row: GlueTask, data: Path) -> Examples:
    """Read a task's dev rows; raises TaskError as `read_table` does."""
    return _read(row, data, row.dev)


def _read(row: GlueTask, data: Path, name: str) -> Examples:
    file = data / "glue" / row.folder / name
    if not file.is_file():
        raise TaskError(f"{file} is missing; DATA_DIR (or --data) names the folder that holds glue/")
    return read_table(file, row.columns, row.classes)
