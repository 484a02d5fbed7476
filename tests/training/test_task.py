import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from training.task import Examples, Task, examples_from, identity, task_from

TRUTH = np.asarray([0.0, 0, 1, 1])
SCORES = np.asarray([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]], np.float32)


@pytest.mark.parametrize(
    ("metric", "value"), [("accuracy", 0.75), ("f1", 0.8), ("macro_f1", 0.7333), ("matthews", 0.5774)]
)
def test_a_classifier_is_scored_by_its_best_label(metric: str, value: float):
    task = Task("mood", 1, ("bad", "good"), (metric,))
    assert task.score(TRUTH, SCORES) == {metric: pytest.approx(value, abs=1e-4)}


def test_a_regression_is_scored_by_correlation():
    figures = Task("sts", 2, (), ("spearman", "pearson")).score(
        np.asarray([1.0, 2, 3]), np.asarray([[0.1], [0.2], [0.9]])
    )
    assert figures == {"spearman": pytest.approx(1), "pearson": pytest.approx(0.9177, abs=1e-4)}


def test_a_head_gives_a_number_per_label_or_one():
    assert Task("mood", 1, ("bad", "so-so", "good"), ("accuracy",)).outputs == 3
    assert Task("sts", 2, (), ("spearman",)).outputs == 1


def test_a_task_survives_json_and_an_earlier_version_knew_no_symmetry():
    plain = json.loads(json.dumps(asdict(Task("same", 2, ("no", "yes"), ("f1",), symmetric=True))))
    assert task_from(plain).symmetric
    assert task_from(plain) == Task("same", 2, ("no", "yes"), ("f1",))
    del plain["symmetric"]
    assert not task_from(plain).symmetric


def test_a_row_means_the_same_in_either_order_where_the_task_is_symmetric():
    task = Task("sts", 2, (), ("spearman",))
    assert task.orders(("a", "b")) == (("a", "b"),)
    assert replace(task, symmetric=True).orders(("a", "b")) == (("a", "b"), ("b", "a"))


def test_a_symmetric_task_is_learnt_by_another_run_than_one_whose_order_counts():
    rows, task = Examples([("a", "b")], np.asarray([0.5])), Task("sts", 2, (), ("spearman",))
    assert list(identity(task, rows, rows)) != list(identity(replace(task, symmetric=True), rows, rows))


def test_examples_survive_json():
    examples = Examples([("a", "b"), ("c", "d")], np.asarray([0.5, 1.0]))
    again = examples_from(json.loads(json.dumps(examples.plain())))
    assert again.texts == examples.texts
    assert again.part(np.asarray([1])).labels.tolist() == [1.0]
