"""A teacher fine-tuned on one task: BERT with a head on the vector that the checkpoint's own pooling gives.

Pairs are joined into one row (Devlin et al. 2019, arXiv 1810.04805, section 3.2), or encoded apart, as students encode
them and as sentence encoders were trained (Reimers and Gurevych 2019, arXiv 1908.10084). The vector of one row is taken
before any normalisation, since unit length would bound the logits; those of a pair apart are the teacher's own.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from training.checkpoint import Run, RunError
from training.head import Head
from training.peers import ALONE, Peers
from training.probing import probe_first
from training.recipe import TeacherTaskRecipe, as_dict
from training.task import Examples, Task, identity, task_from
from training.task_model import (
    Figures,
    Reader,
    TaskModel,
    facts_of,
    fit_task,
    labelled_loss,
    read_apart,
    read_joined,
    scoring,
)
from training.teacher import Teacher, TeacherEncoder, TeacherError

# Batches are padded to a multiple of this: joined pairs have so many lengths that few rows share one.
PADDED_TO = 8


@dataclass(frozen=True)
class TunedTeacher:
    """A teacher that has learnt a task.

    Attributes:
        name: Of its run.
        task: What it learnt.
        model: Its encoder and head, ready for inference.
        tokenizer: Its encoder's.
        max_tokens: Of a row, special tokens included.
        apart: Whether it encodes the texts of a pair apart.
        fingerprint: Identifies everything that decides its answers.
    """

    name: str
    task: Task
    model: TaskModel
    tokenizer: Tokenizer
    max_tokens: int
    apart: bool
    fingerprint: str

    @property
    def read(self) -> Reader:
        """Tokenise rows as this teacher takes them."""
        return _reader(self.tokenizer, self.max_tokens, apart=self.apart)


def finetune_teacher(
    recipe: TeacherTaskRecipe,
    task: Task,
    train: Examples,
    dev: Examples,
    teacher: Teacher,
    run: Run,
    peers: Peers = ALONE,
) -> Figures:
    """Fine-tune the whole of a teacher on a task's rows; the last epoch's weights are kept.

    Args:
        recipe: What to do.
        task: On what.
        train: Labelled rows to learn.
        dev: Labelled rows to score; the run keeps them.
        teacher: Changed in place.
        run: Where to keep the result.
        peers: The processes that train together.

    Returns:
        The task's metrics on `dev`.

    Raises:
        TeacherError: pairs are to be joined, and the teacher has one token type only.
        RunError: the run's folder holds a run of another recipe or on other rows.
    """
    pooling = teacher.encoder.pooling if recipe.pooling == "own" else recipe.pooling
    apart = task.texts == 2 and recipe.pairs == "apart"
    separator = _separator(teacher) if task.texts == 2 and not apart else None
    normalise = apart and teacher.encoder.normalise
    run.start(
        {**as_dict(recipe), "task": task.name, "teacher": teacher.name, "fingerprint": teacher.fingerprint},
        teacher.tokenizer,
        identity(task, train, dev),
    )
    config = {name: value for name, value in teacher.encoder.bert.config.to_diff_dict().items() if name[0] != "_"}
    shape = {"bert": config, "pooling": pooling, "normalise": normalise, "separator": separator, "apart": apart}
    known = facts_of(task, teacher.width, teacher.vocabulary, teacher.max_tokens, len(train))
    run.save_facts({**known, **shape, "source": teacher.name, "role": "teacher"})
    run.save_dev(dev.plain())
    torch.manual_seed(recipe.seed)
    encoder = TeacherEncoder(teacher.encoder.bert, pooling, normalise=normalise, separator=separator)
    head = Head(2 if apart else 1, teacher.width, task.outputs, recipe.dropout, symmetric=task.symmetric)
    model = TaskModel(encoder, head).to(peers.device)
    if not task.labels:
        model.head.scale_to(train.labels)
    read = _reader(teacher.tokenizer, min(recipe.max_tokens, teacher.max_tokens), apart=apart)
    inputs = read(train.texts)
    if apart:  # in a joined row there is nothing to probe: no sentence encoder was trained on such rows
        probe_first(model, task, inputs, train.labels, recipe.seed, run, peers)
    lengths = np.asarray([-(-max(map(len, row)) // PADDED_TO) * PADDED_TO for row in inputs], dtype=np.int64)
    return fit_task(
        model,
        recipe,
        {"": recipe.optimisation.learning_rate},
        lengths,
        labelled_loss(model, task, inputs, train.labels),
        scoring(task, dev, read, run),
        run,
        peers,
    )


def load_tuned_teacher(folder: Path) -> TunedTeacher:
    """Load a fine-tuned teacher from its run.

    Raises:
        RunError: the folder holds no run, one that is not finished, or a run of something else.
    """
    run = Run(folder)
    facts = run.facts()
    if facts.get("role") != "teacher":
        raise RunError(f"{folder} holds a student's {facts['kind']}; expected a run of `finetune-teacher`")
    run.require_finished()
    task, weights = task_from(facts["task"]), run.weights()
    apart = facts.get("apart", False)
    head = Head(2 if apart else 1, facts["width"], task.outputs, symmetric=task.symmetric)
    model = TaskModel(_encoder_from(facts), head)
    model.load_state_dict(weights)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for weight in weights.values():
        digest.update(weight.numpy().tobytes())
    fingerprint = digest.hexdigest()[:16]
    return TunedTeacher(folder.name, task, model.eval(), run.tokenizer(), facts["max_tokens"], apart, fingerprint)


def _reader(tokenizer: Tokenizer, max_tokens: int, *, apart: bool) -> Reader:
    return read_apart(tokenizer, max_tokens) if apart else read_joined(tokenizer, max_tokens)


def _encoder_from(facts: dict[str, Any]) -> TeacherEncoder:
    bert = BertModel(BertConfig(**facts["bert"]), add_pooling_layer=False)
    normalise = facts.get("normalise", False)
    return TeacherEncoder(bert, facts["pooling"], normalise=normalise, separator=facts["separator"])


def _separator(teacher: Teacher) -> int:
    """Find the token that ends each text of a pair: it ends a row as well."""
    if teacher.encoder.bert.config.type_vocab_size < 2:
        raise TeacherError(f"{teacher.name} has one token type, and so cannot tell the two texts of a pair apart")
    separator: int = teacher.tokenizer.encode("").ids[-1]
    return separator
