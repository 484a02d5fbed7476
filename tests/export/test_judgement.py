from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from app.tokenizer import Tokenizer
from export.judgement import encoder_inputs, judge, row_vectors, slices, sts_slices, task_figures
from export.packed_encoder import in_file
from export.parity import ParityError
from training.evaluation import sts_spearman
from training.recipe import Int8
from training.start import load_start
from training.task import Examples, Task


def test_a_score_lost_in_int8_beyond_the_limit_stops_the_export():
    assert judge("accuracy", 0.905, 0.9, Int8()) == {"accuracy_float32": 0.905, "accuracy_int8": 0.9}
    with pytest.raises(ParityError, match=r"int8 costs 0\.0200 of accuracy"):
        judge("accuracy", 0.92, 0.9, Int8())
    assert judge("accuracy", 0.92, 0.9, Int8(max_loss=0.03))
    assert judge("accuracy", 0.92, 0.91, Int8())


def test_one_of_few_rows_that_int8_answers_otherwise_does_not_stop_the_export():
    task, dev = Task("mood", 1, ("bad", "good"), ("accuracy",)), Examples([("a",)] * 50, np.zeros(50))
    answers = np.asarray([[0.9, 0.1]] * 47 + [[0.1, 0.9]] * 3, np.float32)
    assert task_figures(task, dev, answers, 0.96, Int8())["mood_dev_accuracy_int8"] == 0.94
    with pytest.raises(ParityError, match=r"int8 costs 0\.0400 of mood_dev_accuracy, allowed 0\.02"):
        task_figures(task, dev, answers, 0.98, Int8())


def test_a_pair_encoded_apart_makes_two_inputs_and_a_joined_one_a_single():
    assert encoder_inputs("pair_apart", ("a", "b")) == [("a",), ("b",)]
    assert encoder_inputs("pair_joined", ("a", "b")) == [("a", "b")]
    assert encoder_inputs("text", ("a",)) == [("a",)]


def test_rows_are_encoded_as_a_head_takes_them():
    def encode(texts):
        return np.asarray([[sum(map(len, each))] for each in texts], np.float32)

    pairs = [("a", "bb"), ("ccc", "dddd")]
    assert row_vectors("pair_apart", encode, pairs).tolist() == [[[1], [2]], [[3], [4]]]
    assert row_vectors("pair_joined", encode, pairs).tolist() == [[[3]], [[7]]]


def test_slices_are_said_and_kept_where_they_have_a_score(capsys: pytest.CaptureFixture):
    task = Task("stars", 1, (), ("spearman", "pearson"))
    texts, values = [("not good",)] * 40 + [("good",)] * 40, np.r_[np.full(40, 2.0), np.arange(40.0)]
    answers = values.astype(np.float32)[:, None]
    found = slices(task, Examples(texts, values), [1] * 80, answers, -answers)
    assert found.metric == "spearman"
    assert {name: part.rows for name, part in found.parts.items()} == {"all rows": 80, "noisy text": 80}
    assert found.parts["noisy text"].score == pytest.approx(-1)
    said = capsys.readouterr().out
    assert "spearman on all rows: 1.0000 (80 rows)" in said
    assert "negation" not in said


def test_an_encoder_is_scored_on_slices_of_sts_b_where_that_is_there(small_student: Path, tmp_path: Path):
    start = load_start(small_student)
    with in_file(start.tokenizer.to_str().encode()) as file:
        reader = Tokenizer(file, start.origin["max_tokens"])

    def encode(rows: Sequence[tuple[str, ...]]) -> np.ndarray:
        return start.encode([text for (text,) in rows])

    assert sts_slices(reader, encode, tmp_path) is None
    lines = [f"{row}\tnews\tthe cat {'not ' * (row % 2)}sat\tthe film\t{row / 16}" for row in range(80)]
    file = tmp_path / "glue" / "STS-B" / "dev.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(["index\tgenre\tsentence1\tsentence2\tscore", *lines]) + "\n")
    found = sts_slices(reader, encode, tmp_path)
    assert found.parts["all rows"].rows == 80
    assert found.parts["all rows"].score == pytest.approx(sts_spearman(start.encode, tmp_path))


def test_a_bundle_in_float32_is_scored_and_one_in_int8_is_judged():
    task, dev = Task("mood", 1, ("bad", "good"), ("accuracy",)), Examples([("a",)] * 4, np.asarray([0.0, 1, 1, 1]))
    answers = np.asarray([[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2, np.float32)
    assert task_figures(task, dev, answers, None, Int8()) == {"mood_dev_accuracy_float32": 0.75}
    with pytest.raises(ParityError, match=r"int8 costs 0\.5000 of mood_dev_accuracy"):
        task_figures(task, dev, 1 - answers, 0.75, Int8())


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_metric_that_is_not_defined_gives_no_figure(capsys: pytest.CaptureFixture):
    task, alike = Task("stars", 1, (), ("spearman", "pearson")), Examples([("a",)] * 4, np.full(4, 2.5))
    answers = np.arange(4, dtype=np.float32)[:, None]
    exact = task.score(alike.labels, answers)["spearman"]
    for score in (exact, None):
        assert task_figures(task, alike, answers, score, Int8()) == {}
        assert "stars_dev_spearman not scored" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_int8_that_answers_all_rows_alike_stops_the_export():
    task, dev = Task("stars", 1, (), ("spearman", "pearson")), Examples([("a",)] * 4, np.arange(4.0))
    with pytest.raises(ParityError, match=r"stars_dev_spearman is 0\.9000 in float32 and not defined in int8"):
        task_figures(task, dev, np.ones((4, 1), np.float32), 0.9, Int8())
