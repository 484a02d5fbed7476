import errno
import re
from pathlib import Path

import numpy as np
import pytest
from bundles import rewrite, write_encoder, write_split_encoder, write_task

from app.batcher import Limits
from app.bundle import Bundle, BundleError
from app.engine import Engine
from app.errors import NotFoundError
from app.metrics import Metrics
from app.registry import Catalogue, load_catalogue


@pytest.fixture
def load(tmp_path: Path):
    """Load the test's models folder; what was opened is closed after it."""
    loaded: list[Catalogue] = []

    def load(**choice: str) -> Catalogue:
        loaded.append(load_catalogue(tmp_path, Limits(1000, 1000, 10), 1, Metrics(), **choice))
        return loaded[-1]

    yield load
    for catalogue in loaded:
        catalogue.retire()


def test_encoders_are_found_by_role_and_tasks_by_name_and_role(tmp_path: Path, load) -> None:
    student = write_encoder(tmp_path)
    write_encoder(tmp_path, "teacher")
    write_task(tmp_path, "mood", base=student)
    write_task(tmp_path, "mood", role="teacher")
    catalogue = load()
    assert catalogue.encoder("teacher").manifest.role == "teacher"
    assert catalogue.task("mood", "student").engine is catalogue.encoder("student")
    assert catalogue.task("mood", "teacher").engine is not catalogue.encoder("teacher")
    assert catalogue.task_names == ["mood"]


def test_a_task_with_a_graph_of_its_own_on_its_bases_embeddings_has_an_engine_of_its_own(tmp_path: Path, load) -> None:
    write_task(tmp_path, "mood", base=write_split_encoder(tmp_path), own_graph=True)
    write_task(tmp_path, "whole")
    catalogue = load()
    mood, whole = catalogue.task("mood", "student"), catalogue.task("whole", "student")
    assert mood.engine is not catalogue.encoder("student")
    asked = [("good film",), ("zebra",)]
    assert np.array_equal(mood.score_now(asked), whole.score_now(asked))


def test_of_several_students_one_serves_and_another_is_loaded_only_for_its_heads(tmp_path: Path, load) -> None:
    student, large = write_encoder(tmp_path), write_encoder(tmp_path, name="large", space="0" * 16)
    catalogue = load()
    assert catalogue.encoder("student").bundle == student
    assert catalogue.bundles == [student]
    catalogue = load(student="large")
    assert catalogue.encoder("student").bundle == large
    assert [engine.bundle for engine in catalogue.engines] == [large]
    write_task(tmp_path, "mood", base=student)
    catalogue = load(student="large")
    assert catalogue.encoder("student").bundle == large
    assert catalogue.task("mood", "student").engine.bundle == student
    assert np.isfinite(catalogue.task("mood", "student").score_now([("good film",)])).all()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "large and /small each are the student; UNDERSTUDY_STUDENT names the one that serves"),
        ({"student": "larger"}, "UNDERSTUDY_STUDENT is larger, and no such student is there; there are: large, small"),
    ],
)
def test_a_student_that_is_not_told_from_others_or_not_there_is_refused(
    tmp_path: Path, load, choice: dict[str, str], message: str
) -> None:
    write_encoder(tmp_path, name="large")
    write_encoder(tmp_path, name="small")
    with pytest.raises(BundleError) as refusal:
        load(**choice)
    assert message in str(refusal.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda found: found.encoder("teacher"), "no teacher is loaded; `python -m export teacher` builds one"),
        (lambda found: found.encoder("pupil"), "no such model; there are student and teacher"),
        (
            lambda found: found.task("mood", "teacher"),
            "no teacher is loaded for mood; `python -m training finetune-teacher --task mood`, then "
            "`python -m export task --run runs/mood-teacher`, makes one",
        ),
        (lambda found: found.task("food", "student"), "no such task; loaded are: mood"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, load, find, message: str) -> None:
    write_task(tmp_path, base=write_encoder(tmp_path))
    with pytest.raises(NotFoundError, match=re.escape(message)):
        find(load())


@pytest.mark.parametrize(("approximates", "warned"), [("own", False), (None, False), ("f" * 16, True)])
def test_a_teacher_of_another_space_than_the_students_is_warned_of(
    tmp_path: Path, load, caplog: pytest.LogCaptureFixture, approximates: str | None, warned: bool
) -> None:
    teacher = write_encoder(tmp_path, role="teacher")
    write_encoder(tmp_path, approximates=teacher.manifest.space if approximates == "own" else approximates)
    load()
    assert ("comparisons mean nothing" in caplog.text) == warned


def test_two_readings_have_one_digest_if_they_are_of_the_same_bundles(tmp_path: Path, load) -> None:
    write_encoder(tmp_path)
    first = load().digest
    assert load().digest == first
    write_encoder(tmp_path, canary_tolerance=2e-4)
    assert load().digest != first


