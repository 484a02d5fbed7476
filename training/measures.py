"""What is measured of an encoder: which texts it encodes, and what their vectors say of it and of its teacher."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from training.encoding import Vectors
from training.glue import TASKS
from training.head import Head, fit_head
from training.slices import NOISY, find_slices, noisy_rows, score_slices
from training.task import Examples, Scores, Task, TaskError

NEIGHBOURS = 10
MEANING, WEAKNESSES, COSINE, RANK, COMMON, LENGTH, KIND, PROBES = (
    "Similarity of meaning",
    "Similarity of meaning: STS-B dev, Spearman, by what stands in a pair",
    "Fidelity: mean cosine to the teacher",
    "Fidelity: Spearman correlation of all pairs' similarities",
    "Fidelity: ten nearest neighbours in common",
    "Fidelity: mean cosine to the teacher, by tokens",
    "Fidelity: mean cosine to the teacher, by what stands in a text",
    "Linear probes on frozen vectors",
)
# Beyond, a logistic regression of a few hundred numbers gains little, and every row costs a teacher's pass.
PROBE_ROWS = 5_000
PASSAGES = 400  # each costs the teacher about eight sentences; their mean cosine is then known to about 0.003
PASSAGE_TOKENS = (128, 256)
SMALLEST = np.finfo(np.float32).tiny  # a static model gives zeros where it knows no token
LENGTHS = (4, 8, 16, 32, 64, 128, 256)  # upper edges, in tokens

Figure = tuple[float, ...]  # a value per seed; one where nothing is drawn; none where it is not defined
Count = Callable[[Sequence[str]], list[int]]  # texts to their tokens


class Row(NamedTuple):
    """What one figure is about; `size` of `unit` were looked at."""

    section: str
    title: str
    size: int = 0
    unit: str = "texts"


@dataclass(frozen=True)
class Measure:
    """Something to measure.

    Attributes:
        rows: What its figures are about.
        texts: To be encoded.
        judge: Gives the rows' figures from the texts' vectors, (texts, width), and the teacher's.
        missing: Why it cannot be had; then there are no texts.
    """

    rows: tuple[Row, ...]
    texts: Sequence[str]
    judge: Callable[[Vectors, Vectors], Sequence[Figure]]
    missing: str = ""


@dataclass(frozen=True)
class Fidelity:
    """How close vectors are to a teacher's, of the same texts.

    Attributes:
        cosine: Mean cosine of a text's two vectors; none where the two differ in width, and so in space.
        rank: Spearman correlation of the cosines of all pairs of texts: does the student rank as the teacher ranks?
        neighbours: Mean share of a text's ten nearest texts that both agree on.
    """

    cosine: float | None
    rank: float
    neighbours: float


def fidelity(vectors: Vectors, expected: Vectors) -> Fidelity:
    """Compare vectors with a teacher's, both (texts, width), of at least three texts."""
    found, wanted = _similarities(vectors), _similarities(expected)
    pairs = np.triu_indices(len(found), k=1)
    return Fidelity(
        cosine=mean_cosine(vectors, expected),
        rank=float(spearmanr(found[pairs], wanted[pairs])[0]),
        neighbours=_neighbours_in_common(found, wanted),
    )


def mean_cosine(vectors: Vectors, expected: Vectors) -> float | None:
    """Give the mean cosine of vectors and a teacher's; none where they differ in width, and so in space."""
    return float(_cosines(vectors, expected).mean()) if vectors.shape == expected.shape else None


def similarity(pairs: Examples) -> Measure:
    """Measure how cosines follow human scores, on pairs of STS-B (Cer et al. 2017)."""
    titles = ("STS-B dev, Spearman", "STS-B dev, Pearson", "STS-B dev, Spearman as a share of the teacher's")

    def judge(vectors: Vectors, expected: Vectors) -> list[Figure]:
        found, wanted = _sts(vectors, pairs), _sts(expected, pairs)
        return [(found["spearman"],), (found["pearson"],), (found["spearman"] / wanted["spearman"],)]

    return Measure(tuple(Row(MEANING, title, len(pairs), "pairs") for title in titles), _flat(pairs), judge)


