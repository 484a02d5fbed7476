from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training.encoding import Vectors
from training.evaluation import comparison, domain_cosines, sts_spearman

VECTORS = {"north": [0.0, 1.0], "north-east": [1.0, 1.0], "east": [1.0, 0.0], "south": [0.0, -1.0]}


def compass(texts: Sequence[str]) -> Vectors:
    return np.asarray([VECTORS[text] for text in texts], dtype=np.float32)


def always_north(texts: Sequence[str]) -> Vectors:
    return compass(["north"] * len(texts))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    task = tmp_path / "glue" / "STS-B"
    task.mkdir(parents=True)
    rows = ["north\tnorth\t5.0", "north\tnorth-east\t4.0", "north\teast\t2.0", "north\tsouth\t0.0"]
    (task / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    (tmp_path / "fidelity").mkdir()
    (tmp_path / "fidelity" / "winds.txt").write_text("north\neast\n")
    return tmp_path


def test_sts_is_the_rank_correlation_of_cosines(world: Path):
    assert sts_spearman(compass, world) == pytest.approx(1)


def test_fidelity_is_the_mean_cosine_per_domain(world: Path):
    assert domain_cosines(always_north, compass, world) == {"winds": pytest.approx(0.5)}


def test_the_table_shows_both_and_the_share(world: Path):
    table = comparison({"student": compass, "teacher": compass}, "teacher", world).splitlines()
    assert table[0] == "|  | student | teacher |"
    assert table[2] == "| STS-B dev Spearman | 1.0000 | 1.0000 |"
    assert "| cosine to teacher, winds | 1.0000 | 1.0000 |" in table
    assert table[-1] == "| share of the teacher's Spearman | 100.0% | 100.0% |"
