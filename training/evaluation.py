"""How close a student is to its teacher, and what both are worth, side by side."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.checkpoint import Run
from training.encoding import Vectors, encode, tokenize
from training.glue import TASKS, read_dev
from training.student import load_student
from training.teacher import load_teacher

Encode = Callable[[Sequence[str]], Vectors]


def sts_spearman(encode_texts: Encode, data: Path) -> float:
    """Give the Spearman correlation of cosine and human score on STS-B's dev set (Cer et al. 2017)."""
    row = TASKS["stsb"]
    examples = read_dev(row, data)
    first, second = (encode_texts([texts[side] for texts in examples.texts]) for side in (0, 1))
    return row.task.score(examples.labels, _cosines(first, second)[:, None])["spearman"]


def domain_cosines(encode_student: Encode, encode_teacher: Encode, data: Path) -> dict[str, float]:
    """Give the mean cosine to the teacher for each file below <data>/fidelity, one text a line."""
    answers: dict[str, float] = {}
    for file in sorted((data / "fidelity").glob("*.txt")):
        texts = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        answers[file.stem] = float(_cosines(encode_student(texts), encode_teacher(texts)).mean())
    return answers


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
    """Give a Markdown table of STS-B dev Spearman and of mean cosine to the teacher in other domains.

    Args:
        encoders: By column.
        reference: The column of the teacher.
        data: Folder that holds glue/ and fidelity/.
    """
    rows = {"STS-B dev Spearman": {name: sts_spearman(encoder, data) for name, encoder in encoders.items()}}
    cosines = {name: domain_cosines(encoder, encoders[reference], data) for name, encoder in encoders.items()}
    for domain in cosines[reference]:
        rows[f"cosine to teacher, {domain}"] = {name: cosines[name][domain] for name in encoders}
    if cosines[reference]:
        rows["cosine to teacher, mean of domains"] = {
            name: float(np.mean(list(found.values()))) for name, found in cosines.items()
        }
    lines = ["|  | " + " | ".join(encoders) + " |", "| --- |" + " ---: |" * len(encoders)]
    lines += [
        f"| {title} | " + " | ".join(f"{row[name]:.4f}" for name in encoders) + " |" for title, row in rows.items()
    ]
    spearman = rows["STS-B dev Spearman"]
    shares = [f"{spearman[name] / spearman[reference]:.1%}" for name in encoders]
    return "\n".join([*lines, "| share of the teacher's Spearman | " + " | ".join(shares) + " |"])


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float32]:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float32] = (first * second).sum(axis=1) / norms
    return cosines
