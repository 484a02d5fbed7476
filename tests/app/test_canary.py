import json
from pathlib import Path

import numpy as np
import pytest
from bundles import EMBEDDINGS, encoder_graph, rewrite, tokenizer_json, write_encoder, write_task
from tokenizers import Tokenizer

from app.batcher import Limits
from app.bundle import BundleError
from app.metrics import Metrics
from app.registry import load_catalogue

LIMITS = Limits(1000, 1000, 10)


def load(models_dir: Path) -> None:
    catalogue = load_catalogue(models_dir, LIMITS, 1, Metrics())
    catalogue.retire()


def test_a_bundle_that_answers_as_it_did_is_taken(tmp_path: Path) -> None:
    write_task(tmp_path, base=write_encoder(tmp_path))
    load(tmp_path)


def test_a_perturbed_weight_is_refused_even_with_right_checksums(tmp_path: Path) -> None:
    perturbed = EMBEDDINGS.copy()
    perturbed[4:8] += 0.1
    rewrite(write_encoder(tmp_path), model_onnx=encoder_graph(perturbed))
    with pytest.raises(BundleError, match=r"vectors of canary 0 differ by 0\.\d+, the manifest tolerates 0.0001"):
        load(tmp_path)


def test_another_tokenizer_is_refused_even_with_right_checksums(tmp_path: Path) -> None:
    words = Tokenizer.from_buffer(tokenizer_json())
    content = json.loads(words.to_str())
    ids = content["model"]["vocab"]
    ids["good"], ids["bad"] = ids["bad"], ids["good"]
    rewrite(write_encoder(tmp_path), tokenizer_json=json.dumps(content).encode())
    with pytest.raises(BundleError, match="does not answer as it did"):
        load(tmp_path)


def test_a_head_that_answers_differently_is_refused(tmp_path: Path) -> None:
    mood = write_task(tmp_path, "mood", base=write_encoder(tmp_path))
    canary = json.loads(mood.path("canary.json").read_text())
    canary["outputs"][1] = [0.5, 0.5]
    rewrite(mood, canary_json=json.dumps(canary).encode())
    with pytest.raises(BundleError, match="scores of canary 1 differ by"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        (b"{}", "not a canary"),
        (b'{"inputs": [], "outputs": []}', "0 inputs and 0 outputs"),
        (b'{"inputs": [["good"]], "outputs": []}', "1 inputs and 0 outputs"),
        (b'{"inputs": [["good"]], "outputs": [[NaN, 1, 2, 3, 4, 5, 6, 7]]}', "differ by nan"),
        (b'{"inputs": [["good"]], "outputs": [[1, 2]]}', r"\(8,\) numbers, not \(2,\)"),
    ],
)
def test_a_canary_that_proves_nothing_is_refused(tmp_path: Path, canary: bytes, message: str) -> None:
    rewrite(write_encoder(tmp_path), canary_json=canary)
    with pytest.raises(BundleError, match=message):
        load(tmp_path)


def test_an_answer_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    rewrite(write_encoder(tmp_path), model_onnx=encoder_graph(np.full_like(EMBEDDINGS, np.nan)))
    with pytest.raises(BundleError, match="NaN or infinity"):
        load(tmp_path)
