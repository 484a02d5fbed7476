from pathlib import Path

import pytest

from app.bundle import MODEL
from app.session import EncoderSession
from benchmarks import quality
from benchmarks.in_process import BERT_BASE, STUDENT, TEACHER, Batch, measure
from tests.app.bundles import write_encoder
from training.task import TaskError

TEXTS = ["a", "b c", "c a b", "d", "b b a", "c d", "d a", "a a b"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "fidelity").mkdir(parents=True)
    (folder / "fidelity" / "news.txt").write_text("\n".join(TEXTS) + "\n")
    (folder / "glue" / "STS-B").mkdir(parents=True)
    pairs = [f"{text}\t{TEXTS[place - 1]}\t{place % 5}" for place, text in enumerate(TEXTS)]
    (folder / "glue" / "STS-B" / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]) + "\n")
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student; of the models that are compared, all are its graph, but the student's vectors are negated."""
    session = EncoderSession(write_encoder(tmp_path / "models").path(MODEL))

    def same(batch: Batch):
        return session.run(batch.rows)

    found = {STUDENT: lambda batch: -same(batch), TEACHER: same, BERT_BASE: same}
    monkeypatch.setattr(quality, "contenders", lambda _models, _cache: found)
    monkeypatch.setattr(quality, "measure", lambda opened, batches: measure(opened, batches, rounds=1, seconds=0.01))
    return tmp_path / "models"


def test_quality_and_speed_are_of_the_same_models_and_the_picture_is_drawn(models: Path, data: Path, tmp_path: Path):
    (table,) = quality.tables(models, tmp_path / "cache", TEXTS, data, tmp_path / "into")
    rows = {row[0]: row[1:] for row in table.rows}
    assert set(rows) == {STUDENT, TEACHER}  # what random weights keep says nothing
    assert rows[STUDENT][0] == rows[TEACHER][0]  # negation leaves every cosine as it is
    assert rows[STUDENT][1] == rows[TEACHER][1] == "1.0000"
    assert rows[TEACHER][3] == 1
    assert all(isinstance(row[2], float) and row[2] > 0 for row in rows.values())
    assert (tmp_path / "into" / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_without_data_it_says_what_is_missing(models: Path, tmp_path: Path):
    with pytest.raises(TaskError, match="STS-B"):
        quality.tables(models, tmp_path / "cache", TEXTS, tmp_path / "nothing", tmp_path / "into")
