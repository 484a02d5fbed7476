"""The models in models/, as a user gets them: what they answer, and that their figures are true."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.bundle import read_bundle
from app.main import create_app
from app.settings import Settings
from export.calibration import expected_calibration_error
from export.columns import task_answers
from export.judgement import sts_slices
from export.packed_encoder import bundle_encoder, open_encoder
from export.parity import PASSAGES, SENTENCES
from training.encoding import encode, tokenize
from training.evaluation import dev_rows, sts_spearman
from training.glue import TASKS, read_dev
from training.start import load_start
from training.teacher import load_teacher

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "models"
TEXTS = [*SENTENCES, *PASSAGES]
SHIPPED = ("cola", "mrpc", "snips", "sst2", "stsb")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models_dir=MODELS, lag_seconds=30))) as client:
        while client.get("/health/ready").status_code != 200:
            assert client.get("/health/live").status_code == 200
        yield client


def vectors(client: TestClient, model: str) -> np.ndarray:
    answer = client.post("/encode", json={"sentences": TEXTS, "model": model})
    assert answer.status_code == 200, answer.text
    return np.asarray(answer.json()["embeddings"], dtype=np.float32)


def test_the_teacher_answers_as_in_pytorch(client: TestClient):
    teacher = load_teacher("package")
    expected = encode(teacher.encoder, tokenize(teacher.tokenizer, TEXTS, teacher.max_tokens))
    assert np.abs(vectors(client, "teacher") - expected).max() < 1e-5


def test_the_student_answers_as_its_float_weights_do(client: TestClient):
    expected = load_start(MODELS / "student").encode(TEXTS)
    cosines = (vectors(client, "student") * expected).sum(axis=1)
    assert cosines.min() > 0.995
    assert cosines.mean() > 0.999


def test_the_student_stands_in_for_the_teacher_that_is_served(client: TestClient):
    models = {entry["model"]: entry["manifest"] for entry in client.get("/models").json()["models"]}
    assert models["student"]["approximates"] == models["teacher"]["space"]


@pytest.mark.parametrize("name", ["student", *SHIPPED])
def test_drift_is_measured_from_hundreds_of_rows(name: str):
    manifest = read_bundle(MODELS / name).manifest
    assert manifest.baseline is not None
    assert manifest.baseline.rows >= 500
    assert list(manifest.baseline.label_shares) == list(manifest.labels)


def test_sentiment_is_told(client: TestClient):
    films = {
        "A wonderful, moving and funny film.": "positive",
        "The plot is dull and the acting is wooden.": "negative",
    }
    answer = client.post("/classify/sst2", json={"sentences": list(films)}).json()
    assert [prediction["label"] for prediction in answer["predictions"]] == list(films.values())
    for prediction in answer["predictions"]:
        assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_the_student_keeps_97_percent_of_its_teachers_sts(data: Path):
    bundle = read_bundle(MODELS / "student")
    teacher = bundle_encoder(read_bundle(MODELS / "teacher"))
    student = sts_spearman(bundle_encoder(bundle), data)
    assert student == pytest.approx(bundle.manifest.figures["sts_dev_spearman_int8"], abs=2e-3)
    assert student >= 0.97 * sts_spearman(teacher, data)


def test_the_student_is_as_weak_on_slices_as_its_card_says(data: Path):
    bundle = read_bundle(MODELS / "student")
    found = sts_slices(open_encoder(bundle)[0], bundle_encoder(bundle), data)
    stated = bundle.manifest.slices
    assert stated.parts.keys() == found.parts.keys() > {"negation", "numbers", "long texts", "noisy text"}
    for name, part in stated.parts.items():
        assert found.parts[name].rows == part.rows
        assert found.parts[name].score == pytest.approx(part.score, abs=5e-3)


def test_a_commands_intent_is_told(client: TestClient):
    answer = client.post("/classify/snips", json={"sentences": "play some jazz by miles davis"}).json()
    assert answer["predictions"][0]["label"] == "PlayMusic"


def test_like_meanings_score_higher(client: TestClient):
    pairs = [["A man plays a guitar.", "A man is playing guitar."], ["A man plays a guitar.", "The stock fell."]]
    near, far = (one["value"] for one in client.post("/classify/stsb", json={"pairs": pairs}).json()["predictions"])
    assert near > 3 > 2 > far


@pytest.mark.parametrize("task", ["stsb", "mrpc"])
def test_both_orders_of_a_pair_get_one_answer(client: TestClient, task: str):
    pair = ["A man plays a guitar.", "The woman is playing the flute in the park."]
    one, other = client.post(f"/classify/{task}", json={"pairs": [pair, pair[::-1]]}).json()["predictions"]
    assert one == other
    loaded = {one["task"]: one["manifest"]["symmetric"] for one in client.get("/tasks").json()["tasks"]}
    assert loaded == {name: name in ("stsb", "mrpc") for name in SHIPPED}


def test_all_of_them_are_small_enough_to_be_sent_along():
    files = [file for name in ("student", *SHIPPED) for file in (MODELS / name).iterdir()]
    assert sum(file.stat().st_size for file in files) < 60 * MEGABYTE


def test_the_tasks_score_what_their_manifests_say(data: Path):
    answers = task_answers(MODELS)
    assert tuple(sorted(answers)) == SHIPPED
    for name, answer in answers.items():
        task, dev = dev_rows(name, data)
        stated = read_bundle(MODELS / name).manifest.figures[f"{name}_dev_{task.metrics[0]}_int8"]
        assert task.score(dev.labels, answer(dev.texts))[task.metrics[0]] == pytest.approx(stated, abs=5e-3)


def test_a_classifiers_scores_are_as_sure_as_its_card_says(data: Path):
    dev, answer = read_dev(TASKS["sst2"], data), task_answers(MODELS)["sst2"]
    calibration = read_bundle(MODELS / "sst2").manifest.calibration
    assert calibration is not None
    assert calibration.rows == len(dev)
    found = expected_calibration_error(answer(dev.texts), dev.labels)
    assert found == pytest.approx(calibration.ece_after, abs=0.02)
    assert found < calibration.ece_before
