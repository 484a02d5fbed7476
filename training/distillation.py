"""Approximation: teach the student the teacher's sentence vectors on open text, without any task."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.batches import Batches, Rows
from training.checkpoint import Run, RunError
from training.corpus import read_corpus
from training.encoding import device_of, encode
from training.linear_start import linear_start, start_from
from training.loop import fit, parameter_groups
from training.losses import Loss, mixture
from training.peers import ALONE, Peers
from training.recipe import DistillRecipe, RecipeError, StudentShape, as_dict
from training.start import Start
from training.store import Keys
from training.student import build_student
from training.targets import Targets, label
from training.teacher import Teacher, load_teacher


def distil(
    recipe: DistillRecipe, data: Path, cache: Path, run: Run, peers: Peers = ALONE, start: Start | None = None
) -> dict[str, float]:
    """Follow a recipe to its end, from the run's last checkpoint where there is one.

    Args:
        recipe: What to do.
        data: Folder that the corpus files lie in.
        cache: Folder for teacher vectors, shared by all runs.
        run: Where to keep the result.
        peers: The processes that train together.
        start: A student of this teacher to go on from, with texts of another kind or for longer; none begins anew.

    Returns:
        The final figures; `held_out_cosine` is the mean cosine to the teacher on rows never trained on.

    Raises:
        RecipeError: `start` is no student of this teacher, or has another shape than the recipe says.
        RunError: the run's folder holds a run of another recipe, or of a corpus, a teacher or a start that has changed.
    """
    texts = read_corpus(recipe.corpus, data, recipe.seed)
    teacher = load_teacher(recipe.teacher, recipe.corpus.max_tokens)
    if start:
        _require_fitting(start, recipe.student, teacher)
    followed = as_dict(recipe) | ({"from": start.origin} if start else {})
    whose = [teacher.fingerprint, *([start.fingerprint] if start else [])]
    run.start(followed, teacher.tokenizer, chain(whose, texts.items()))
    torch.manual_seed(recipe.seed)
    student = start.student if start else build_student(recipe.student, teacher.word_embeddings(), teacher.width)
    teacher.encoder.to(peers.device)
    with peers.one_after_the_other():
        targets = label(teacher, list(texts), teacher.max_tokens, cache)
    train, held_out = split(targets.tokens.keys, recipe.corpus.held_out)
    repeats = np.fromiter(texts.values(), dtype=np.int64)[targets.tokens.texts]
    seen = np.repeat(train, repeats[train])
    if "embedding" in recipe.student.pooling and not start:
        with peers.one_after_the_other():
            linear = linear_start(teacher, targets, seen, recipe.student.embedding, recipe.seed, cache)
        start_from(student, linear)
    student.to(peers.device)
    lengths = targets.tokens.lengths
    run.save_facts(
        {
            "kind": "encoder",
            "vocabulary": teacher.vocabulary,
            "width": teacher.width,
            "max_tokens": teacher.max_tokens,
            "teacher": teacher.name,
            "teacher_fingerprint": teacher.fingerprint,
            "rows": len(train),
            "tokens": int(lengths[train].sum()),
        }
    )
    every = list(texts)
    run.save_dev({"texts": [[every[targets.tokens.texts[row]]] for row in held_out]})
    how = recipe.optimisation
    return fit(
        student,
        parameter_groups(student, {"": how.learning_rate}, how.weight_decay),
        Batches(seen, lengths[seen], recipe.seed, how.batch_rows, how.batch_tokens),
        approximation(student, targets, mixture(asdict(recipe.loss))),
        how,
        run,
        seed=recipe.seed,
        bfloat16=recipe.precision == "bfloat16",
        evaluate=lambda model: {"held_out_cosine": mean_cosine(model, targets, held_out)},
        peers=peers,
    )


def _require_fitting(start: Start, shape: StudentShape, teacher: Teacher) -> None:
    if start.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise RecipeError(f"the student to go on from reads other tokens than the teacher, {teacher.name}")
    if (width := start.student.projection.out_features) != teacher.width:
        raise RecipeError(f"the student to go on from gives {width} numbers, and the teacher {teacher.width}")
    if (own := StudentShape(**start.origin["shape"])) != shape:
        raise RecipeError(f"the student to go on from has the shape {own}: the recipe's [student] must say the same")


def split(keys: Keys, held_out: int) -> tuple[Rows, Rows]:
    """Set the rows of the lowest keys aside: training rows and held-out rows, both ascending int64.

    Keys are hashes of the content, so the choice is random, yet no seed or order changes it: a student of a smaller
    corpus has not been trained on what a larger one holds out.

    Raises:
        RunError: nothing would be left to train on.
    """
    if held_out >= len(keys):
        raise RunError(f"the corpus has {len(keys)} distinct rows, and corpus.held_out sets {held_out} of them aside")
    order = np.argsort(keys, kind="stable")
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def approximation(student: nn.Module, targets: Targets, loss: Loss) -> Callable[[Rows], Tensor]:
    """Give the loss of a batch: the student's vectors held against the teacher's."""
    device = device_of(student)

    def loss_of(rows: Rows) -> Tensor:
        expected = torch.from_numpy(targets.expected(rows)).to(device)
        return loss(student(targets.tokens.input_ids(rows).to(device)), expected)

    return loss_of


def mean_cosine(student: nn.Module, targets: Targets, rows: Rows) -> float:
    """Give the mean cosine of student and teacher over rows, in float32."""
    student.eval()
    vectors = encode(student, [targets.tokens.row(row) for row in rows])
    expected = targets.expected(rows)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    return float((vectors * expected).sum(axis=1).mean())
