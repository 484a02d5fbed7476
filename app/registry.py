"""What is loaded: bundles read from the models folder become engines and tasks, found by role and by name."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.batcher import Limits
from app.bundle import HEAD, MANIFEST, MODEL, Bundle, BundleError, read_bundles, read_manifest
from app.drift import Drift
from app.engine import Engine, Task
from app.errors import NotFoundError
from app.metrics import Metrics

logger = logging.getLogger(__name__)

STUDENT = "student"  # the folder of the student that serves, unless another is named

# What to run when something is not there.
BUILD_ENCODER = {"student": "`python -m export student`", "teacher": "`python -m export teacher`"}
BUILD_TASK = {
    "student": "`python -m training finetune --task {task}`, then `python -m export task --run runs/{task}`,",
    "teacher": (
        "`python -m training finetune-teacher --task {task}`, then `python -m export task --run runs/{task}-teacher`,"
    ),
}


@dataclass
class Catalogue:
    """One reading of the models folder. Requests hold it by a lease, and its engines close after the last of them."""

    encoders: dict[str, Engine]
    tasks: dict[tuple[str, str], Task]
    engines: list[Engine]
    bundles: list[Bundle]
    _leases: int = field(default=0, init=False)
    _retired: bool = field(default=False, init=False)

    def encoder(self, role: str) -> Engine:
        """Find the encoder in a role; raises NotFoundError that names the command that makes one."""
        _check_role(role)
        if role not in self.encoders:
            raise NotFoundError(f"no {role} is loaded; {BUILD_ENCODER[role]} builds one", "model")
        return self.encoders[role]

    def task(self, name: str, role: str) -> Task:
        """Find a task; raises NotFoundError that tells what is loaded, or how to build it for this role."""
        _check_role(role)
        if name not in self.task_names:
            raise NotFoundError(f"no such task; loaded are: {', '.join(self.task_names) or 'none'}", "task")
        if (name, role) not in self.tasks:
            build = BUILD_TASK[role].format(task=name)
            raise NotFoundError(f"no {role} is loaded for {name}; {build} makes one", "model")
        return self.tasks[name, role]

    @property
    def task_names(self) -> list[str]:
        """The tasks' names, sorted."""
        return sorted({name for name, _ in self.tasks})

    @property
    def drifts(self) -> Iterator[tuple[str, str, Drift]]:
        """What is watched for drift: role, task (empty for an encoder), and the watcher."""
        for role, engine in self.encoders.items():
            if engine.drift:
                yield role, "", engine.drift
        for (name, role), task in self.tasks.items():
            if task.drift:
                yield role, name, task.drift

    @property
    def digest(self) -> str:
        """Identify what was read, by the manifests, which have the checksums of all else."""
        digest = hashlib.sha256()
        for bundle in self.bundles:
            digest.update(f"{bundle.folder.name}\0{bundle.manifest.model_dump_json()}\0".encode())
        return digest.hexdigest()

    @contextmanager
    def lease(self) -> Iterator["Catalogue"]:
        """Keep the engines open for the length of a request. Only to be used on the event loop's thread."""
        self._leases += 1
        try:
            yield self
        finally:
            self._leases -= 1
            self._close_when_idle()

    def retire(self) -> None:
        """Close the engines once no request holds them."""
        self._retired = True
        self._close_when_idle()

    def _close_when_idle(self) -> None:
        if self._retired and not self._leases:
            for engine in self.engines:
                engine.close()


def load_catalogue(
    models_dir: Path, limits: Limits, threads: int, metrics: Metrics, student: str = STUDENT
) -> Catalogue:
    """Read every bundle in a folder, load those that serve and check their canaries.

    Args:
        models_dir: A bundle per subfolder; hidden subfolders are drafts and are passed over.
        limits: For each engine's queue and batches.
        threads: For each engine.
        metrics: Where the engines report.
        student: Folder of the student that serves, where there are several; another one is loaded only for a task's
            head that was trained on it.

    Raises:
        BundleError: the folder is missing, cannot be read or holds no bundle, a bundle cannot be served, two claim one
            place, a task's base is not there, student and teacher cannot be compared, or a bundle is replaced
            meanwhile. No engine is left open.
    """
    found = _read_bundles(models_dir)
    encoders = _by_role(found, student)
    _check_teacher(encoders)
    heads = [bundle for bundle in found if bundle.manifest.kind != "encoder"]
    graphs = {bundle.path(MODEL) for bundle in (*encoders.values(), *heads)}
    used = [bundle for bundle in found if bundle.manifest.kind != "encoder" or bundle.path(MODEL) in graphs]
    for bundle in found:
        if bundle not in used:
            logger.info("not loaded: %s, since UNDERSTUDY_STUDENT names another student", bundle.folder)
    engines: list[Engine] = []
    try:
        for bundle in used:
            if bundle.has_encoder:
                engines.append(Engine(bundle, limits, threads, metrics))
                logger.info("loaded %s", bundle.folder)
        by_graph = {engine.bundle.path(MODEL): engine for engine in engines}
        tasks = _by_task(Task(bundle, by_graph[bundle.path(MODEL)]) for bundle in heads)
        _check_unchanged(found)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return Catalogue({role: by_graph[one.path(MODEL)] for role, one in encoders.items()}, tasks, engines, used)


