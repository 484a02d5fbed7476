from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from training import measures as module
from training.encoding import Vectors
from training.measures import (
    COMMON,
    COSINE,
    RANK,
    by_length,
    by_slice,
    cosine_of,
    domains,
    fidelity,
    passages,
    probe,
    similarity,
    similarity_by_slice,
)
from training.task import Examples, Task, TaskError

RNG = np.random.default_rng(0)
VECTORS = {"north": [0.0, 1.0], "north-east": [1.0, 1.0], "east": [1.0, 0.0], "south": [0.0, -1.0]}
GOOD_OR_BAD = Task("mood", 1, ("bad", "good"), ("accuracy",))


def compass(texts: Sequence[str]) -> Vectors:
    return np.asarray([VECTORS[text] for text in texts], dtype=np.float32)


def test_the_same_vectors_are_wholly_faithful():
    vectors = RNG.standard_normal((30, 4)).astype(np.float32)
    same = fidelity(vectors, vectors)
    assert (same.cosine, same.rank, same.neighbours) == (pytest.approx(1), pytest.approx(1), 1.0)


def test_a_rotation_loses_the_cosine_but_no_rank_and_no_neighbour():
    vectors = RNG.standard_normal((30, 4)).astype(np.float32)
    turned = fidelity(vectors[:, ::-1], vectors)
    assert turned.cosine < 0.5
    assert (turned.rank, turned.neighbours) == (pytest.approx(1), 1.0)


def test_unrelated_vectors_share_neighbours_by_chance_only():
    rng = np.random.default_rng(0)
    figures = fidelity(*(rng.standard_normal((200, 8)).astype(np.float32) for _ in range(2)))
    assert abs(figures.cosine) < 0.1
    assert abs(figures.rank) < 0.1
    assert figures.neighbours < 0.15


def test_vectors_of_another_width_have_no_cosine_but_a_rank():
    vectors = RNG.standard_normal((30, 4)).astype(np.float32)
    padded = np.pad(vectors, ((0, 0), (0, 3)))
    figures = fidelity(padded, vectors)
    assert figures.cosine is None
    assert figures.rank == pytest.approx(1)


def test_a_vector_of_zeros_has_cosine_zero():
    vectors = np.eye(4, dtype=np.float32)
    assert cosine_of("", ["a"] * 4).judge(vectors * 0, vectors) == [(0.0,)]


def test_similarity_is_the_correlation_of_cosines_with_scores():
    pairs = [("north", "north"), ("north", "north-east"), ("north", "east"), ("north", "south")]
    scores = np.asarray([5.0, 3.0, 4.0, 0.0])
    measure = similarity(Examples(pairs, scores))
    vectors = compass(measure.texts)
    cosines = [1, np.sqrt(0.5), 0, -1]
    spearman, pearson = spearmanr(cosines, scores)[0], pearsonr(cosines, scores)[0]
    figures = np.ravel(measure.judge(vectors, vectors)).tolist()
    assert figures == pytest.approx([spearman, pearson, 1])
    assert measure.judge(-vectors[:, ::-1] * [1, 0], vectors)[2][0] < 1


def test_similarity_by_slice_is_the_correlation_on_the_pairs_of_a_slice_and_on_noisy_ones():
    rng = np.random.default_rng(0)
    pairs = [(f"North, {'not ' * (row < 40)}so?", "East") for row in range(60)]
    truth = rng.random(60)
    measure = similarity_by_slice(Examples(pairs, truth), [1] * 60)
    assert [(row.title, row.size) for row in measure.rows] == [
        ("all rows", 60),
        ("negation", 40),
        ("questions", 60),
        ("noisy text", 60),
    ]
    assert measure.texts[:2] == ["North, not so?", "East"]
    assert not any(mark in text for text in measure.texts[120:] for mark in "N,?")
    angles = np.where(np.arange(60) < 40, np.arccos(truth), rng.random(60))
    clean = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    clean = np.stack([clean, np.tile([1.0, 0.0], (60, 1))], axis=1).reshape(120, 2)
    vectors = np.concatenate([clean, np.tile(clean[:2], (60, 1))]).astype(np.float32)
    everything, negation, questions, noisy = measure.judge(vectors, vectors)
    assert negation == (pytest.approx(1),)
    assert everything == questions
    assert 0 < everything[0] < 0.99
    assert noisy == (), "all are alike, so there is no correlation"


def test_cosines_are_told_by_what_stands_in_a_text():
    texts = [*["not Here"] * 30, *["in 1987, or Later"] * 30]
    measure = by_slice(texts, [2] * 60)
    assert [(row.title, row.size) for row in measure.rows] == [
        ("all rows", 60),
        ("negation", 30),
        ("numbers", 30),
        ("noisy text", 60),
    ]
    assert [text.islower() for text in measure.texts] == [False] * 60 + [True] * 60
    expected = np.tile(np.asarray([1.0, 0.0], np.float32), (120, 1))
    vectors = expected.copy()
    vectors[:30] = vectors[60:] = 0.0, 1.0
    assert measure.judge(vectors, expected) == [(0.5,), (0.0,), (1.0,), (0.0,)]


