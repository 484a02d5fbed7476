"""The encoders that an evaluation sets side by side: a teacher, runs, and bundles through the very parts that serve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bundle import HEAD, MANIFEST, MODEL, TOKENIZER, WEIGHTS, Bundle, BundleError, Texts, read_bundle
from app.session import EncoderSession, HeadSession, Vectors
from app.tokenizer import Tokenizer
from export.judgement import row_vectors
from export.packed_encoder import Encode as PackedEncode
from export.parity import served
from training.checkpoint import Run, RunError
from training.encoding import Encode, text_encoder
from training.finetuning import load_start
from training.recipe import DistillRecipe, recipe_from
from training.teacher import Teacher

TEACHER = "teacher float32"

Answer = Callable[[Sequence[Texts]], Vectors]  # rows of one or two texts to (rows, labels), or (rows, 1)


@dataclass(frozen=True)
class Columns:
    """Encoders by column, the teacher first, and the recipe of the first student among them, where it has one."""

    encoders: dict[str, Encode]
    recipe: DistillRecipe | None


def columns(teacher: Teacher, runs: Sequence[Path], bundles: Sequence[Path]) -> Columns:
    """Give the teacher in float32, each run in float32, and each bundle: its float16 weights in float32, its graph.

    Raises:
        RunError: a run is not complete, a bundle is damaged, or either holds no encoder.
    """
    encoders = {TEACHER: text_encoder(teacher.encoder, teacher.tokenizer, teacher.max_tokens)}
    recipes: list[Any] = []
    for folder in runs:
        encoders[f"{folder.name} float32"] = weights_encoder(folder)
        recipes.append(Run(folder).recipe())
    for folder in bundles:
        bundle = _read(folder)
        if bundle.path(WEIGHTS).is_file():
            encoders.setdefault(f"{bundle.manifest.name} float32", weights_encoder(folder))
        encoders[f"{bundle.manifest.name} {bundle.manifest.precision}"] = bundle_encoder(bundle)
        recipes.append(bundle.manifest.training.get("recipe"))
    recipe = next((recipe_from(plain, DistillRecipe) for plain in recipes if plain), None)
    return Columns(encoders, recipe)


def weights_encoder(folder: Path) -> Encode:
    """Encode texts in float32 PyTorch, with the weights of a run or the float16 weights that a bundle carries."""
    start = load_start(folder)
    return text_encoder(start.student, start.tokenizer, start.origin["max_tokens"])


def bundle_encoder(bundle: Bundle) -> PackedEncode:
    """Encode texts, or joined pairs, with a bundle's own graph and tokenizer; raises RunError where it has none."""
    if not bundle.has_encoder:
        raise RunError(f"{bundle.folder} holds a head without an encoder, and so gives no vectors")
    return served(Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens), EncoderSession(bundle.path(MODEL)))


def task_answers(models: Path) -> dict[str, Answer]:
    """Give the answers of every student's task bundle in a folder, by name; raises RunError for a damaged one."""
    bundles = [_read(file.parent) for file in sorted(models.glob(f"[!.]*/{MANIFEST}"))]
    encoders = {bundle.manifest.space: bundle for bundle in bundles if bundle.has_encoder}
    return {
        bundle.manifest.name: _answer(bundle, encoders[bundle.manifest.base or bundle.manifest.space])
        for bundle in bundles
        if bundle.manifest.kind != "encoder" and bundle.manifest.role == "student"
    }


def _read(folder: Path) -> Bundle:
    try:
        return read_bundle(folder)
    except BundleError as error:
        raise RunError(str(error)) from error  # the trainer's command line knows no other


def _answer(bundle: Bundle, encoder: Bundle) -> Answer:
    encode, head = bundle_encoder(encoder), HeadSession(bundle.path(HEAD))

    def answer(rows: Sequence[Texts]) -> Vectors:
        return head.run(row_vectors(bundle.manifest.inputs, encode, rows))

    return answer
