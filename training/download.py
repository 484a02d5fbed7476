"""GLUE and a sentence corpus, fetched through the `datasets` library and written as the readers expect them."""

import importlib
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.glue import TASKS, GlueTask

GLUE = "nyu-mll/glue"
WIKIPEDIA, SNAPSHOT = "wikimedia/wikipedia", "20231101.en"
CORPUS_FILE = "corpus/wikipedia.txt.xz"
HOME = {
    "glue": "put each task's official files at <data>/glue/<Task>/train.tsv and dev.tsv (gluebenchmark.com)",
    "corpus": "put any text of your own, one sentence a line, at <data>/corpus/*.txt, .txt.gz or .txt.xz",
}
LAYOUT = """\
The data folder (DATA_DIR, or --data, else data/):
  glue/<Task>/train.tsv, dev.tsv   official files: CoLA, SST-2, MRPC, STS-B, QQP, QNLI, RTE, WNLI, and MNLI with
                                   dev_matched.tsv and dev_mismatched.tsv
  corpus/*.txt, .txt.gz, .txt.xz   one sentence a line, in document order, for distillation; recipes name the files
  fidelity/*.txt                   texts of other domains, one a line, never trained on
  user-task/<name>/train.tsv       a task of your own, columns `text` and `label`; dev.tsv or valid.tsv beside it
"""
# A point, question or exclamation mark, perhaps closed by quotes or brackets, then space and what may start a sentence.
BOUNDARY = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]?[A-Z0-9])")
ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|ca|cf|e\.g|i\.e|approx|Inc|Ltd|Co|Vol))\.$"
)
WORDS = (4, 80)  # fewer is a heading or a list's entry, more a table

Load = Callable[..., Any]


class DownloadError(RuntimeError):
    """Data that cannot be fetched; the message says what to do instead."""


@dataclass(frozen=True)
class Hub:
    """How one task of GLUE is named on the hub.

    Attributes:
        name: Of its configuration.
        columns: The hub's columns, in the order of the task's texts.
        dev: Its split of dev rows.
    """

    name: str
    columns: tuple[str, ...]
    dev: str = "validation"


SENTENCES, QUESTIONS = ("sentence1", "sentence2"), ("question1", "question2")
HUBS: Mapping[str, Hub] = {
    "sst2": Hub("sst2", ("sentence",)),
    "cola": Hub("cola", ("sentence",)),
    "mrpc": Hub("mrpc", SENTENCES),
    "stsb": Hub("stsb", SENTENCES),
    "qqp": Hub("qqp", QUESTIONS),
    "mnli": Hub("mnli", ("premise", "hypothesis"), "validation_matched"),
    "mnli-mm": Hub("mnli", ("premise", "hypothesis"), "validation_mismatched"),
    "qnli": Hub("qnli", ("question", "sentence")),
    "rte": Hub("rte", SENTENCES),
    "wnli": Hub("wnli", SENTENCES),
}


def fetch_glue(data: Path) -> Iterator[Path]:
    """Fetch all nine tasks and write <data>/glue/<Task>/train.tsv and dev.tsv; gives each file once it is written.

    Raises:
        DownloadError: the library is missing, or the hub cannot be reached.
    """
    load = _loader("glue")
    for name, hub in HUBS.items():
        row = TASKS[name]
        for file, split in (("train.tsv", "train"), (row.dev, hub.dev)):
            path = data / "glue" / row.folder / file
            if not path.is_file():
                rows = _fetch("glue", load, GLUE, hub.name, split=split)
                _write_rows(path, row, hub, tqdm(rows, desc=f"{row.folder}/{file}", unit="row"))
            yield path


def fetch_corpus(data: Path, sentences: int) -> Path:
    """Fetch Wikipedia articles until they gave `sentences` sentences, and write them one a line, in their order.

    Raises:
        DownloadError: the library is missing, or the hub cannot be reached.
    """
    load = _loader("corpus")
    articles = _fetch("corpus", load, WIKIPEDIA, SNAPSHOT, split="train", streaming=True)
    path = data / CORPUS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with lzma.open(draft, "wt", encoding="utf-8") as file:
        found = (sentence for article in articles for sentence in split_sentences(article["text"]))
        for sentence in tqdm(islice(found, sentences), total=sentences, desc="Wikipedia", unit="sentence"):
            file.write(sentence + "\n")
    draft.replace(path)
    return path


def split_sentences(text: str) -> list[str]:
    """Cut an article into sentences of 4 to 80 words; headings, lists and tables fall out."""
    low, high = WORDS
    found: list[str] = []
    for paragraph in text.split("\n"):
        pieces: list[str] = []
        for piece in BOUNDARY.split(paragraph.strip()):
            if pieces and ABBREVIATION.search(pieces[-1]):
                pieces[-1] += " " + piece
            else:
                pieces.append(piece)
        found += [" ".join(piece.split()) for piece in pieces if piece.endswith((".", "!", "?", '"', ")"))]
    return [sentence for sentence in found if low <= len(sentence.split()) <= high]


def _loader(what: str) -> Load:
    try:
        load: Load = importlib.import_module("datasets").load_dataset
    except ImportError as error:
        raise DownloadError(f"fetching data needs another package: pip install datasets; or {HOME[what]}") from error
    return load


def _fetch(what: str, load: Load, *names: str, **options: Any) -> Iterator[Mapping[str, Any]]:
    try:
        yield from load(*names, **options)
    except Exception as error:  # the library raises whatever its network client did
        reason = str(error).strip().split("\n")[0]
        raise DownloadError(f"{names[0]} cannot be had from the hub ({reason}): {HOME[what]}") from error


def _write_rows(path: Path, row: GlueTask, hub: Hub, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows in the official form: the columns that `row` reads, label values as its classes name them."""
    header = row.columns.header or (*row.columns.texts, row.columns.label)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        if not row.columns.header:
            file.write("\t".join(header) + "\n")
        for found in rows:
            texts = [_one_line(found[column]) for column in hub.columns]
            fields = {
                **dict(zip(row.columns.texts, texts, strict=True)),
                row.columns.label: _label(row, found["label"]),
            }
            file.write("\t".join(fields.get(column, "") for column in header) + "\n")
    draft.replace(path)


def _label(row: GlueTask, label: float) -> str:
    return row.classes[int(label)] if row.classes else f"{label:.3f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
