"""From a small BERT to HTTP: a teacher fine-tuned on a task, exported, served, and answering as it does in PyTorch."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from app.bundle import MODEL, read_bundle
from app.main import create_app
from app.settings import Settings
from export.__main__ import main as export
from export.columns import task_answers
from training.__main__ import main as train
from training.task_model import answer
from training.tuned_teacher import load_tuned_teacher

ADJECTIVES = ("good", "bad")
NOUNS = ("film", "cat", "tree")
RECIPE = """
name = "quick"
dropout = 0.0
precision = "float32"
[optimisation]
epochs = 3
learning_rate = 5e-3
batch_rows = 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of three tasks, on one text, on a pair, and with a number for a label."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "quick.toml").write_text(RECIPE)
    for pairs in ("joined", "apart"):
        (folder / f"{pairs}.toml").write_text(f'pairs = "{pairs}"{RECIPE}')
    said = [f"the {noun} ran and was {kind}" for noun in NOUNS for kind in ADJECTIVES] * 2
    rows = [(said[n], said[(5 * n + 1) % len(said)], ADJECTIVES[n % 2], str(n % 2)) for n in range(len(said))]
    (folder / "rows.tsv").write_text("\n".join("\t".join(row) for row in [("a", "b", "mood", "stars"), *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def serve(folder: Path, small_bert: Path) -> Iterator[Callable[..., TestClient]]:
    """Fine-tune, export and serve a task's teacher."""
    with ExitStack() as stack:

        def start(task: str, *options: str, pairs: str = "joined") -> TestClient:
            run, models = folder / "runs" / f"{task}-teacher", folder / "models"
            table = ["--train", str(folder / "rows.tsv"), "--dev", str(folder / "rows.tsv"), *options]
            how = ["--recipe", str(folder / f"{pairs}.toml"), "--teacher", str(small_bert), "--into", str(run)]
            assert train(["finetune-teacher", "--task", task, *table, *how]) == 0
            assert export(["task", "--run", str(run), "--bundle", str(models / run.name)]) == 0
            client = stack.enter_context(
                TestClient(create_app(Settings(models_dir=models, drain_seconds=0, lag_seconds=30)))
            )
            client.portal.call(client.app.state.service.loaded.wait)
            return client

        yield start


@pytest.mark.parametrize(("task", "how"), [("same", "joined"), ("near", "apart")])
def test_a_pair_task_is_answered_over_http_as_in_pytorch(
    serve: Callable[..., TestClient], folder: Path, task: str, how: str
):
    client = serve(task, "--text", "a", "--text", "b", "--label", "mood", pairs=how)
    assert read_bundle(folder / "models" / f"{task}-teacher").manifest.inputs == f"pair_{how}"
    pairs = [("a good film", "the very bad dog sat on the mat"), ("cat", "the cat sat"), ("the " * 60, "a tree")]
    reply = client.post(f"/classify/{task}", json={"pairs": pairs, "model": "teacher"}).json()
    teacher = load_tuned_teacher(folder / "runs" / f"{task}-teacher")
    expected = torch.softmax(torch.from_numpy(answer(teacher.model, teacher.read(pairs))), dim=1).numpy()
    found = [[prediction["scores"][label] for label in ("bad", "good")] for prediction in reply["predictions"]]
    assert np.allclose(found, expected, atol=1e-5)
    assert reply["truncated"] == [2]


def test_a_task_on_one_text_and_a_regression_are_answered_as_well(serve: Callable[..., TestClient], folder: Path):
    serve("tone", "--text", "a", "--label", "mood")
    client = serve("stars", "--text", "a", "--label", "stars", "--regression")
    texts = ["a good film", "the very bad dog sat on the mat"]
    tone, stars = (load_tuned_teacher(folder / "runs" / f"{name}-teacher") for name in ("tone", "stars"))
    reply = client.post("/classify/tone", json={"sentences": texts, "model": "teacher"}).json()
    expected = torch.softmax(torch.from_numpy(answer(tone.model, tone.read([(t,) for t in texts]))), dim=1)[:, 1]
    assert np.allclose([prediction["scores"]["good"] for prediction in reply["predictions"]], expected, atol=1e-5)
    reply = client.post("/classify/stars", json={"sentences": texts, "model": "teacher"}).json()
    values = answer(stars.model, stars.read([(text,) for text in texts]))[:, 0]
    assert np.allclose([prediction["value"] for prediction in reply["predictions"]], values, atol=1e-4)


def test_the_bundle_says_what_it_is_and_how_it_was_made(serve: Callable[..., TestClient], folder: Path):
    serve("same", "--text", "a", "--text", "b", "--label", "mood")
    bundle = read_bundle(folder / "models" / "same-teacher")
    manifest = bundle.manifest
    assert (manifest.name, manifest.role, manifest.inputs, manifest.precision) == (
        "same",
        "teacher",
        "pair_joined",
        "float32",
    )
    assert manifest.figures["parity_max_abs"] < 1e-4
    metrics = (folder / "runs" / "same-teacher" / "metrics.jsonl").read_text().splitlines()
    assert manifest.figures["same_dev_accuracy_float32"] == json.loads(metrics[-1])["accuracy"]
    card = bundle.path("README.md").read_text()
    assert "small-bert fine-tuned on same, the two texts of a pair joined into one row" in card
    assert "python -m training finetune-teacher --task same" in card
    assert "python -m export task --run runs/same-teacher --bundle models/same-teacher" in card
    assert bundle.path(MODEL).stat().st_size > 0


def test_a_student_learns_from_that_teacher_and_both_are_compared(
    serve: Callable[..., TestClient], folder: Path, small_student: Path, capsys: pytest.CaptureFixture
):
    serve("alike", "--text", "a", "--text", "b", "--label", "mood")
    (folder / "more.txt").write_text("the red cat\na good mat\nthe dog ran\na very bad film\n")
    table = ["--train", str(folder / "rows.tsv"), "--dev", str(folder / "rows.tsv"), "--text", "a", "--text", "b"]
    taught = ["--teacher", str(folder / "runs" / "alike-teacher"), "--transfer", str(folder / "more.txt")]
    how = ["--label", "mood", "--from", str(small_student), "--recipe", str(folder / "quick.toml")]
    runs = {f"alike-{seed}": str(seed) for seed in (1, 2)}
    for name, seed in runs.items():
        into = ["--seed", seed, "--into", str(folder / "runs" / name)]
        assert train(["finetune", "--task", "alike", *table, *taught, *how, *into]) == 0
    scratch = ["--scratch", "--into", str(folder / "runs" / "alike-scratch")]
    assert train(["finetune", "--task", "alike", *table, *how, *scratch]) == 0
    bundle = ["--bundle", str(folder / "models" / "alike")]
    assert export(["task", "--run", str(folder / "runs" / "alike-1"), "--precision", "float32", *bundle]) == 0
    card = (folder / "models" / "alike" / "README.md").read_text()
    assert "--teacher runs/alike-teacher --transfer more.txt --transfer-rows 2 --seed 1" in card

    capsys.readouterr()
    names = [str(folder / "runs" / name) for name in (*runs, "alike-scratch", "alike-teacher")]
    assert train(["compare", *names, "--json", str(folder / "settings.json")]) == 0
    shown = capsys.readouterr().out
    assert "| alike | student + approximation + task distillation | " in shown
    rows = json.loads((folder / "settings.json").read_text())
    assert [row["seeds"] for row in rows] == [[1], [1, 2], [1]]
    assert rows[0]["setting"] == "student from scratch"

    assert list(task_answers(folder / "models")) == ["alike"], "an evaluation of students holds no teacher"
    with TestClient(create_app(Settings(models_dir=folder / "models", drain_seconds=0, lag_seconds=30))) as client:
        client.portal.call(client.app.state.service.loaded.wait)
        reply = client.post("/compare", json={"pairs": [["a good film", "a bad cat"]], "task": "alike"})
    assert reply.status_code == 200, reply.text


def test_stopping_an_export_is_one_line_and_leaves_nothing(
    folder: Path, serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    serve("same", "--text", "a", "--text", "b", "--label", "mood")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.bundle._replace_folder", stop)
    run, bundle = folder / "runs" / "same-teacher", folder / "elsewhere" / "same-teacher"
    capsys.readouterr()
    assert export(["task", "--run", str(run), "--bundle", str(bundle)]) == 130
    assert capsys.readouterr().err == "stopped; no bundle was written, and one that was there is as it was\n"
    assert not list(bundle.parent.iterdir())
