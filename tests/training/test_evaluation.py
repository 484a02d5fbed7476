from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training.encoding import Vectors
from training.evaluation import comparison, fidelity, sts_spearman

VECTORS = {"north": [0.0, 1.0], "north-east": [1.0, 1.0], "east": [1.0, 0.0], "south": [0.0, -1.0]}


def compass(texts: Sequence[str]) -> Vectors:
    return np.asarray([VECTORS[text] for text in texts], dtype=np.float32)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    task = tmp_path / "glue" / "STS-B"
    task.mkdir(parents=True)
    rows = ["north\tnorth\t5.0", "north\tnorth-east\t4.0", "north\teast\t2.0", "north\tsouth\t0.0"]
    (task / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    (tmp_path / "fidelity").mkdir()
    (tmp_path / "fidelity" / "winds.txt").write_text("\n".join(VECTORS) + "\n")
    return tmp_path


def test_sts_is_the_rank_correlation_of_cosines(world: Path):
    assert sts_spearman(compass, world) == pytest.approx(1)


def test_the_same_vectors_are_wholly_faithful():
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    same = fidelity(vectors, vectors)
    assert (same.cosine, same.rank, same.neighbours) == (pytest.approx(1), pytest.approx(1), 1.0)


def test_a_rotation_loses_the_cosine_but_no_rank_and_no_neighbour():
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    turned = fidelity(vectors[:, ::-1], vectors)
    assert turned.cosine < 0.5
    assert (turned.rank, turned.neighbours) == (pytest.approx(1), 1.0)


def test_unrelated_vectors_share_neighbours_by_chance_only():
    rng = np.random.default_rng(0)
    figures = fidelity(*(rng.standard_normal((200, 8)).astype(np.float32) for _ in range(2)))
    assert abs(figures.cosine) < 0.1
    assert abs(figures.rank) < 0.1
    assert figures.neighbours < 0.15


def test_the_table_shows_both_the_share_and_each_domain(world: Path):
    def swapped(texts: Sequence[str]) -> Vectors:
        return compass(texts)[:, ::-1]

    table = comparison({"student": swapped, "teacher": compass}, "teacher", world).splitlines()
    assert table[0] == "|  | student | teacher |"
    assert table[2] == "| STS-B dev, Spearman | 1.0000 | 1.0000 |"
    assert table[3] == "| share of the teacher's | 100.0% | 100.0% |"
    assert table[4].startswith("| winds: cosine / rank / neighbours | 0.250 / 1.000 / 1.000 |")
    assert table[5].startswith("| mean of the domains | 0.250")


def test_without_other_domains_the_table_ends_with_sts(world: Path):
    (world / "fidelity" / "winds.txt").unlink()
    assert len(comparison({"teacher": compass}, "teacher", world).splitlines()) == 4