def test_domains_have_a_figure_each_and_their_mean():
    measure = domains({"winds": list(VECTORS), "calms": ["north", "south", "east"]})
    titles = [row.title for row in measure.rows if row.section == COSINE]
    assert titles == ["winds", "calms", "mean of the 2 domains"]
    assert [row.section for row in measure.rows] == [COSINE] * 3 + [RANK] * 3 + [COMMON] * 3
    assert [row.size for row in measure.rows[:3]] == [4, 3, 7]
    vectors = compass(measure.texts)
    turned = vectors[:, ::-1]
    found = dict(zip(measure.rows, measure.judge(turned, vectors), strict=True))
    assert found[measure.rows[0]] == (pytest.approx(0.25),)
    assert found[measure.rows[1]] == (pytest.approx(0),)
    assert found[measure.rows[2]] == (pytest.approx(0.125),)


def test_texts_fall_into_bins_by_their_tokens():
    measure = by_length(["a", "b", "c", "d", "e"], [4, 5, 8, 256, 300])
    assert [(row.title, row.size) for row in measure.rows] == [("1-4", 1), ("5-8", 2), ("129-256", 2)]
    vectors = np.eye(5, dtype=np.float32)
    changed = vectors.copy()
    changed[1] = -changed[1]
    assert measure.judge(changed, vectors) == [(1.0,), (0.0,), (1.0,)]


def rows(count: int, offset: int = 0) -> Examples:
    numbers = range(offset, offset + count)
    return Examples([(f"film {number}",) for number in numbers], np.asarray([number % 2 for number in numbers], float))


def parity_vectors(texts: Sequence[str]) -> Vectors:
    """Vectors from which a line tells even numbers from odd ones."""
    numbers = [int(text.split()[1]) for text in texts]
    return np.asarray([[1.0, number % 2, 0.1 * number] for number in numbers], dtype=np.float32)


def test_a_probe_reads_what_a_line_can_tell_and_nothing_else():
    measure = probe(GOOD_OR_BAD, rows(40), rows(20, 40), [1, 2])
    vectors = parity_vectors(measure.texts)
    assert measure.judge(vectors, vectors) == [(1.0,)]
    blind = vectors * [1, 0, 0]
    assert measure.judge(blind.astype(np.float32), vectors)[0][0] == pytest.approx(0.5)


def test_each_seed_draws_its_own_rows_of_a_large_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PROBE_ROWS", 30)
    measure = probe(GOOD_OR_BAD, rows(100), rows(20, 100), [1, 2, 3])
    assert "30 of 100" in measure.rows[0].title
    first, second, _ = (measure.texts[20 + 30 * seed : 50 + 30 * seed] for seed in range(3))
    assert len(set(first)) == 30
    assert set(first) != set(second)
    vectors = parity_vectors(measure.texts)
    assert measure.judge(vectors, vectors) == [(1.0, 1.0, 1.0)]


def test_a_draw_holds_a_row_of_each_label_and_is_otherwise_the_seeds_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PROBE_ROWS", 30)
    task = Task("mood", 1, ("bad", "good", "neither"), ("accuracy",))
    for often in (1, 5):
        train = rows(200)
        train.labels[-often:] = 2
        for seed in range(20):
            drawn = np.random.default_rng(seed).permutation(200)[:30]
            without = set(train.labels) - set(train.labels[drawn])
            measure = probe(task, train, rows(20), [seed])
            vectors = parity_vectors(measure.texts)
            assert measure.judge(vectors, vectors)[0][0] > 0.5
            assert len(set(measure.texts[20:]) - {f"film {row}" for row in drawn}) == len(without)


def test_a_label_without_a_training_row_is_said_before_anything_is_encoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PROBE_ROWS", 2)
    for labels in (("bad", "good", "neither"), ("bad", "good", "neither", "both")):
        train = Examples([("a",)] * 9, np.arange(9.0) % 3)
        with pytest.raises(TaskError, match=f"a row of each of the {len(labels)} labels, and 2 training rows do not"):
            probe(Task("mood", 1, labels, ("accuracy",)), train, train, [1])


def test_a_probe_of_pairs_keeps_the_two_texts_of_a_row_together():
    task = Task("same", 2, ("different", "same"), ("accuracy",))
    pairs = [(f"film {number}", f"film {number + (number % 2)}") for number in range(60)]
    examples = Examples(pairs, np.asarray([float(number % 2 == 0) for number in range(60)]))
    measure = probe(task, examples, examples, [1])
    vectors = parity_vectors(measure.texts)
    assert measure.judge(vectors, vectors) == [(1.0,)]


def test_passages_are_neighbouring_lines_of_128_to_256_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PASSAGES", 50)
    lines = [" ".join([f"w{number}"] * (number % 30 + 2)) for number in range(400)]

    def count(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    found = passages(lines, count, seed=1)
    assert len(found) == 50
    assert 128 <= min(count(found)) < 160
    assert 220 < max(count(found)) <= 256
    assert all(passage in " ".join(lines) for passage in found)
    assert passages(lines, count, seed=1) == found
    assert passages(lines, count, seed=2) != found