def similarity_by_slice(pairs: Examples, tokens: Sequence[int]) -> Measure:
    """Measure how cosines follow human scores on parts of STS-B, of whose pairs `tokens` gives the lengths."""
    sizes = {name: len(rows) for name, rows in find_slices(pairs.texts, tokens).items()} | {NOISY: len(pairs)}
    texts = [*_flat(pairs), *chain.from_iterable(noisy_rows(pairs.texts))]

    def judge(vectors: Vectors, _expected: Vectors) -> list[Figure]:
        answers, noisy = np.split(_cosines(vectors[::2], vectors[1::2])[:, None], 2)
        found = score_slices(TASKS["stsb"].task, pairs, tokens, answers, noisy)
        return [_figure(found[name].score) for name in sizes]

    return Measure(tuple(Row(WEAKNESSES, name, size, "pairs") for name, size in sizes.items()), texts, judge)


def cosine_of(title: str, texts: Sequence[str]) -> Measure:
    """Measure the mean cosine to the teacher."""
    return Measure((Row(COSINE, title, len(texts)),), texts, lambda *both: [_figure(mean_cosine(*both))])


def domains(texts: Mapping[str, Sequence[str]]) -> Measure:
    """Measure fidelity in each of several domains, and its mean over them."""
    sizes = [len(one) for one in texts.values()]
    edges = np.cumsum(sizes)[:-1]
    names = [(name, len(one)) for name, one in texts.items()] + [(f"mean of the {len(texts)} domains", sum(sizes))]

    def judge(vectors: Vectors, expected: Vectors) -> list[Figure]:
        parts = zip(np.split(vectors, edges), np.split(expected, edges), strict=True)
        found = [fidelity(*part) for part in parts]
        columns = ([one.cosine for one in found], [one.rank for one in found], [one.neighbours for one in found])
        return [_figure(value) for column in columns for value in (*column, _mean(column))]

    rows = tuple(Row(section, *name) for section in (COSINE, RANK, COMMON) for name in names)
    return Measure(rows, list(chain.from_iterable(texts.values())), judge)


def by_length(texts: Sequence[str], tokens: Sequence[int]) -> Measure:
    """Measure the mean cosine to the teacher by length: texts of up to 4 tokens, of 5 to 8, and so on."""
    bins = np.minimum(np.searchsorted(LENGTHS, tokens), len(LENGTHS) - 1)
    found = [number for number in range(len(LENGTHS)) if (bins == number).any()]
    lows = [1, *(edge + 1 for edge in LENGTHS)]
    rows = tuple(Row(LENGTH, f"{lows[one]}-{LENGTHS[one]}", int((bins == one).sum())) for one in found)

    def judge(vectors: Vectors, expected: Vectors) -> list[Figure]:
        return [_figure(mean_cosine(vectors[bins == one], expected[bins == one])) for one in found]

    return Measure(rows, texts, judge)


def by_slice(texts: Sequence[str], tokens: Sequence[int]) -> Measure:
    """Measure the mean cosine to the teacher by what stands in a text, and that of all texts written as noise."""
    alone = [(text,) for text in texts]
    slices = find_slices(alone, tokens)
    slices[NOISY] = len(texts) + np.arange(len(texts))

    def judge(vectors: Vectors, expected: Vectors) -> list[Figure]:
        return [_figure(mean_cosine(vectors[rows], expected[rows])) for rows in slices.values()]

    rows = tuple(Row(KIND, name, len(some)) for name, some in slices.items())
    return Measure(rows, [*texts, *chain.from_iterable(noisy_rows(alone))], judge)


