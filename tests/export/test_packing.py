import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from app.bundle import CANARY, EMBEDDING, HEAD, MODEL, TOKENIZER, WEIGHTS, BundleError, read_bundle
from app.session import EncoderSession, HeadSession
from app.tokenizer import Tokenizer
from export.columns import task_answers
from export.judgement import row_vectors
from export.packed_encoder import bundle_encoder, pack_encoder
from export.packing import export_student, export_task, export_teacher
from export.parity import ParityError
from training.checkpoint import Run, RunError
from training.encoding import encode
from training.finetuning import finetune
from training.glue import TASKS, read_dev, read_train
from training.head import Head
from training.recipe import FinetuneRecipe, Int8, Optimisation, TeacherTaskRecipe
from training.start import load_start
from training.student import load_student
from training.task import Examples, Task
from training.teacher import load_teacher
from training.tuned_teacher import finetune_teacher, load_tuned_teacher


@pytest.fixture
def student(small_student: Path) -> Run:
    return Run(small_student)


def sst2(start: Path, corpus: Path, run: Run, encoder_rate: float) -> Run:
    how, row = Optimisation(epochs=2, learning_rate=2e-2, batch_rows=8), TASKS["sst2"]
    recipe = FinetuneRecipe("sst2", how, encoder_rate=encoder_rate, precision="float32")
    finetune(recipe, row.task, read_train(row, corpus), read_dev(row, corpus), load_start(start), run)
    return run


def test_a_teacher_bundle_serves_the_teachers_vectors(small_bert: Path, tmp_path: Path):
    teacher = load_teacher(str(small_bert))
    bundle = export_teacher(teacher, tmp_path / "teacher", "float32")
    assert (bundle.manifest.role, bundle.manifest.kind, bundle.manifest.dimensions) == ("teacher", "encoder", 32)
    assert bundle.manifest.figures["parity_max_abs"] < 1e-4
    rows = [row.ids for row in Tokenizer(bundle.path(TOKENIZER), 48).rows([("the cat sat",), ("film",)])]
    assert np.allclose(EncoderSession(bundle.path(MODEL)).run(rows), encode(teacher.encoder, rows), atol=1e-5)


def test_a_student_bundle_is_int8_names_its_teachers_space_and_repeats_its_canary(
    student: Run, small_bert: Path, tmp_path: Path
):
    bundle = export_student(student, tmp_path / "student", tmp_path)
    teacher = export_teacher(load_teacher(str(small_bert)), tmp_path / "teacher", "float32")
    assert bundle.manifest.precision == "int8"
    assert bundle.manifest.approximates == teacher.manifest.space != bundle.manifest.space
    canary, reader = bundle.canary(), Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens)
    session = EncoderSession(bundle.path(MODEL))
    for texts, output in zip(canary.inputs, canary.outputs, strict=True):
        assert np.allclose(session.run([row.ids for row in reader.rows([texts])])[0], output, atol=1e-5)


def test_the_same_run_gives_the_same_bytes(student: Run, tmp_path: Path):
    first = export_student(student, tmp_path / "student", tmp_path)
    files = first.manifest.files
    assert {WEIGHTS, MODEL, EMBEDDING, TOKENIZER, CANARY} <= files.keys()
    assert export_student(student, tmp_path / "student", tmp_path).manifest.files == files


def test_the_weights_in_a_bundle_are_those_of_its_run(student: Run, tmp_path: Path):
    bundle = export_student(student, tmp_path / "student", tmp_path)
    shipped, trained = load_start(bundle.folder), load_start(student.folder)
    rows = [[2, 7, 8, 9, 3]]
    assert shipped.origin["space"] == bundle.manifest.space
    assert np.allclose(encode(shipped.student, rows), encode(trained.student, rows), atol=5e-3)


