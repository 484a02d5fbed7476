"""The encoders that an evaluation sets side by side: a teacher, runs, and bundles through the very parts that serve."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.bundle import HEAD, MANIFEST, WEIGHTS, Bundle, BundleError, Texts, read_bundle, read_bundles
from app.session import HeadSession, Vectors
from export.judgement import row_vectors
from export.packed_encoder import bundle_encoder, teacher_space
from training.checkpoint import Run, RunError
from training.encoding import Encode, text_encoder
from training.evaluation import Answer, TaskAnswers
from training.recipe import DistillRecipe, recipe_from
from training.start import load_start
from training.student import Student
from training.task import TaskError
from training.teacher import Teacher

TEACHER = "teacher float32"


@dataclass(frozen=True)
class Columns:
    """What is set side by side.

    Attributes:
        encoders: By column, the teacher first.
        names: Of the runs and bundles, by folder: what their columns begin with.
    """

    encoders: dict[str, Encode]
    names: dict[Path, str]


@dataclass(frozen=True)
class _Source:
    """A run or a bundle among what is evaluated.

    Attributes:
        folder: Where it lies.
        name: What it calls itself.
        student: With its weights, where it has any but its graph's.
        encoders: By precision.
        is_bundle: It is no run.
    """

    folder: Path
    name: str
    student: Student | None
    encoders: dict[str, Encode]
    is_bundle: bool

    @property
    def path(self) -> str:
        """Its folder as it was given, with a parent, so that it is no source's name."""
        return str(self.folder if len(self.folder.parts) > 1 else self.folder.resolve())

    def is_one_with(self, other: "_Source") -> bool:
        """Tell whether one is a run and the other its bundle, which holds the same weights in float16."""
        if self.is_bundle == other.is_bundle or self.student is None or other.student is None:
            return False
        ours, theirs = self.student.state_dict(), other.student.state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[key].half(), theirs[key].half()) for key in ours)


@dataclass(frozen=True)
class _Student:
    """A student among what is evaluated.

    Attributes:
        folder: Of its run or bundle.
        recipe: That it was distilled by, as plain values.
        teacher: Its teacher's name.
        space: Of that teacher's vectors in float32.
    """

    folder: Path
    recipe: Mapping[str, Any]
    teacher: str
    space: str

    def require(self, teacher: Teacher) -> None:
        """Raises RunError when this is another teacher's student."""
        space = teacher_space(teacher.fingerprint, "float32")
        if space != self.space:
            raise RunError(
                f"{self.folder} is a student of {self.teacher} (space {self.space}), and not of {teacher.name} (space "
                f"{space}): pass the former, {self.recipe['teacher']!r} in its recipe, as --teacher, and evaluate "
                "students of one teacher at a time"
            )


def first_recipe(runs: Sequence[Path], bundles: Sequence[Path]) -> DistillRecipe | None:
    """Give the recipe of the first student; none where there is no student.

    Raises:
        RunError: a run is not complete, or a bundle is damaged.
        RecipeError: the recipe, say of an older version, cannot be read.
    """
    return next((recipe_from(student.recipe, DistillRecipe) for student in _students(runs, bundles)), None)


def with_less_held_out(recipe: DistillRecipe, runs: Sequence[Path], bundles: Sequence[Path]) -> list[Path]:
    """Give the students that may have learnt what a recipe holds out, since they held out a smaller share."""
    return [
        student.folder
        for student in _students(runs, bundles)
        if recipe_from(student.recipe, DistillRecipe).corpus.held_out < recipe.corpus.held_out
    ]


