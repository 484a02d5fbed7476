from collections.abc import Sequence

import numpy as np
import pytest

from training.slices import ROWS_TO_SCORE, Slice, find_slices, noisy_rows, score_slices
from training.task import Examples, Task

MOOD = Task("mood", 1, ("bad", "good"), ("accuracy",))
MARKED = Task("mood", 1, ("bad", "good"), ("matthews",))
ALIKE = Task("alike", 2, (), ("spearman", "pearson"))


def scored(
    task: Task, texts: Sequence[tuple[str, ...]], labels: Sequence[float], scores: Sequence[object]
) -> dict[str, Slice]:
    """Score answers; texts are as long as they have words, and noise changes no answer."""
    tokens = [len(" ".join(row).split()) for row in texts]
    answers = np.asarray(scores, dtype=np.float32)
    return score_slices(task, Examples(list(texts), np.asarray(labels, np.float64)), tokens, answers, answers)


def right(labels: Sequence[int], wrong: set[int]) -> list[list[float]]:
    """Give scores that answer each label, but for the wrong rows."""
    return [[0.9, 0.1] if (label == 0) != (row in wrong) else [0.1, 0.9] for row, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("negation", "it does n't work", "another knot of nouns"),
        ("negation", "We can't say", "cant"),
        ("negation", "NEVER again", "nevertheless"),
        ("numbers", "in 1987", "in the past"),
        ("numbers", "Seven samurai", "sevenfold"),
        ("questions", "is it good?", "it is good"),
    ],
)
def test_a_slice_holds_the_rows_that_say_so(name: str, inside: str, outside: str):
    labels = [row % 2 for row in range(100)]
    texts = [(inside,) if row < 40 else (outside,) for row in range(100)]
    found = scored(MOOD, texts, labels, right(labels, wrong={0, 1, 2, 3, 99}))
    assert found["all rows"].rows == 100
    assert found["all rows"].score == pytest.approx(0.95)
    assert found[name].rows == 40
    assert found[name].score == pytest.approx(0.9)


def test_a_pair_is_of_a_slice_by_either_text():
    texts = [("a cat", "no cat")] * 30 + [("not a cat", "a cat")] * 30 + [("a cat", "a dog")] * 30
    values = np.arange(90.0)
    found = scored(ALIKE, texts, values, values[:, None])
    assert found["negation"] == (60, pytest.approx(1))


def test_long_texts_are_the_longest_fifth():
    texts = [("word " * (1 + row),) for row in range(200)]
    labels = [row % 2 for row in range(200)]
    found = scored(MOOD, texts, labels, right(labels, wrong={159, 160, 161}))
    assert found["long texts"].rows == 40
    assert found["long texts"].score == pytest.approx(1 - 2 / 40)


def test_a_slice_of_few_rows_is_left_out():
    texts = [("not good",)] * (ROWS_TO_SCORE - 1) + [("is it 1?",)] * ROWS_TO_SCORE
    labels = [row % 2 for row in range(len(texts))]
    assert list(scored(MOOD, texts, labels, right(labels, set()))) == [
        "all rows",
        "numbers",
        "questions",
        "noisy text",
    ]


def test_a_metric_that_is_not_defined_on_a_slice_gives_no_score():
    def told(found: dict[str, Slice]) -> set[str]:
        return {name for name, one in found.items() if one.score is not None}

    texts = [("not good",)] * 40 + [("good",)] * 40
    labels = [0] * 40 + [1, 0] * 20
    assert "negation" in told(scored(MOOD, texts, labels, right(labels, set())))
    found = scored(MARKED, texts, labels, right(labels, wrong={79}))
    assert found["negation"].rows == 40
    assert told(found) == {"all rows", "noisy text"}, "of one label there is no correlation"
    pairs = [("no", "no")] * 40 + [("yes", "yes")] * 40
    values, constant = np.arange(80.0), np.where(np.arange(80) < 40, 1.0, np.arange(80))
    assert told(scored(ALIKE, pairs, values, constant[:, None])) == {"all rows", "noisy text"}


def test_noisy_rows_are_scored_by_their_own_answers():
    labels = [row % 2 for row in range(50)]
    dev = Examples([("good",)] * 50, np.asarray(labels, np.float64))
    answers, noisy = (np.asarray(right(labels, wrong), np.float32) for wrong in (set(), {0, 1, 2, 3, 4}))
    found = score_slices(MOOD, dev, [1] * 50, answers, noisy)
    assert (found["all rows"].score, found["noisy text"].score) == (1, pytest.approx(0.9))


def test_of_few_rows_all_are_one_slice():
    assert find_slices([("no",), ("yes",)], [1, 1]).keys() == {"all rows"}


def test_noise_is_lower_case_without_punctuation_and_a_typo_in_every_eighth_word():
    words = [f"Word{letter}," for letter in "abcdefghijklmnopqrstuvwx"]
    (text,) = noisy_rows([(" ".join(words),)])[0]
    plain = [word.lower().strip(",") for word in words]
    changed = [place for place, (one, other) in enumerate(zip(text.split(), plain, strict=True)) if one != other]
    assert len(changed) == 3
    assert set(np.diff(changed)) == {8}
    assert [sorted(word) for word in text.split()] == [sorted(word) for word in plain]


def test_noise_is_the_same_each_time_and_leaves_what_no_one_drops():
    rows = [('He said: "It isn\'t 3.5 %", did he?', "A"), ("?!", "")]
    assert noisy_rows(rows) == noisy_rows(rows)
    (quoted, letter), (nothing, empty) = noisy_rows(rows)
    assert sorted(quoted) == sorted("he said it isn't 3.5 % did he")
    assert (letter, nothing, empty) == ("a", "", "")
