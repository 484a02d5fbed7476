"""Probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): a head is fitted before it and the encoder learn.

A random head would first pull the encoder about, and with few rows never end it.
"""

import numpy as np

from training.batches import Rows
from training.checkpoint import Run
from training.encoding import encode
from training.head import fit_head
from training.peers import Peers
from training.task import Scores, Task
from training.task_model import Inputs, TaskModel

ROWS_TO_START_ON = 10_000


def probe(model: TaskModel, task: Task, inputs: Inputs, labels: Scores) -> None:
    """Fit the head to the encoder as it is, to its optimum.

    Raises:
        TaskError: no row has one of the task's labels.
    """
    vectors = encode(model.encoder, [ids for row in inputs for ids in row])
    fit_head(model.head, vectors.reshape(len(inputs), model.head.texts, -1), labels, task)


def probe_first(
    model: TaskModel, task: Task, inputs: Inputs, labels: Scores, seed: int, run: Run, peers: Peers
) -> None:
    """Give a run that has not begun a head fitted to some of its rows, and all peers the same.

    Args:
        model: Its head is filled in place.
        task: What is learnt.
        inputs: Labelled rows, and others behind them.
        labels: (rows), of the former.
        seed: Decides which rows.
        run: One that has begun has a head already.
        peers: The processes that train together; the first one fits.
    """
    if run.begun:
        return
    if peers.first and (some := rows_to_start_on(task, labels, seed)) is not None:
        probe(model, task, [inputs[row] for row in some], labels[some])
    peers.take_over(model.head.parameters())


def rows_to_start_on(task: Task, labels: Scores, seed: int) -> Rows | None:
    """Choose the rows that a head is fitted to at first.

    Args:
        task: What is learnt.
        labels: (rows), label numbers or values.
        seed: Decides which.

    Returns:
        Numbers of at most ROWS_TO_START_ON rows and one more of each label, ascending; none where one of
        the task's labels has no row, to which no head can be fitted.
    """
    some = np.random.default_rng(seed).permutation(len(labels))[:ROWS_TO_START_ON]
    if not task.labels:
        return np.sort(some)
    found, first = np.unique(labels, return_index=True)
    return np.union1d(some, first) if len(found) == len(task.labels) else None
