import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.checkpoint import Run, RunError
from training.distillation import distil, split
from training.recipe import Corpus, DistillRecipe, Optimisation, RecipeError, Source, StudentShape, recipe_from
from training.start import load_start


def recipe(teacher: Path, held_out: float = 0.1, epochs: int = 12) -> DistillRecipe:
    return DistillRecipe(
        name="small",
        teacher=str(teacher),
        corpus=Corpus((Source("corpus/lines.txt.xz", 400),), max_tokens=32, held_out=held_out),
        student=StudentShape(embedding=16, hidden=16),
        optimisation=Optimisation(epochs=epochs, learning_rate=2e-2, batch_rows=32),
        precision="float32",
    )


def test_a_student_learns_its_teacher_on_texts_it_has_not_seen(small_bert: Path, corpus: Path, tmp_path: Path):
    before = distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", Run(tmp_path / "short"))
    after = distil(recipe(small_bert), corpus, tmp_path / "cache", Run(tmp_path / "long"))
    assert after["held_out_cosine"] > before["held_out_cosine"] + 0.01
    assert after["held_out_cosine"] > 0.9


def test_a_student_that_pools_its_embeddings_starts_from_the_linear_fit(small_bert: Path, corpus: Path, tmp_path: Path):
    how = recipe(small_bert, epochs=1)
    how = replace(how, student=replace(how.student, pooling=("attention", "mean", "embedding"), heads=2))
    how = replace(how, optimisation=replace(how.optimisation, learning_rate=1e-9))  # as good as none
    distil(how, corpus, tmp_path / "cache", Run(tmp_path / "run"))
    student = load_start(tmp_path / "run").student
    (file,) = (tmp_path / "cache" / "linear").glob("*.safetensors")
    start = load_file(file)
    scale = start["embedding"].std()
    weighted = student.embedding.weight * student.token_weight.weight
    assert torch.allclose(weighted, start["embedding"] / scale, atol=1e-4)
    projection, of_heads = student.weights_of("embedding").detach().split([16, 32], dim=1)
    assert torch.allclose(projection, start["projection"] * scale, atol=1e-4)
    assert float(of_heads.abs().max()) < 1e-4
    assert float(student.weights_of("mean").detach().abs().max()) < 1e-4


def test_a_run_says_what_export_needs_to_know(small_bert: Path, corpus: Path, tmp_path: Path):
    run = Run(tmp_path / "run")
    distil(recipe(small_bert, epochs=1), corpus, tmp_path, run)
    facts = run.facts()
    assert (facts["kind"], facts["teacher"], facts["width"], facts["max_tokens"]) == ("encoder", "small-bert", 32, 32)
    assert facts["rows"] + len(run.dev()["texts"]) == 400


def test_a_corpus_that_has_grown_is_another_run(small_bert: Path, corpus: Path, tmp_path: Path):
    run, file = Run(tmp_path / "run"), corpus / "corpus" / "lines.txt.xz"
    with lzma.open(file, "rt") as lines:
        whole = lines.read()
    with lzma.open(file, "wt") as some:
        some.writelines(whole.splitlines(keepends=True)[:200])
    distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", run)
    with lzma.open(file, "wt") as every:
        every.write(whole)
    with pytest.raises(RunError, match="holds a run on other rows"):
        distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", run)
    assert run.facts()["rows"] + len(run.dev()["texts"]) == 200


def test_a_teacher_that_has_changed_in_its_folder_is_another_run(small_bert: Path, corpus: Path, tmp_path: Path):
    run, teacher = Run(tmp_path / "run"), shutil.copytree(small_bert, tmp_path / "teacher")
    distil(recipe(teacher, epochs=1), corpus, tmp_path / "cache", run)
    weights = load_file(teacher / "model.safetensors")
    save_file({name: weight * 1.1 for name, weight in weights.items()}, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="of a model that has changed since"):
        distil(recipe(teacher, epochs=1), corpus, tmp_path / "cache", run)


def test_rows_set_aside_are_never_trained_on_by_a_smaller_corpus_either():
    keys = np.random.default_rng(3).integers(2**64, size=1000, dtype=np.uint64)
    train, held_out = split(keys, 0.1)
    assert sorted([*train, *held_out]) == list(range(1000))
    assert keys[held_out].max() < 2**64 / 10 <= keys[train].min()
    assert not set(keys[held_out]) & set(keys[:500][split(keys[:500], 0.1)[0]])


def test_a_source_that_repeats_is_seen_as_often(small_bert: Path, corpus: Path, tmp_path: Path):
    once, thrice = Run(tmp_path / "once"), Run(tmp_path / "thrice")
    how = recipe(small_bert, epochs=1)
    distil(how, corpus, tmp_path, once)
    source = Source("corpus/lines.txt.xz", 400, repeats=3)
    distil(replace(how, corpus=replace(how.corpus, sources=(source,))), corpus, tmp_path, thrice)
    assert thrice.facts()["rows"] == once.facts()["rows"]
    assert thrice.load()["step"] > 2 * once.load()["step"]


