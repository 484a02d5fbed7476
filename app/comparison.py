"""Student beside teacher on the same inputs: what both say, and how long each takes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.batcher import Limits
from app.bundle import Manifest, Texts
from app.engine import Encoded, Engine, Scored, Task
from app.fidelity import cosines
from app.metrics import Metrics
from app.registry import Catalogue, load_catalogue
from app.settings import Settings


class InputError(ValueError):
    """A file whose lines cannot be compared; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Pair:
    """Student and teacher for the same inputs: two encoders, or a task's two bundles."""

    student: Engine | Task
    teacher: Engine | Task

    @property
    def takes(self) -> Literal["sentences", "pairs"]:
        """What both have to be given."""
        return "sentences" if isinstance(self.student, Engine) else self.student.takes

    async def compare(self, inputs: Sequence[Texts]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Ask the student, then the teacher, through the same code and with the same number of threads.

        Returns:
            A result for each input: the cosine of both vectors, or both answers and whether they agree; and what holds
            for all of them: each one's precision and milliseconds, the threads, the speed-up, what was truncated.

        Raises:
            InvalidError, OverloadedError, ModelError: as Engine.encode.
        """
        student, teacher = await _answer(self.student, inputs), await _answer(self.teacher, inputs)
        return self._results(student, teacher), {
            "student": _timing(student, self.student.manifest, len(inputs)),
            "teacher": _timing(teacher, self.teacher.manifest, len(inputs)),
            "threads": self.student.threads,
            "speed_up": _seconds(teacher) / _seconds(student),
            "truncated": sorted({*student.truncated, *teacher.truncated}),
        }

    def _results(self, student: Encoded, teacher: Encoded) -> list[dict[str, Any]]:
        if isinstance(student, Scored) and isinstance(self.student, Task):
            assert isinstance(teacher, Scored)
            assert isinstance(self.teacher, Task)
            answers = zip(self.student.predictions(student), self.teacher.predictions(teacher), strict=True)
            return [{"student": ours, "teacher": theirs, "agree": _agree(ours, theirs)} for ours, theirs in answers]
        return [{"cosine": cosine} for cosine in cosines(student.vectors, teacher.vectors)]


def find_pair(catalogue: Catalogue, task: str | None) -> Pair:
    """Find the two to compare; raises NotFoundError that tells how to make the one that is missing."""
    if task is None:
        return Pair(catalogue.encoder("student"), catalogue.encoder("teacher"))
    return Pair(catalogue.task(task, "student"), catalogue.task(task, "teacher"))


def compare_file(settings: Settings, threads: int, file: Path, task: str | None) -> str:
    """Compare on the lines of a file, without a service, and give a table.

    Args:
        settings: Where the bundles lie, and how batches are made.
        threads: For each model.
        file: A sentence a line; for a task that takes pairs, two with a tab between.
        task: Compare this task's answers; without it, vectors.

    Raises:
        InputError: the file cannot be read, is empty, or a line is not what the task takes.
        BundleError: the bundles cannot be loaded.
        ServiceError: one of the two is not there, or a model failed.
    """
    limits = Limits(settings.queue_tokens, settings.batch_tokens, settings.batch_rows)
    lines = _read_lines(file)
    catalogue = load_catalogue(settings.models_dir, limits, threads, Metrics(), settings.student)
    try:
        pair = find_pair(catalogue, task)
        inputs = [_split(line, pair.takes, file, number) for number, line in lines]
        results, figures = asyncio.run(pair.compare(inputs))
    finally:
        catalogue.retire()
    return "\n".join([*_table(inputs, results), "", *_summary(results, figures)])


async def _answer(loaded: Engine | Task, inputs: Sequence[Texts]) -> Encoded:
    return await (loaded.encode(inputs) if isinstance(loaded, Engine) else loaded.score(inputs))


def _seconds(answer: Encoded) -> float:
    return sum(answer.stages.values())


def _timing(answer: Encoded, manifest: Manifest, inputs: int) -> dict[str, Any]:
    milliseconds = 1e3 * _seconds(answer)
    return {
        "precision": manifest.precision,
        "milliseconds": milliseconds,
        "milliseconds_per_input": milliseconds / inputs,
    }


def _agree(ours: dict[str, Any], theirs: dict[str, Any]) -> bool | None:
    return ours["label"] == theirs["label"] if "label" in ours else None


def _read_lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines that are not blank, each with its number."""
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
    # not splitlines(), to which a form feed or U+2028 within a sentence is an end as well
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{file} holds no sentence")
    return lines


def _split(line: str, takes: Literal["sentences", "pairs"], file: Path, number: int) -> Texts:
    texts = (line,) if takes == "sentences" else tuple(line.split("\t"))
    if takes == "pairs" and len(texts) != 2:
        raise InputError(f"{file}, line {number}: this task takes two sentences with a tab between")
    return texts


def _table(inputs: Sequence[Texts], results: Sequence[dict[str, Any]]) -> list[str]:
    if "cosine" in results[0]:
        head, rows = ["cosine"], [[f"{result['cosine']:.3f}"] for result in results]
    else:
        head = ["student", "teacher"]
        rows = [[_said(result[role]) for role in head] for result in results]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [(*head, "input"), *((*row, " | ".join(texts)) for row, texts in zip(rows, inputs, strict=True))]
    return ["  ".join((*map(str.ljust, cells, widths), text)) for *cells, text in lines]


def _said(answer: dict[str, Any]) -> str:
    return f"{answer['label']} {answer['score']:.3f}" if "label" in answer else f"{answer['value']:.3f}"


def _summary(results: Sequence[dict[str, Any]], figures: dict[str, Any]) -> list[str]:
    timings = [
        f"{role:8} {figures[role]['precision']:8} {figures[role]['milliseconds']:10.2f} ms"
        f"  {figures[role]['milliseconds_per_input']:8.3f} ms per input"
        for role in ("student", "teacher")
    ]
    speed_up = f"speed-up {figures['speed_up']:.1f}, both with {figures['threads']} threads"
    cut = f", {len(figures['truncated'])} of them cut off at a model's limit" if figures["truncated"] else ""
    return [f"{len(results)} inputs{cut}, {_agreement(results)}", *timings, speed_up]


def _agreement(results: Sequence[dict[str, Any]]) -> str:
    if "cosine" in results[0]:
        return f"mean cosine {sum(result['cosine'] for result in results) / len(results):.3f}"
    if results[0]["agree"] is None:
        return "as numbers"
    return f"{sum(result['agree'] for result in results)} with the same label"