def test_hidden_folders_and_files_are_passed_over(tmp_path: Path, load) -> None:
    write_encoder(tmp_path)
    (tmp_path / ".student.draft").mkdir()
    (tmp_path / "notes.txt").touch()
    assert list(load().encoders) == ["student"]


def test_a_bundle_that_is_replaced_while_it_is_read_is_refused(
    tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoder(tmp_path, space="old")

    def open_replaced(bundle: Bundle, *args: object) -> Engine:
        write_encoder(tmp_path, space="new")
        return Engine(bundle, *args)

    monkeypatch.setattr("app.registry.Engine", open_replaced)
    with pytest.raises(BundleError, match="student was replaced while it was read"):
        load()


def test_engines_stay_open_for_the_requests_that_hold_them(tmp_path: Path, load) -> None:
    write_encoder(tmp_path)
    catalogue = load()
    engine = catalogue.encoder("student")
    with catalogue.lease():
        with catalogue.lease():
            catalogue.retire()
        assert engine.is_open
    assert not engine.is_open


def test_a_folder_that_may_not_be_read_is_refused_in_words(
    tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoder(tmp_path)
    monkeypatch.setattr(Path, "iterdir", forbidden)  # not by its mode: a test may run as root
    with pytest.raises(BundleError, match=f"{tmp_path} cannot be read: Permission denied; the service's user has to"):
        load()


def test_a_canary_that_may_not_be_read_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = write_encoder(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(BundleError, match=r"canary\.json cannot be read: Permission denied"):
        student.canary()


def forbidden(_file: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def missing_folder(models_dir: Path) -> None:
    models_dir.rmdir()


def no_bundle(models_dir: Path) -> None:
    (models_dir / ".hidden").mkdir()


def bundle_itself(models_dir: Path) -> None:
    student = write_encoder(models_dir)
    for file in student.folder.iterdir():
        file.rename(models_dir / file.name)
    student.folder.rmdir()


def no_manifest(models_dir: Path) -> None:
    (models_dir / "student").mkdir()


def truncated_graph(models_dir: Path) -> None:
    student = write_encoder(models_dir)
    rewrite(student, model_onnx=student.path("model.onnx").read_bytes()[:-100])


def flipped_byte(models_dir: Path) -> None:
    file = write_encoder(models_dir).path("model.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def missing_file(models_dir: Path) -> None:
    write_encoder(models_dir).path("tokenizer.json").unlink()


def change_manifest(models_dir: Path, old: str, new: str) -> None:
    file = write_encoder(models_dir).path("manifest.json")
    file.write_text(file.read_text().replace(old, new))


def newer_format(models_dir: Path) -> None:
    change_manifest(models_dir, '"format": 1', '"format": 2')


def path_outside(models_dir: Path) -> None:
    change_manifest(models_dir, '"model.onnx"', '"../model.onnx"')


def not_json(models_dir: Path) -> None:
    write_encoder(models_dir).path("manifest.json").write_text("{")


def no_tokenizer(models_dir: Path) -> None:
    rewrite(write_encoder(models_dir), tokenizer_json=b"{}")


def head_as_encoder(models_dir: Path) -> None:
    student = write_encoder(models_dir)
    head = write_task(models_dir, base=student).path("head.onnx")
    rewrite(student, model_onnx=head.read_bytes())


def two_teachers(models_dir: Path) -> None:
    write_encoder(models_dir, role="teacher")
    write_encoder(models_dir, role="teacher", name="other")


def no_base(models_dir: Path) -> None:
    student = write_encoder(models_dir)
    write_task(models_dir, base=student)
    for file in student.folder.iterdir():
        file.unlink()
    student.folder.rmdir()


def another_ones_teacher(models_dir: Path) -> None:
    write_encoder(models_dir)
    write_encoder(models_dir, role="teacher", dimensions=12)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_folder, "is not a folder; UNDERSTUDY_MODELS_DIR names"),
        (no_bundle, "holds no bundle; `python -m export student` builds one"),
        (bundle_itself, "is a bundle itself, and no folder of bundles; UNDERSTUDY_MODELS_DIR names"),
        (no_manifest, "student is no bundle: it holds no manifest.json"),
        (truncated_graph, "model.onnx cannot be loaded"),
        (flipped_byte, "model.onnx is damaged: its sha256 is"),
        (missing_file, "tokenizer.json cannot be read: No such file"),
        (newer_format, "manifest.json is not valid: format"),
        (path_outside, "files are named without folders, unlike '../model.onnx'"),
        (not_json, "manifest.json is not valid"),
        (no_tokenizer, "tokenizer.json is not a tokenizer"),
        (head_as_encoder, "takes ['vectors']; expected ['input_ids', 'lengths']"),
        (two_teachers, "teacher each are the teacher"),
        (no_base, "and no bundle beside it has it"),
        (another_ones_teacher, "teacher is not the teacher of"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, load, damage, message: str) -> None:
    damage(tmp_path)
    with pytest.raises(BundleError, match=re.escape(message)):
        load()
