"""What a fine-tuned teacher answers to the rows that its student learns: computed once, kept in the student's run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.checkpoint import Run, RunError
from training.progress import Progress
from training.task import Task, TaskError
from training.task_model import Logits, Texts, answer
from training.tuned_teacher import TunedTeacher

ROWS_BETWEEN_SAVES = 2048


@dataclass(frozen=True)
class Teaching:
    """Whom a student learns a task from besides its labels.

    Attributes:
        teacher: Answers every row.
        transfer: Rows without labels to learn from it as well.
        files: Where these are from.
        variants: Others, made from the training rows.
        per_row: How many of these were made of each.
    """

    teacher: TunedTeacher
    transfer: Sequence[Texts] = ()
    files: Sequence[str] = ()
    variants: Sequence[Texts] = ()
    per_row: int = 0

    @property
    def unlabelled(self) -> list[Texts]:
        """Give all rows without labels."""
        return [*self.transfer, *self.variants]

    def require(self, task: Task) -> None:
        """Raises TaskError when the teacher has learnt another task."""
        learnt = self.teacher.task
        if (learnt.texts, learnt.labels) != (task.texts, task.labels):
            raise TaskError(
                f"the teacher {self.teacher.name} has learnt {_shape(learnt)}, and {task.name} has {_shape(task)}"
            )


def soft_targets(teacher: TunedTeacher, rows: Sequence[Texts], run: Run) -> Logits:
    """Give the teacher's logits, float32 (rows, outputs); what the run holds of them already is not computed again.

    Raises:
        RunError: the run holds its answers to other rows.
    """
    key = hashlib.sha256(json.dumps([teacher.fingerprint, rows]).encode()).hexdigest()
    kept, logits = run.soft_targets() or (key, np.empty((0, teacher.task.outputs), dtype=np.float32))
    if kept != key:
        raise RunError(f"{run.folder} holds a teacher's answers to other rows: give another --into, or delete it")
    file = run.folder / "soft_targets.jsonl"
    with Progress(f"{teacher.name} answers", len(rows), len(logits), "row", file) as progress:
        while len(logits) < len(rows):
            some = rows[len(logits) : len(logits) + ROWS_BETWEEN_SAVES]
            logits = np.concatenate([logits, answer(teacher.model, teacher.read(some))])
            run.save_soft_targets(key, logits)
            progress.add(len(some))
    return logits


def _shape(task: Task) -> str:
    takes = "pairs" if task.texts == 2 else "single texts"
    return f"{takes} with {'labels ' + ', '.join(task.labels) if task.labels else 'a number'}"