def probe(task: Task, train: Examples, dev: Examples, seeds: Sequence[int]) -> Measure:
    """Measure what a linear model reads from the vectors: fitted on training rows, scored on dev rows.

    Where there are more than PROBE_ROWS training rows, each seed draws as many, and the figure has a value per seed.

    Raises:
        TaskError: a label has no training row, or there are too many labels for a draw to hold them all.
    """
    draws = [train.part(rows) for rows in _draws(task, train.labels, seeds)]
    if any(len(np.unique(draw.labels)) < len(task.labels) for draw in draws):
        few = f"and {len(draws[0]):,} training rows do not hold them all"
        raise TaskError(f"a probe learns from a row of each of the {len(task.labels)} labels, {few}")
    texts = [*_flat(dev), *chain.from_iterable(map(_flat, draws))]
    of_dev, of_draw = len(dev) * task.texts, len(draws[0]) * task.texts

    def judge(vectors: Vectors, _expected: Vectors) -> list[Figure]:
        dev_vectors = vectors[:of_dev]
        drawn = [vectors[low : low + of_draw] for low in range(of_dev, len(vectors), of_draw)]
        scores = [
            _probe_score(task, part, draw.labels, dev_vectors, dev.labels)
            for part, draw in zip(drawn, draws, strict=True)
        ]
        return [tuple(scores)]

    title = f"{task.name}, {task.metrics[0]}, from {len(draws[0]):,} of {len(train):,} training rows"
    return Measure((Row(PROBES, title, len(dev), "dev rows"),), texts, judge)


def passages(lines: Sequence[str], count: Count, seed: int) -> list[str]:
    """Join runs of neighbouring lines to PASSAGES texts of 128 to 256 tokens, evenly long or short as a seed says."""
    low, high = PASSAGE_TOKENS
    rng = np.random.default_rng(seed)
    found: list[str] = []
    for start in rng.permutation(len(lines)):
        wanted = int(rng.integers(low, high + 1))
        run = lines[start : start + wanted // 3]  # a line has hardly fewer than three tokens
        sizes = 2 + np.cumsum(np.asarray(count(run)) - 2)  # start and end marks are there once
        fitting = int(np.searchsorted(sizes, wanted, side="right"))
        if fitting and sizes[fitting - 1] >= low:
            found.append(" ".join(run[:fitting]))
        if len(found) == PASSAGES:
            break
    return found


def _draws(task: Task, labels: Scores, seeds: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Draw rows at random, the first that is drawn of each label among them: a rare one would else have none."""
    rows = np.arange(len(labels))
    if len(rows) <= PROBE_ROWS:
        yield rows
        return
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(rows))
        firsts = np.unique(labels[order], return_index=True)[1] if task.labels else rows[:0]
        places = np.concatenate([firsts, np.delete(rows, firsts)])[:PROBE_ROWS]
        yield np.sort(order[places])


@torch.inference_mode()
def _probe_score(task: Task, train: Vectors, labels: Scores, dev: Vectors, truth: Scores) -> float:
    width = train.shape[1]
    head = Head(task.texts, width, task.outputs, symmetric=task.symmetric).eval()
    with threadpool_limits(1):  # matrices this small gain nothing from a second thread, and lose much on a busy machine
        fit_head(head, train.reshape(-1, task.texts, width), labels, task)
    logits = head(torch.from_numpy(dev.reshape(-1, task.texts, width))).numpy()
    return task.score(truth, logits)[task.metrics[0]]


def _sts(vectors: Vectors, pairs: Examples) -> dict[str, float]:
    return TASKS["stsb"].task.score(pairs.labels, _cosines(vectors[::2], vectors[1::2])[:, None])


def _flat(examples: Examples) -> list[str]:
    return list(chain.from_iterable(examples.texts))


def _figure(value: float | None) -> Figure:
    return () if value is None else (value,)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float32]:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float32] = (first * second).sum(axis=1) / np.maximum(norms, SMALLEST)
    return cosines


def _similarities(vectors: Vectors) -> NDArray[np.float32]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SMALLEST)
    similarities: NDArray[np.float32] = unit @ unit.T
    return similarities


def _neighbours_in_common(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    count = min(NEIGHBOURS, len(found) - 1)
    nearest = [_nearest(similarities, count) for similarities in (found, wanted)]
    return float(np.mean([len(set(ours) & set(theirs)) / count for ours, theirs in zip(*nearest, strict=True)]))


def _nearest(similarities: NDArray[np.float32], count: int) -> list[list[int]]:
    others = similarities - 3 * np.eye(len(similarities), dtype=np.float32)  # no text is its own neighbour
    nearest: list[list[int]] = np.argsort(-others, axis=1, kind="stable")[:, :count].tolist()
    return nearest
