import json
import os
import shutil
from pathlib import Path

import pytest
from bundles import DIMENSIONS, write_encoder, write_split_encoder, write_task
from pydantic import ValidationError

from app.bundle import Bundle, BundleError, Manifest, read_bundle, read_bundles, space_id, write_bundle


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write_encoder(tmp_path)
    assert read_bundle(written.folder) == written
    assert written.has_encoder
    assert not write_task(tmp_path, base=written).has_encoder


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"mean_vector": [1.0]}, "mean vector has 1 dimensions"),
        ({"label_shares": {"good": 1.0}}, "a share for each label"),
        ({"length_shares": [1.0]}, "one share more than bounds"),
    ],
)
def test_a_baseline_must_fit_its_bundle(tmp_path: Path, wrong: dict[str, object], complaint: str) -> None:
    baseline = {"rows": 9, "unknown_ratio": 0, "mean_tokens": 5, "length_bounds": [4], "length_shares": [0.5, 0.5]}
    baseline |= {"mean_vector": [0.1] * DIMENSIONS}
    assert write_encoder(tmp_path, baseline=baseline).manifest.baseline is not None
    with pytest.raises(BundleError, match=complaint):
        write_encoder(tmp_path, baseline=baseline | wrong)


def test_a_task_bundle_says_how_it_is_calibrated_and_where_it_is_weaker(tmp_path: Path) -> None:
    known = {
        "calibration": {"temperature": 1.5, "ece_before": 0.1, "ece_after": 0.02, "rows": 200},
        "slices": {"metric": "accuracy", "parts": {"all rows": {"rows": 200, "score": 0.9}}},
    }
    older = write_task(tmp_path)
    assert (older.manifest.calibration, older.manifest.slices) == (None, None)
    files = {file: older.path(file).read_bytes() for file in older.manifest.files}
    bundle = write_bundle(older.folder, facts(older, **known), files)
    assert bundle.manifest.model_dump(include=set(known)) == known
    manifest = json.loads(older.path("manifest.json").read_bytes())
    bare = {name: value for name, value in manifest.items() if name not in known}
    older.path("manifest.json").write_text(json.dumps(bare))
    assert read_bundle(older.folder) == older


def test_only_a_task_on_pairs_encoded_apart_is_symmetric(tmp_path: Path) -> None:
    same = write_task(tmp_path, "same", inputs="pair_apart").manifest.model_dump()
    assert Manifest.model_validate(same | {"symmetric": True}).symmetric
    for inputs in ("text", "pair_joined"):
        with pytest.raises(ValidationError, match=f"apart is symmetric, and inputs are {inputs}"):
            Manifest.model_validate(same | {"symmetric": True, "inputs": inputs})


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"ece_after": 1.2}, {"rows": 0}, {"bins": 15}])
def test_a_calibration_is_checked(tmp_path: Path, wrong: dict[str, float]) -> None:
    sound = {"temperature": 1.5, "ece_before": 0.1, "ece_after": 0.02, "rows": 200}
    task, stars = write_task(tmp_path), write_task(tmp_path, "stars", labels=())
    with pytest.raises(ValidationError, match=f"calibration.{next(iter(wrong))}"):
        Manifest.model_validate(task.manifest.model_dump() | {"calibration": sound | wrong})
    with pytest.raises(ValidationError, match="for scores of a softmax, not of none"):
        Manifest.model_validate(stars.manifest.model_dump() | {"calibration": sound})


