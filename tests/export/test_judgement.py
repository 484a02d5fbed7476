import numpy as np
import pytest

from export.judgement import encoder_inputs, judge, row_vectors, task_figures
from export.parity import ParityError
from training.recipe import Int8
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
