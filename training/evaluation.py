"""How close a student is to its teacher, and what both are worth, side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from training.checkpoint import Run
from training.encoding import Vectors, encode, tokenize
from training.glue import TASKS, read_dev
from training.student import load_student
from training.teacher import load_teacher

NEIGHBOURS = 10

Encode = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class Fidelity:
    """How close vectors are to a teacher's, of the same texts.

    Attributes:
        cosine: Mean cosine of a text's two vectors.
        rank: Spearman correlation of the cosines of all pairs of texts: does the student rank as the teacher ranks?
        neighbours: Mean share of a text's ten nearest texts that both agree on.
    """

    cosine: float
    rank: float
    neighbours: float


def fidelity(vectors: Vectors, expected: Vectors) -> Fidelity:
    """Compare vectors with a teacher's, both (texts, width), of at least three texts."""
    found, wanted = _similarities(vectors), _similarities(expected)
    pairs = np.triu_indices(len(found), k=1)
    return Fidelity(
        cosine=float(_cosines(vectors, expected).mean()),
        rank=float(spearmanr(found[pairs], wanted[pairs])[0]),
        neighbours=_neighbours_in_common(found, wanted),
    )


def sts_spearman(encode_texts: Encode, data: Path) -> float:
    """Give the Spearman correlation of cosine and human score on STS-B's dev set (Cer et al. 2017)."""
    row = TASKS["stsb"]
    examples = read_dev(row, data)
    first, second = (encode_texts([texts[side] for texts in examples.texts]) for side in (0, 1))
    return row.task.score(examples.labels, _cosines(first, second)[:, None])["spearman"]


def evaluate_student(run: Run, teacher_source: str, data: Path) -> str:
    """Evaluate a run's float32 student beside its teacher and give a Markdown table.

    Raises:
        RunError: the run is not complete.
        TaskError: STS-B is not below `data`.
    """
    facts, tokenizer = run.facts(), run.tokenizer()
    student, teacher = load_student(run.recipe()["student"], run.weights()), load_teacher(teacher_source)

    def by_student(texts: Sequence[str]) -> Vectors:
        return encode(student, tokenize(tokenizer, texts, facts["max_tokens"]))

    def by_teacher(texts: Sequence[str]) -> Vectors:
        return encode(teacher.encoder, tokenize(teacher.tokenizer, texts, teacher.max_tokens))

    return comparison({"student": by_student, "teacher": by_teacher}, "teacher", data)


def comparison(encoders: Mapping[str, Encode], reference: str, data: Path) -> str:
    """Give a Markdown table: STS-B's dev set, then fidelity to the teacher for each file below <data>/fidelity.

    Args:
        encoders: By column.
        reference: The column of the teacher.
        data: Folder that holds glue/ and, if fidelity is to be shown, fidelity/*.txt with one text a line.
    """
    scores = {name: sts_spearman(encoder, data) for name, encoder in encoders.items()}
    lines = [
        "|  | " + " | ".join(encoders) + " |",
        "| --- |" + " ---: |" * len(encoders),
        _line("STS-B dev, Spearman", [f"{value:.4f}" for value in scores.values()]),
        _line("share of the teacher's", [f"{value / scores[reference]:.1%}" for value in scores.values()]),
    ]
    found: list[list[Fidelity]] = []
    for domain, texts in _domains(data):
        vectors = {name: encoder(texts) for name, encoder in encoders.items()}
        found.append([fidelity(vectors[name], vectors[reference]) for name in encoders])
        lines.append(_line(f"{domain}: cosine / rank / neighbours", map(_cell, found[-1])))
    if found:
        lines.append(_line("mean of the domains", map(_cell, map(_mean, zip(*found, strict=True)))))
    return "\n".join(lines)


def _domains(data: Path) -> Iterator[tuple[str, list[str]]]:
    for file in sorted((data / "fidelity").glob("*.txt")):
        yield file.stem, [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def _mean(figures: Sequence[Fidelity]) -> Fidelity:
    columns = ([one.cosine for one in figures], [one.rank for one in figures], [one.neighbours for one in figures])
    return Fidelity(*(float(np.mean(column)) for column in columns))


def _cell(figures: Fidelity) -> str:
    return f"{figures.cosine:.3f} / {figures.rank:.3f} / {figures.neighbours:.3f}"


def _line(title: str, cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float32]:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float32] = (first * second).sum(axis=1) / norms
    return cosines


def _similarities(vectors: Vectors) -> NDArray[np.float32]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities: NDArray[np.float32] = unit @ unit.T
    return similarities


def _neighbours_in_common(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    count = min(NEIGHBOURS, len(found) - 1)
    nearest = [_nearest(similarities, count) for similarities in (found, wanted)]
    return float(np.mean([len(set(ours) & set(theirs)) / count for ours, theirs in zip(*nearest, strict=True)]))


def _nearest(similarities: NDArray[np.float32], count: int) -> list[list[int]]:
    others = similarities - 3 * np.eye(len(similarities), dtype=np.float32)  # no text is its own neighbour
    nearest: list[list[int]] = np.argsort(-others, axis=1, kind="stable")[:, :count].tolist()
    return nearest
