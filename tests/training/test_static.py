from pathlib import Path

import numpy as np
import pytest

from training import static as module
from training.static import static_encoders
from training.teacher import TeacherError, load_teacher


def test_static_models_are_distilled_once_and_need_no_order_of_words(
    small_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WIDTH", 8)
    teacher = load_teacher(str(small_bert))
    before = teacher.word_embeddings().clone()
    encoders = static_encoders(teacher, tmp_path)
    vectors = {name: encode(["the cat sat", "sat the cat"]) for name, encode in encoders.items()}
    assert {name: found.shape for name, found in vectors.items()} == {"static, PCA": (2, 8), "static": (2, 32)}
    assert np.allclose(*vectors["static"], atol=1e-3)
    assert bool((teacher.word_embeddings() == before).all())
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    again = static_encoders(teacher, tmp_path)["static"](["the cat sat", "sat the cat"])
    assert np.array_equal(again, vectors["static"])
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")} == kept


def test_a_missing_library_is_named(small_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "model2vec", None)
    with pytest.raises(TeacherError, match="pip install model2vec"):
        static_encoders(load_teacher(str(small_bert)), tmp_path)
