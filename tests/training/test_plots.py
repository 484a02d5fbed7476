from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from training import plots as module
from training.evaluation import Evaluation
from training.measures import LENGTH, Row
from training.plots import fidelity_by_length, learning_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[module.Figure]:
    """Every figure that is drawn, kept so that a test can ask what is on it."""
    figures: list[module.Figure] = []

    class Kept(module.Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            figures.append(self)

    monkeypatch.setattr(module, "Figure", Kept)
    return figures


def is_png_with_ink(file: Path) -> bool:
    return bool(np.ptp(image.imread(file)) > 0)


def test_learning_curves_show_loss_and_score_by_step(tmp_path: Path, drawn: list[module.Figure]):
    lines = [{"step": step, "loss": 1 / step, "rate": 0.1, "seconds": 1.0} for step in (50, 100, 150, 200)]
    lines.insert(2, {"step": 100, "epoch": 1, "held_out_cosine": 0.7})
    learning_curves({"student": [*lines, {"step": 200, "epoch": 2, "held_out_cosine": 0.8}]}, tmp_path / "curves.png")
    assert is_png_with_ink(tmp_path / "curves.png")
    loss, score = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[step, 1 / step] for step in (50, 100, 150, 200)]
    assert score.lines[0].get_xydata().tolist() == [[100, 0.7], [200, 0.8]]
    assert score.get_xlabel() == "optimiser step"
    assert loss.get_ylabel()
    assert score.get_legend().get_texts()[0].get_text() == "student, held out cosine"


def test_a_run_that_has_not_ended_an_epoch_is_drawn_all_the_same(tmp_path: Path):
    runs = {"one": [{"step": 50, "loss": 1.0}], "two": []}
    learning_curves(runs, tmp_path / "curves.png")
    assert is_png_with_ink(tmp_path / "curves.png")


def test_fidelity_by_length_shows_students_in_the_teachers_space_and_counts(tmp_path: Path, drawn: list[module.Figure]):
    rows = (Row(LENGTH, "1-4", 30), Row(LENGTH, "5-8", 1200))
    figures = (((1.0,), (0.8,), (0.79,), ()), ((1.0,), (0.9,), (0.88,), ()))
    columns = ("teacher float32", "student float32", "student int8", "static, PCA")
    fidelity_by_length(Evaluation(columns, rows, figures), tmp_path / "length.png")
    assert is_png_with_ink(tmp_path / "length.png")
    cosine, count = drawn[0].axes
    assert [line.get_label() for line in cosine.lines] == ["student float32", "student int8"]
    assert cosine.lines[1].get_ydata() == pytest.approx([0.79, 0.88])
    assert [text.get_text() for text in count.texts] == ["30", "1,200"]
    assert [tick.get_text() for tick in count.get_xticklabels()] == ["1-4", "5-8"]
    assert "tokens" in count.get_xlabel()