def test_a_task_with_an_encoder_of_its_own_is_whole(student: Run, corpus: Path, tmp_path: Path):
    run = sst2(student.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=1.0)
    bundle = export_task(run, tmp_path / "sst2")
    assert bundle.has_encoder
    assert bundle.manifest.base is None
    assert (bundle.manifest.labels, bundle.manifest.activation) == (("negative", "positive"), "softmax")
    figures = bundle.manifest.figures
    assert figures["sst2_dev_accuracy_float32"] == run.final_figures()["accuracy"]
    assert abs(figures["sst2_dev_accuracy_int8"] - figures["sst2_dev_accuracy_float32"]) <= 0.01


def test_a_task_shares_the_embeddings_of_the_student_that_it_grew_from(student: Run, corpus: Path, tmp_path: Path):
    base = export_student(student, tmp_path / "student", tmp_path)
    run = sst2(base.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=1.0)
    bundle = export_task(run, tmp_path / "sst2")
    assert bundle.manifest.base == base.manifest.space != bundle.manifest.space
    assert MODEL in bundle.manifest.files
    assert bundle.manifest.files.keys().isdisjoint({EMBEDDING, TOKENIZER})
    card = (bundle.folder / "README.md").read_text()
    assert "began as that of models/student, whose table of token embeddings it shares: its" in card
    weights, texts = run.weights(), ["the cat sat", "film", "the film was not good"]
    encoder = {name.removeprefix("encoder."): weights[name] for name in weights if name.startswith("encoder.")}
    rows = [row.ids for row in Tokenizer(bundle.path(TOKENIZER), 48).rows([(text,) for text in texts])]
    expected = encode(load_student(run.recipe()["from"]["shape"], encoder), rows)
    assert (bundle_encoder(bundle)(texts) * expected).sum(axis=1).min() > 0.999


def test_a_task_does_not_take_the_place_of_the_encoder_that_it_needs(student: Run, corpus: Path, tmp_path: Path):
    base = export_student(student, tmp_path / "student", tmp_path)
    run = sst2(base.folder, corpus, Run(tmp_path / "runs" / "student"), encoder_rate=0.0)
    with pytest.raises(RunError, match="student holds an encoder, whose place the task would take"):
        export_task(run, base.folder)
    assert read_bundle(base.folder) == base


