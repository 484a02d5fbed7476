import json
from pathlib import Path

import pytest
import torch

from training.checkpoint import Run, RunError
from training.encoding import encode
from training.finetuning import encode_together, finetune, load_start
from training.glue import TASKS
from training.recipe import FinetuneRecipe, Optimisation, StudentShape
from training.student import Student


def recipe(encoder_rate: float = 1.0) -> FinetuneRecipe:
    how = Optimisation(epochs=15, learning_rate=2e-2, batch_rows=8)
    return FinetuneRecipe(name="sst2", optimisation=how, encoder_rate=encoder_rate, dropout=0.0, precision="float32")


def test_a_student_learns_a_task(small_student: Path, corpus: Path, tmp_path: Path):
    run = Run(tmp_path / "sst2")
    assert finetune(recipe(), TASKS["sst2"], small_student, corpus, run)["accuracy"] == 1.0
    facts = run.facts()
    assert (facts["kind"], facts["labels"], facts["texts"]) == ("classifier", ["negative", "positive"], 1)


def test_a_frozen_encoder_keeps_its_weights(small_student: Path, corpus: Path, tmp_path: Path):
    run = Run(tmp_path / "sst2")
    finetune(recipe(encoder_rate=0), TASKS["sst2"], small_student, corpus, run)
    before = load_start(small_student).student.state_dict()
    after = run.weights()
    assert all(torch.equal(after[f"encoder.{name}"], weight) for name, weight in before.items())


def test_a_regression_on_pairs_lowers_its_error(small_student: Path, corpus: Path, tmp_path: Path):
    task = corpus / "glue" / "STS-B"
    task.mkdir()
    words = {"good": 2.5, "bad": 0.0}
    rows = [f"a {a} film\tthe film ran {b}\t{words[a] + words[b]}" for a in words for b in words]
    for name in ("train.tsv", "dev.tsv"):
        (task / name).write_text("\n".join(["sentence1\tsentence2\tscore", *rows * 5]) + "\n")
    figures = finetune(recipe(), TASKS["stsb"], small_student, corpus, Run(tmp_path / "stsb"))
    assert figures["pearson"] > 0.9


def test_texts_of_different_lengths_are_encoded_together_as_alone():
    torch.manual_seed(0)
    student = Student(StudentShape(embedding=6, hidden=5), vocabulary=20, width=8).eval()
    texts = [[2, 3], [2, 7, 7, 7, 3], [2, 5, 3], [2, 6, 3]]
    with torch.inference_mode():
        together = encode_together(student, texts)
    assert torch.allclose(together, torch.from_numpy(encode(student, texts)), atol=1e-6)


def test_only_a_student_encoder_can_be_started_from(small_student: Path, corpus: Path, tmp_path: Path):
    with pytest.raises(RunError, match="no complete run"):
        load_start(tmp_path / "none")
    finetune(recipe(), TASKS["sst2"], small_student, corpus, Run(tmp_path / "sst2"))
    with pytest.raises(RunError, match="holds a classifier"):
        load_start(tmp_path / "sst2")
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "teacher", "training": {}}))
    with pytest.raises(RunError, match="no student that can be fine-tuned"):
        load_start(tmp_path)
