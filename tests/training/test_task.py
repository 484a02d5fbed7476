import json

import numpy as np
import pytest

from training.task import Examples, Task, examples_from

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


def test_examples_survive_json():
    examples = Examples([("a", "b"), ("c", "d")], np.asarray([0.5, 1.0]))
    again = examples_from(json.loads(json.dumps(examples.plain())))
    assert again.texts == examples.texts
    assert again.part(np.asarray([1])).labels.tolist() == [1.0]
