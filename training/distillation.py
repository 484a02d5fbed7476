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
from training.recipe import DistillRecipe, RecipeError, as_dict
from training.start import Start
from training.store import Keys
from training.student import build_student
from training.targets import Targets, label
from training.teacher import Teacher, load_teacher
from training.widening import widened, widens_to


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
        RecipeError: `start` is no student of this teacher, has another shape than the recipe says, or has learnt what
            the recipe holds out.
        RunError: the run's folder holds a run of another recipe, or of a corpus, a teacher or a start that has changed.
    """
    texts = read_corpus(recipe.corpus, data, recipe.seed)
    teacher = load_teacher(recipe.teacher, recipe.corpus.max_tokens)
    if start:
        _require_fitting(start, recipe, teacher)
    followed = as_dict(recipe) | ({"from": start.lineage} if start else {})
    whose = [teacher.fingerprint, *([start.fingerprint] if start else [])]
    run.start(followed, teacher.tokenizer, chain(whose, texts.items()))
    torch.manual_seed(recipe.seed)
    if start:
        student = widened(start.student, recipe.student)
    else:
        student = build_student(recipe.student, teacher.word_embeddings(), teacher.width)
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


def _require_fitting(start: Start, recipe: DistillRecipe, teacher: Teacher) -> None:
    if start.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise RecipeError(f"the student to go on from reads other tokens than the teacher, {teacher.name}")
    if (width := start.student.projection.out_features) != teacher.width:
        raise RecipeError(f"the student to go on from gives {width} numbers, and the teacher {teacher.width}")
    if not widens_to(start.student.shape, recipe.student):
        wanted = "the recipe's [student] must say the same, or more states or heads"
        raise RecipeError(f"the student to go on from has the shape {start.student.shape}: {wanted}")
    if (held_out := start.corpus["held_out"]) < recipe.corpus.held_out:
        raise RecipeError(
            f"the student to go on from held out {held_out} of its texts: corpus.held_out is at most that"
        )


def split(keys: Keys, held_out: float) -> tuple[Rows, Rows]:
    """Set a share of the rows aside, those of the lowest keys: training rows and held-out rows, both ascending int64.

    Keys are hashes of the content, so the choice is random, yet no seed, order or other row changes it: no student
    has been trained on what another with the same share holds out, whatever corpus either has.

    Raises:
        RunError: nothing would be left to train on, or to hold out.
    """
    aside = keys < np.uint64(held_out * 2**64)
    if aside.all() or not aside.any():
        rows = f"{aside.sum()} of the corpus's {len(keys)} distinct rows"
        raise RunError(f"corpus.held_out = {held_out} sets {rows} aside: it takes more texts, or another share")
    return np.flatnonzero(~aside), np.flatnonzero(aside)


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