def test_a_task_has_all_of_its_encoder_where_its_student_is_not_beside_it(
    student: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    base = export_student(student, tmp_path / "models" / "student", tmp_path)
    run = sst2(base.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=1.0)
    beside, alone = export_task(run, tmp_path / "models" / "sst2"), export_task(run, tmp_path / "alone" / "sst2")
    assert f"has the embedding of space {base.manifest.space} to share" in capsys.readouterr().out
    assert alone.manifest.base is None
    assert {MODEL, EMBEDDING, TOKENIZER} <= alone.manifest.files.keys()
    texts = ["a good film", "the cat sat"]
    assert np.allclose(bundle_encoder(alone)(texts), bundle_encoder(beside)(texts), atol=0.02)


def test_a_task_that_has_learnt_its_embedding_keeps_it(student: Run, tmp_path: Path):
    base = export_student(student, tmp_path / "student", tmp_path)
    rows = Examples([("good film",), ("bad film",)] * 10, np.asarray([1.0, 0.0] * 10))
    run, how = Run(tmp_path / "runs" / "m"), Optimisation(epochs=1, learning_rate=1e-2)
    task = Task("m", 1, ("bad", "good"), ("accuracy",))
    recipe = FinetuneRecipe("m", how, embedding_rate=1.0, precision="float32")
    finetune(recipe, task, rows, rows, load_start(base.folder), run)
    bundle = export_task(run, tmp_path / "m")
    assert bundle.manifest.base is None
    assert {MODEL, EMBEDDING, TOKENIZER} <= bundle.manifest.files.keys()


def test_a_frozen_task_is_a_head_on_its_base_and_answers_with_it(student: Run, corpus: Path, tmp_path: Path):
    base = export_student(student, tmp_path / "student", tmp_path)
    run = sst2(base.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=0.0)
    bundle = export_task(run, tmp_path / "sst2")
    assert not bundle.has_encoder
    assert bundle.manifest.base == bundle.manifest.space == base.manifest.space
    assert "finetune --task sst2 --frozen --seed 1\n" in (bundle.folder / "README.md").read_text()
    canary, reader = bundle.canary(), Tokenizer(base.path(TOKENIZER), base.manifest.max_tokens)
    vectors = EncoderSession(base.path(MODEL)).run([reader.rows([canary.inputs[0]])[0].ids])
    assert np.allclose(HeadSession(bundle.path(HEAD)).run(vectors[None])[0], canary.outputs[0], atol=1e-5)


def test_a_frozen_task_needs_its_base_beside_it(student: Run, corpus: Path, tmp_path: Path):
    base = export_student(student, tmp_path / "student", tmp_path)
    run = sst2(base.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=0.0)
    with pytest.raises(BundleError, match=f"no bundle in .* has the encoder of space {base.manifest.space}"):
        export_task(run, tmp_path / "elsewhere" / "sst2")


def test_a_task_is_exported_only_from_a_finished_run_of_one(student: Run, corpus: Path, tmp_path: Path):
    with pytest.raises(RunError, match="holds an encoder: `python -m export student`"):
        export_task(student, tmp_path / "sst2")
    run = sst2(student.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=1.0)
    (run.folder / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="is not finished: 0 of 2 epochs"):
        export_task(run, tmp_path / "sst2")


def test_a_table_of_ones_own_is_not_exported_as_a_task_of_glue(student: Run, tmp_path: Path):
    own = Task("sst2", 1, ("negative", "positive"), ("accuracy", "macro_f1"))
    rows = Examples([("good film",), ("bad film",)] * 10, np.asarray([1.0, 0.0] * 10))
    run, how = Run(tmp_path / "sst2"), Optimisation(epochs=1, learning_rate=1e-2)
    finetune(FinetuneRecipe("sst2", how, encoder_rate=0.0), own, rows, rows, load_start(student.folder), run)
    with pytest.raises(RunError, match="a table of your own under the name of GLUE's sst2"):
        export_task(run, tmp_path / "models" / "sst2")


def test_a_student_is_exported_only_from_a_finished_run_of_one(student: Run, corpus: Path, tmp_path: Path):
    run = sst2(student.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=1.0)
    with pytest.raises(RunError, match=f"holds a task: `python -m export task --run {run.folder}`"):
        export_student(run, tmp_path / "student", tmp_path)
    stopped = Run(tmp_path / "stopped")
    shutil.copytree(student.folder, stopped.folder)
    (first,) = (line for line in student.metrics() if line.get("epoch") == 1)
    (stopped.folder / "metrics.jsonl").write_text(json.dumps(first) + "\n")
    with pytest.raises(RunError, match="is not finished: 1 of 2 epochs"):
        export_student(stopped, tmp_path / "student", tmp_path)
    assert not (tmp_path / "student").exists()


def test_a_frozen_task_has_the_precision_of_its_base(student: Run, corpus: Path, tmp_path: Path):
    base = export_student(student, tmp_path / "student", tmp_path)
    run = sst2(base.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=0.0)
    with pytest.raises(RunError, match="student, which is there in int8, and --precision is float32: leave it out"):
        export_task(run, tmp_path / "sst2", "float32")
    assert export_task(run, tmp_path / "sst2", "int8").manifest.precision == "int8"


def test_a_task_may_be_exported_in_float32(student: Run, corpus: Path, tmp_path: Path):
    run = sst2(student.folder, corpus, Run(tmp_path / "runs" / "sst2"), encoder_rate=1.0)
    manifest = export_task(run, tmp_path / "sst2", "float32").manifest
    assert (manifest.role, manifest.precision) == ("student", "float32")
    assert manifest.figures["sst2_dev_accuracy_float32"] == run.final_figures()["accuracy"]
    assert not any(name.endswith("int8") for name in manifest.figures)


def test_a_task_bundle_is_calibrated_and_sliced_on_its_dev_rows(student: Run, tmp_path: Path):
    task = TASKS["sst2"].task
    texts = [(f"the film was {'not ' * (row % 3)}{'good' if row % 2 else 'bad'}",) for row in range(120)]
    rows = Examples(texts, np.asarray([float(row % 2 != (row % 7 == 0)) for row in range(120)]))
    run, how = Run(tmp_path / "runs" / "sst2"), Optimisation(epochs=2, learning_rate=2e-2, batch_rows=8)
    recipe = FinetuneRecipe("sst2", how, precision="float32")
    finetune(recipe, task, rows, rows, load_start(student.folder), run)
    bundle = export_task(run, tmp_path / "sst2")
    calibration, slices = bundle.manifest.calibration, bundle.manifest.slices
    assert calibration.rows == 120
    parts = {name: part.rows for name, part in slices.parts.items()}
    assert (slices.metric, parts) == ("accuracy", {"all rows": 120, "negation": 80, "noisy text": 120})
    assert slices.parts["all rows"].score == bundle.manifest.figures["sst2_dev_accuracy_int8"]
    assert slices.parts["noisy text"].score == pytest.approx(slices.parts["all rows"].score, abs=0.1)
    answers = task_answers(tmp_path)["sst2"](rows.texts)
    assert task.score(rows.labels, answers)["accuracy"] == slices.parts["all rows"].score
    head, weights = Head(1, bundle.manifest.dimensions, 2), run.weights()
    head.load_state_dict({name: weights[f"head.{name}"] for name in head.state_dict()})
    with torch.inference_mode():
        logits = head(torch.from_numpy(row_vectors("text", bundle_encoder(bundle), rows.texts)))
    assert np.allclose(answers, torch.softmax(logits / calibration.temperature, dim=1), atol=1e-5)


def test_a_regression_of_large_values_answers_in_them_and_its_canary_tolerates_as_much_of_them(
    student: Run, tmp_path: Path
):
    texts = [(f"the film was {'not ' * (row % 3)}{'good' if row % 2 else 'bad'}",) for row in range(40)]
    rows, task = Examples(texts, np.asarray([500.0 * (row % 2) for row in range(40)])), Task("m", 1, (), ("pearson",))
    run, how = Run(tmp_path / "runs" / "m"), Optimisation(epochs=4, learning_rate=2e-2, batch_rows=8)
    finetune(FinetuneRecipe("m", how, precision="float32"), task, rows, rows, load_start(student.folder), run)
    bundle = export_task(run, tmp_path / "m", "float32")
    answers = task_answers(tmp_path)["m"](rows.texts)
    assert np.allclose(answers, run.dev_answers(), atol=0.05)
    assert bundle.manifest.canary_tolerance == pytest.approx(5)


def test_a_teacher_of_pairs_may_be_exported_in_int8(small_bert: Path, tmp_path: Path):
    pairs = [("a good film", "a bad film"), ("the cat sat", "the cat sat")] * 8
    rows, task = Examples(pairs, np.asarray([0.0, 1.0] * 8)), Task("alike", 2, ("different", "same"), ("accuracy",))
    recipe = TeacherTaskRecipe("quick", Optimisation(epochs=1, learning_rate=1e-3, batch_rows=8), precision="float32")
    run = Run(tmp_path / "runs" / "alike-teacher")
    finetune_teacher(recipe, task, rows, rows, load_teacher(str(small_bert)), run)
    figures = export_task(run, tmp_path / "alike-teacher", "int8").manifest.figures
    assert figures["alike_dev_accuracy_float32"] == run.final_figures()["accuracy"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_symmetric_task_is_served_so(student: Run, tmp_path: Path, symmetric: bool):
    rng = np.random.default_rng(0)
    texts = [tuple(f"the {word} film" for word in rng.choice(["good", "bad", "cat"], 2)) for _ in range(40)]
    rows = Examples(texts, np.asarray([float(first == second) for first, second in texts]))
    task = Task("alike", 2, ("different", "same"), ("accuracy",), symmetric)
    run, how = Run(tmp_path / "runs" / "alike"), Optimisation(epochs=1, learning_rate=2e-2, batch_rows=8)
    finetune(FinetuneRecipe("alike", how, precision="float32"), task, rows, rows, load_start(student.folder), run)
    manifest = export_task(run, tmp_path / "alike", "float32").manifest
    assert (manifest.inputs, manifest.symmetric) == ("pair_apart", symmetric)
    answer = task_answers(tmp_path)["alike"]
    found, turned = answer(texts), answer([(second, first) for first, second in texts])
    assert np.allclose(found, turned, atol=1e-6) == symmetric


@pytest.mark.parametrize("pairs", ["apart", "joined"])
def test_a_teacher_is_symmetric_where_it_takes_pairs_apart(small_bert: Path, tmp_path: Path, pairs: str):
    rows = Examples([("a good film", "a bad film"), ("the cat sat", "the cat sat")] * 8, np.asarray([0.0, 1.0] * 8))
    task = Task("alike", 2, ("different", "same"), ("accuracy",), symmetric=True)
    how = Optimisation(epochs=1, learning_rate=1e-3, batch_rows=8)
    run = Run(tmp_path / "runs" / "alike-teacher")
    recipe = TeacherTaskRecipe("quick", how, precision="float32", pairs=pairs)
    finetune_teacher(recipe, task, rows, rows, load_teacher(str(small_bert)), run)
    assert load_tuned_teacher(run.folder).task.symmetric
    assert export_task(run, tmp_path / "alike-teacher").manifest.symmetric == (pairs == "apart")


def test_the_encoder_of_pairs_apart_is_judged_on_single_texts(small_bert: Path):
    teacher = load_teacher(str(small_bert))
    what = (teacher.encoder, teacher.tokenizer.to_str().encode(), teacher.max_tokens, "int8")
    lenient = Int8(min_cosine=0.5)
    assert pack_encoder(*what, "pair_apart", lenient).figures == pack_encoder(*what, "text", lenient).figures


def test_a_loss_in_int8_beyond_the_recipes_limit_stops_the_export(student: Run, tmp_path: Path):
    strict = Run(tmp_path / "strict")
    shutil.copytree(student.folder, strict.folder)
    recipe = strict.recipe() | {"int8": {"min_cosine": 1.0, "max_loss": 0.01}}
    (strict.folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ParityError, match=r"smallest cosine [01]\.\d+, allowed 1\.0"):
        export_student(strict, tmp_path / "student", tmp_path)
    assert not (tmp_path / "student").exists()


def test_the_card_says_how_it_was_made_and_shows_every_figure(student: Run, tmp_path: Path):
    bundle = export_student(student, tmp_path / "student", tmp_path)
    card = (bundle.folder / "README.md").read_text()
    assert "python -m training distill --recipe training/recipes/student.toml" in card
    assert "| corpus/lines.txt.xz | not stated | 400 | 0 |" in card
    assert card.count("|") > 3 * len(bundle.manifest.figures)
    assert json.loads((bundle.folder / "manifest.json").read_text())["training"]["rows"] == student.facts()["rows"]


def test_a_written_bundle_is_one_that_can_be_read(small_bert: Path, tmp_path: Path):
    bundle = export_teacher(load_teacher(str(small_bert)), tmp_path / "teacher", "int8")
    assert read_bundle(tmp_path / "teacher").manifest == bundle.manifest
    assert bundle.manifest.precision == "int8"