def columns(teacher: Teacher, runs: Sequence[Path], bundles: Sequence[Path]) -> Columns:
    """Give the teacher in float32, each run in float32, and each bundle: its float16 weights in float32, its graph.

    A column is called by its run or bundle, and by the folder of that where two models have one name. A run and the
    bundle of its weights are one model, whose column in float32 is the run's.

    Raises:
        RunError: a run is not complete, a bundle is damaged, either holds no encoder, or one is the student of another
            teacher.
    """
    for student in _students(runs, bundles):
        student.require(teacher)
    encoders = {TEACHER: text_encoder(teacher.encoder, teacher.tokenizer, teacher.max_tokens)}
    sources = [*map(_of_run, dict.fromkeys(runs)), *map(_of_bundle, dict.fromkeys(bundles))]
    names = _names(sources)
    for source in sources:
        for precision, encode in source.encoders.items():
            encoders.setdefault(f"{names[source.folder]} {precision}", encode)
    return Columns(encoders, names)


def task_answers(models: Path) -> dict[str, TaskAnswers]:
    """Give the answers of every student's task bundle in a folder, by name.

    A bundle whose base is not in the folder raises TaskError when it is asked.

    Raises:
        RunError: a bundle is damaged, or two are of one task.
    """
    with _bundle_errors():
        bundles = read_bundles(file.parent for file in sorted(models.glob(f"[!.]*/{MANIFEST}")))
    tasks: dict[str, Bundle] = {}
    for bundle in bundles:
        if bundle.manifest.kind != "encoder" and bundle.manifest.role == "student":
            other = tasks.setdefault(bundle.manifest.name, bundle)
            if other is not bundle:
                raise RunError(f"{other.folder} and {bundle.folder} both are {other.manifest.name}: move one elsewhere")
    return {
        name: TaskAnswers(
            1 if bundle.manifest.inputs == "text" else 2,
            bundle.manifest.labels,
            _answer(bundle),
        )
        for name, bundle in tasks.items()
    }


def _students(runs: Sequence[Path], bundles: Sequence[Path]) -> list[_Student]:
    found = []
    for run in map(Run, runs):
        facts = run.facts()
        if facts["kind"] == "encoder":
            space = teacher_space(facts["teacher_fingerprint"], "float32")
            found.append(_Student(run.folder, run.recipe(), facts["teacher"], space))
    for folder in bundles:
        manifest = _read(folder).manifest
        if manifest.approximates:
            made = manifest.training
            found.append(_Student(folder, made["recipe"], made["teacher"], manifest.approximates))
    return found


def _of_run(folder: Path) -> _Source:
    start = load_start(folder)
    return _Source(folder, folder.name, start.student, {"float32": start.encode}, is_bundle=False)


def _of_bundle(folder: Path) -> _Source:
    bundle = _read(folder)
    if not bundle.has_encoder:
        raise RunError(f"{folder} holds a head without an encoder, and so gives no vectors")
    start = load_start(folder) if bundle.path(WEIGHTS).is_file() else None
    encoders: dict[str, Encode] = {"float32": start.encode} if start else {}
    with _bundle_errors():
        encoders[bundle.manifest.precision] = bundle_encoder(bundle)
    return _Source(folder, bundle.manifest.name, start.student if start else None, encoders, is_bundle=True)


def _names(sources: Sequence[_Source]) -> dict[Path, str]:
    """Name each source's columns, by its folder where its own name would take the column of another model."""
    names = {}
    for source in sources:
        others = [other for other in sources if other is not source and other.name == source.name]
        alone = not others or (len(others) == 1 and source.is_one_with(others[0]))
        is_teachers = TEACHER in (f"{source.name} {precision}" for precision in source.encoders)
        names[source.folder] = source.name if alone and not is_teachers else source.path
    return names


def _read(folder: Path) -> Bundle:
    with _bundle_errors():
        return read_bundle(folder)


@contextmanager
def _bundle_errors() -> Iterator[None]:
    """Raise RunError for BundleError: the trainer's command line knows no other."""
    try:
        yield
    except BundleError as error:
        raise RunError(str(error)) from error


def _answer(bundle: Bundle) -> Answer:
    def answer(rows: Sequence[Texts]) -> Vectors:
        try:
            encode, head = bundle_encoder(bundle), HeadSession(bundle.path(HEAD))
        except BundleError as error:
            raise TaskError(str(error)) from error
        return head.run(row_vectors(bundle.manifest.inputs, encode, rows))

    return answer
