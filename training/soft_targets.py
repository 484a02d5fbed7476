"""What fine-tuned teachers answer to the rows that their student learns: computed once, kept in the student's run."""

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
        teachers: Each answers every row, and the mean of their logits is learnt.
        transfer: Rows without labels to learn from them as well.
        files: Where these are from.
        variants: Others, made from the training rows.
        per_row: How many of these were made of each.
    """

    teachers: Sequence[TunedTeacher]
    transfer: Sequence[Texts] = ()
    files: Sequence[str] = ()
    variants: Sequence[Texts] = ()
    per_row: int = 0

    @property
    def unlabelled(self) -> list[Texts]:
        """Give all rows without labels."""
        return [*self.transfer, *self.variants]

    def require(self, task: Task) -> None:
        """Raises TaskError when a teacher has learnt another task."""
        for teacher in self.teachers:
            learnt = teacher.task
            if (learnt.texts, learnt.labels) != (task.texts, task.labels):
                raise TaskError(
                    f"the teacher {teacher.name} has learnt {_shape(learnt)}, and {task.name} has {_shape(task)}"
                )


def soft_targets(teachers: Sequence[TunedTeacher], rows: Sequence[Texts], run: Run) -> Logits:
    """Give the mean of the teachers' logits (Hinton et al. 2015, arXiv 1503.02531: an ensemble teaches one model).

    What the run holds of them already is not computed again.

    Args:
        teachers: One or more that have learnt the same task.
        rows: What they answer.
        run: Keeps the answers.

    Returns:
        float32 (rows, outputs).

    Raises:
        RunError: the run holds answers of other teachers, or to other rows.
    """
    key = hashlib.sha256(json.dumps([[teacher.fingerprint for teacher in teachers], rows]).encode()).hexdigest()
    kept, logits = run.soft_targets() or (key, np.empty((0, teachers[0].task.outputs), dtype=np.float32))
    if kept != key:
        raise RunError(
            f"{run.folder} holds other teachers' answers, or answers to other rows: give another --into, or delete it"
        )
    names, file = ", ".join(teacher.name for teacher in teachers), run.folder / "soft_targets.jsonl"
    with Progress(f"answers of {names}", len(rows), len(logits), "row", file) as progress:
        while len(logits) < len(rows):
            some = rows[len(logits) : len(logits) + ROWS_BETWEEN_SAVES]
            answers = [answer(teacher.model, teacher.read(some)) for teacher in teachers]
            logits = np.concatenate([logits, np.mean(answers, axis=0)])
            run.save_soft_targets(key, logits)
            progress.add(len(some))
    return logits


def _shape(task: Task) -> str:
    takes = "pairs" if task.texts == 2 else "single texts"
    return f"{takes} with {'labels ' + ', '.join(task.labels) if task.labels else 'a number'}"