@pytest.mark.parametrize(("held_out", "aside"), [(0.999999, 400), (1e-09, 0)])
def test_a_share_that_leaves_nothing_to_learn_or_to_hold_out_is_refused(
    small_bert: Path, corpus: Path, tmp_path: Path, held_out: float, aside: int
):
    with pytest.raises(RunError, match=f"corpus.held_out = {held_out} sets {aside} of the corpus's 400 "):
        distil(recipe(small_bert, held_out=held_out), corpus, tmp_path, Run(tmp_path / "run"))


def test_what_a_student_had_learnt_is_not_called_held_out(small_bert: Path, corpus: Path, tmp_path: Path):
    distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", Run(tmp_path / "first"))
    start = load_start(tmp_path / "first")
    with pytest.raises(RecipeError, match=r"held out 0.1 of its texts: corpus.held_out is at most"):
        distil(recipe(small_bert, held_out=0.3), corpus, tmp_path / "cache", Run(tmp_path / "run"), start=start)


def test_a_student_goes_on_from_where_another_ended(small_bert: Path, corpus: Path, tmp_path: Path):
    first = distil(recipe(small_bert), corpus, tmp_path / "cache", Run(tmp_path / "first"))
    start, run = load_start(tmp_path / "first"), Run(tmp_path / "second")
    slow = replace(recipe(small_bert, epochs=1), name="second")
    slow = replace(slow, optimisation=replace(slow.optimisation, learning_rate=1e-9))  # as good as none
    assert distil(slow, corpus, tmp_path / "cache", run, start=start) == pytest.approx(first, abs=1e-5)
    assert run.recipe()["from"] == {
        "run": "first",
        "shape": run.recipe()["student"],
        "max_tokens": 32,
        "corpus": run.recipe()["corpus"],
    }
    assert recipe_from(run.recipe(), DistillRecipe) == slow
    third = load_start(tmp_path / "second").lineage
    assert (third["run"], third["from"]) == ("second", run.recipe()["from"])
    with pytest.raises(RunError, match="holds a run of another recipe"):
        distil(slow, corpus, tmp_path / "cache", run)


def test_a_larger_student_begins_as_the_smaller_one_that_it_goes_on_from(
    small_bert: Path, corpus: Path, tmp_path: Path
):
    first = distil(recipe(small_bert), corpus, tmp_path / "cache", Run(tmp_path / "first"))
    larger = replace(recipe(small_bert, epochs=1), student=StudentShape(embedding=16, hidden=24))
    slow = replace(larger, optimisation=replace(larger.optimisation, learning_rate=1e-9))  # as good as none
    start = load_start(tmp_path / "first")
    found = distil(slow, corpus, tmp_path / "cache", Run(tmp_path / "slow"), start=start)
    assert found == pytest.approx(first, abs=1e-5)
    assert load_start(tmp_path / "slow").student.lstm.hidden_size == 24
    better = distil(larger, corpus, tmp_path / "cache", Run(tmp_path / "larger"), start=start)
    assert better["held_out_cosine"] != pytest.approx(first["held_out_cosine"], abs=1e-5)


def test_a_student_whose_weights_have_changed_is_another_start(small_bert: Path, corpus: Path, tmp_path: Path):
    distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", Run(tmp_path / "first"))
    start, run = load_start(tmp_path / "first"), Run(tmp_path / "second")
    distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", run, start=start)
    changed = load_start(tmp_path / "first")
    torch.nn.init.ones_(changed.student.projection.bias)
    with pytest.raises(RunError, match="of a model that has changed since"):
        distil(recipe(small_bert, epochs=1), corpus, tmp_path / "cache", run, start=changed)


def test_a_student_that_does_not_fit_is_no_start(small_bert: Path, small_student: Path, corpus: Path, tmp_path: Path):
    start, how, run = load_start(small_student), recipe(small_bert), Run(tmp_path / "run")
    other = replace(how, student=StudentShape(embedding=16, hidden=8))
    with pytest.raises(RecipeError, match=r"has the shape .*hidden=16.*must say the same, or more"):
        distil(other, corpus, tmp_path, run, start=start)
    narrow = load_start(small_student)
    narrow.student.projection = torch.nn.Linear(96, 8)
    with pytest.raises(RecipeError, match="gives 8 numbers, and the teacher 32"):
        distil(how, corpus, tmp_path, run, start=narrow)
    start.tokenizer.add_tokens(["zebra"])
    with pytest.raises(RecipeError, match="reads other tokens than the teacher, small-bert"):
        distil(how, corpus, tmp_path, run, start=start)
    assert not run.folder.exists()
