"""What a fine-tuned teacher answers to the rows that its student learns: computed once, kept in the student's run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from training.checkpoint import Run, RunError
from training.task import Task, TaskError
from training.task_model import Logits, Texts, answer
from training.tuned_teacher import TunedTeacher


@dataclass(frozen=True)
class Teaching:
    """Whom a student learns a task from besides its labels.

    Attributes:
        teacher: Answers every row.
        transfer: Rows without labels to learn from it as well.
    """

    teacher: TunedTeacher
    transfer: Sequence[Texts] = ()

    def require(self, task: Task) -> None:
        """Raises TaskError when the teacher has learnt another task."""
        learnt = self.teacher.task
        if (learnt.texts, learnt.labels) != (task.texts, task.labels):
            raise TaskError(
                f"the teacher {self.teacher.name} has learnt {_shape(learnt)}, and {task.name} has {_shape(task)}"
            )


def soft_targets(teacher: TunedTeacher, rows: Sequence[Texts], run: Run) -> Logits:
    """Give the teacher's logits, float32 (rows, outputs), from the run where they are there already.

    Raises:
        RunError: the run holds its answers to other rows.
    """
    key = hashlib.sha256(json.dumps([teacher.fingerprint, rows]).encode()).hexdigest()
    kept = run.soft_targets()
    if kept is None:
        logits = answer(teacher.model, teacher.read(rows), progress=f"{teacher.name} answers")
        run.save_soft_targets(key, logits)
        return logits
    if kept[0] != key:
        raise RunError(f"{run.folder} holds a teacher's answers to other rows: give another --into, or delete it")
    return kept[1]


def _shape(task: Task) -> str:
    takes = "pairs" if task.texts == 2 else "single texts"
    return f"{takes} with {'labels ' + ', '.join(task.labels) if task.labels else 'a number'}"