def test_writing_again_replaces_the_bundle_and_leaves_no_draft(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    again = write_encoder(tmp_path, precision="int8")
    assert read_bundle(again.folder).manifest.precision == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_what_is_no_bundle_is_never_replaced_by_one(tmp_path: Path) -> None:
    write_encoder(tmp_path / "models")
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for taken in (tmp_path / "models", notes):
        with pytest.raises(BundleError, match="is no bundle, and one written there would replace all of it"):
            write_bundle(taken, {}, {})
    assert read_bundle(tmp_path / "models" / "student")
    assert notes.read_text() == "mine"


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    assert read_bundle(write_encoder(tmp_path).folder)


def test_writing_that_fails_keeps_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_encoder(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        write_encoder(tmp_path, precision="int8")
    monkeypatch.undo()
    assert read_bundle(old.folder) == old


def test_the_space_changes_with_the_graph_and_with_the_tokenizer() -> None:
    assert len({space_id(b"a", b"b"), space_id(b"a", b"c"), space_id(b"c", b"b"), space_id(b"ab", b"")}) == 4


def facts(bundle: Bundle, **changes: object) -> dict[str, object]:
    return bundle.manifest.model_dump(exclude={"files"}) | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "classifier", "labels": ("a", "b")}, "a task bundle lists head.onnx"),
        ({"labels": ("a", "b")}, "nothing else names any"),
        ({"name": "../up"}, "not valid: name: String should match pattern"),
        ({"canary_tolerance": 0}, "greater than 0"),
        ({"colour": "red"}, "not permitted"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    student = write_encoder(tmp_path)
    files = {file: student.path(file).read_bytes() for file in student.manifest.files}
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "other", facts(student, **changes), files)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("base", "extra", "without", "message"),
    [
        (None, [], "tokenizer.json", "of its own, or a base"),
        (None, [], "model.onnx", "of its own, or a base"),
        ("0" * 16, [], None, r"takes tokenizer\.json and embedding\.npy from it"),
        ("0" * 16, ["embedding.npy"], "tokenizer.json", r"takes tokenizer\.json and embedding\.npy from it"),
    ],
)
def test_a_head_needs_one_encoder_and_no_part_of_it_twice(
    tmp_path: Path, base: str | None, extra: list[str], without: str | None, message: str
) -> None:
    manifest = write_task(tmp_path).manifest.model_dump()
    files = {file: "0" * 64 for file in [*manifest["files"], *extra] if file != without}
    with pytest.raises(ValueError, match=message):
        Manifest.model_validate(manifest | {"base": base, "files": files})


def test_an_encoder_has_no_base(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="names no base"):
        write_encoder(tmp_path, base="0" * 16)


@pytest.mark.parametrize("own_graph", [True, False])
def test_what_a_task_lacks_is_its_bases(tmp_path: Path, own_graph: bool) -> None:
    base = write_split_encoder(tmp_path)
    write_encoder(tmp_path, "teacher")
    task = write_task(tmp_path, base=base, own_graph=own_graph)
    assert task.base == base
    assert (
        read_bundles([base.folder, task.folder]) == [base, task] == [read_bundle(base.folder), read_bundle(task.folder)]
    )
    assert task.has_encoder == own_graph
    assert task.path("model.onnx") == (task if own_graph else base).folder / "model.onnx"
    assert task.path("tokenizer.json") == base.folder / "tokenizer.json"
    assert task.embedding == base.embedding == base.folder / "embedding.npy"
    assert task.path("weights.safetensors") == task.folder / "weights.safetensors"


def test_a_whole_graph_has_no_embeddings_beside_it(tmp_path: Path) -> None:
    base = write_encoder(tmp_path)
    assert base.embedding is None
    assert write_task(tmp_path, base=base).embedding is None
    assert write_task(tmp_path, "own").embedding is None


@pytest.mark.parametrize("own_graph", [True, False])
def test_a_task_whose_base_is_gone_says_so_when_it_is_needed(tmp_path: Path, own_graph: bool) -> None:
    base = write_split_encoder(tmp_path)
    task = write_task(tmp_path, base=base, own_graph=own_graph)
    shutil.rmtree(base.folder)
    left = read_bundle(task.folder)
    assert left.base is None
    assert left.canary() == task.canary()
    for part in (lambda: left.path("tokenizer.json"), lambda: left.embedding):
        with pytest.raises(BundleError, match=rf"mood needs .* of the encoder of space {base.manifest.space}, and no "):
            part()


def test_a_base_that_holds_its_embeddings_in_its_graph_cannot_share_them(tmp_path: Path) -> None:
    task = write_task(tmp_path, base=write_encoder(tmp_path), own_graph=True)
    with pytest.raises(BundleError, match=r"mood needs embedding\.npy of the encoder"):
        _ = task.embedding


def test_an_unreadable_manifest_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "student" / "manifest.json").mkdir(parents=True)
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        read_bundle(tmp_path / "student")


def test_facts_that_make_no_manifest_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not valid"):
        write_bundle(tmp_path / "student", {"name": "My Student"}, {})
    assert not list(tmp_path.iterdir())