def _check_role(role: str) -> None:
    if role not in BUILD_ENCODER:
        raise NotFoundError(f"no such model; there are {' and '.join(BUILD_ENCODER)}", "model")


def _read_bundles(models_dir: Path) -> list[Bundle]:
    where = "UNDERSTUDY_MODELS_DIR names the one that holds the bundles"
    try:
        if (models_dir / MANIFEST).is_file():
            raise BundleError(f"{models_dir} is a bundle itself, and no folder of bundles; {where}")
        found = [folder for folder in models_dir.iterdir() if folder.is_dir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{models_dir} is not a folder; {where}") from error
    except OSError as error:
        raise BundleError(f"{models_dir} cannot be read: {error.strerror}; the service's user has to") from error
    folders = sorted(folder for folder in found if not folder.name.startswith("."))
    if not folders:
        raise BundleError(f"{models_dir} holds no bundle; {BUILD_ENCODER['student']} builds one")
    return read_bundles(folders)


def _check_teacher(encoders: Mapping[str, Bundle]) -> None:
    """Hold the student's teacher, as its manifest names it, against the one beside it."""
    if encoders.keys() != {"student", "teacher"}:
        return
    student, teacher = encoders["student"], encoders["teacher"]
    own, other = student.manifest, teacher.manifest
    if own.dimensions != other.dimensions:
        raise BundleError(
            f"{teacher.folder} is not the teacher of {student.folder}: its vectors have {other.dimensions} dimensions, "
            f"the student's {own.dimensions}; take one of them away"
        )
    if own.approximates not in {None, other.space}:  # the same teacher in another precision has another space
        logger.warning(
            "%s approximates the space %s, and %s has %s: unless that is its teacher in another precision, "
            "comparisons mean nothing",
            *(student.folder, own.approximates, teacher.folder, other.space),
        )


def _check_unchanged(bundles: Iterable[Bundle]) -> None:
    """Refuse a bundle whose graph and canary may be another's than its manifest, which was read before them."""
    for bundle in bundles:
        if read_manifest(bundle.folder) != bundle.manifest:
            raise BundleError(f"{bundle.folder} was replaced while it was read; reload once all bundles are in place")


def _by_role(bundles: Iterable[Bundle], student: str) -> dict[str, Bundle]:
    """Give the encoder that serves in each role: the only one, or of several students the one that is named."""
    found: dict[str, list[Bundle]] = {}
    for bundle in bundles:
        if bundle.manifest.kind == "encoder":
            found.setdefault(bundle.manifest.role, []).append(bundle)
    named = [bundle for bundle in found.get("student", []) if bundle.folder.name == student]
    if named:
        found["student"] = named
    elif student != STUDENT:
        there = ", ".join(bundle.folder.name for bundle in found.get("student", [])) or "none"
        raise BundleError(f"UNDERSTUDY_STUDENT is {student}, and no such student is there; there are: {there}")
    for role, several in found.items():
        if len(several) > 1:
            folders = " and ".join(str(bundle.folder) for bundle in several)
            choice = "; UNDERSTUDY_STUDENT names the one that serves" if role == "student" else ""
            raise BundleError(f"{folders} each are the {role}{choice}")
    return {role: several[0] for role, several in found.items()}


def _by_task(tasks: Iterable[Task]) -> dict[tuple[str, str], Task]:
    found: dict[tuple[str, str], Task] = {}
    for task in tasks:
        place = (task.manifest.name, task.manifest.role)
        other = found.setdefault(place, task)
        if other is not task:
            raise BundleError(f"{other.bundle.folder} and {task.bundle.folder} both are {place[0]} for the {place[1]}")
    return found


def describe(bundle: Bundle) -> tuple[str, str, str, str]:
    """Name, role, space and sha256 of a bundle, for its metric."""
    file = MODEL if bundle.has_encoder else HEAD
    return bundle.folder.name, bundle.manifest.role, bundle.manifest.space, bundle.manifest.files[file]
