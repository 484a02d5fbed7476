import json
from pathlib import Path

import numpy as np
import pytest

from training.checkpoint import Run, RunError
from training.finetuning import finetune, from_scratch, load_start
from training.recipe import FinetuneRecipe, Optimisation, TeacherTaskRecipe
from training.settings_table import Figure, as_json, as_markdown, settings
from training.soft_targets import Teaching
from training.task import Examples, Task
from training.teacher import load_teacher
from training.tuned_teacher import finetune_teacher, load_tuned_teacher

MOOD = Task("mood", 1, ("bad", "good"), ("accuracy", "f1"))
FILMS = Examples([(f"the film {'not ' * (n % 3)}{MOOD.labels[n % 2]}",) for n in range(24)], np.arange(24.0) % 2)
HOW = Optimisation(epochs=1, learning_rate=1e-2, batch_rows=8)


@pytest.fixture(scope="module")
def runs(small_bert: Path, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in each setting, two seeds of one."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = TeacherTaskRecipe("mood", HOW, precision="float32")
    finetune_teacher(recipe, MOOD, FILMS, FILMS, load_teacher(str(small_bert)), Run(folder / "teacher"))
    teaching = Teaching(load_tuned_teacher(folder / "teacher"))
    for name, seed, rate, scratch, taught in (
        ("approximated-1", 1, 1.0, False, None),
        ("approximated-2", 2, 1.0, False, None),
        ("frozen", 1, 0.0, False, None),
        ("taught", 1, 1.0, False, teaching),
        ("scratch", 1, 1.0, True, None),
    ):
        start = load_start(small_student)
        finetune(
            FinetuneRecipe("mood", HOW, encoder_rate=rate, seed=seed, precision="float32"),
            MOOD,
            FILMS,
            FILMS,
            from_scratch(start, seed) if scratch else start,
            Run(folder / name),
            teaching=taught,
        )
    return folder


def test_each_setting_is_a_row_in_the_papers_order_and_seeds_are_folded(runs: Path):
    rows = settings([Run(folder) for folder in sorted(runs.iterdir())])
    assert [(row.setting, row.seeds) for row in rows] == [
        ("student from scratch", (1,)),
        ("student + approximation, head alone", (1,)),
        ("student + approximation", (1, 2)),
        ("student + approximation + task distillation", (1,)),
        ("fine-tuned teacher", (1,)),
    ]
    both = [Run(runs / f"approximated-{seed}").final_figures()["accuracy"] for seed in (1, 2)]
    found = rows[2].figures["accuracy"]
    assert found.mean == pytest.approx(np.mean(both))
    assert found.spread == pytest.approx(np.std(both, ddof=1))


def test_the_table_is_written_as_markdown_and_as_json(runs: Path):
    rows = settings([Run(runs / name) for name in ("approximated-2", "scratch", "approximated-1")])
    lines = as_markdown(rows).splitlines()
    assert lines[0] == "| task | setting | accuracy | f1 | seeds | runs |"
    assert lines[2].startswith("| mood | student from scratch | ")
    assert " ± " in lines[3]
    assert lines[3].endswith(" | 1, 2 | approximated-1, approximated-2 |")
    assert lines[-1] == "Mean ± standard deviation over seeds."
    plain = json.loads(as_json(rows))
    assert plain[1]["figures"]["accuracy"]["mean"] == rows[1].figures["accuracy"].mean
    assert plain[0]["figures"]["accuracy"]["spread"] is None


def test_a_single_seed_has_no_spread():
    assert str(Figure(0.5, None)) == "0.5000"
    assert str(Figure(0.5, 0.01)) == "0.5000 ± 0.0100"


def test_what_cannot_be_compared_is_refused(runs: Path, small_student: Path, tmp_path: Path):
    with pytest.raises(RunError, match="holds an encoder; only runs of tasks are compared"):
        settings([Run(small_student)])
    with pytest.raises(RunError, match="one and the same, the seed included"):
        settings([Run(runs / "taught"), Run(runs / "taught")])
    with pytest.raises(RunError, match="no complete run"):
        settings([Run(tmp_path)])


def test_a_student_from_scratch_has_the_shape_and_nothing_of_the_weights(small_student: Path):
    start = load_start(small_student)
    fresh = from_scratch(start, seed=1)
    weights, others = start.student.state_dict(), fresh.student.state_dict()
    assert {name: weight.shape for name, weight in weights.items()} == {n: w.shape for n, w in others.items()}
    assert not np.allclose(weights["lstm.weight_hh_l0"], others["lstm.weight_hh_l0"])
    again, other = from_scratch(start, seed=1).student.state_dict(), from_scratch(start, seed=2).student.state_dict()
    assert np.array_equal(others["lstm.weight_hh_l0"], again["lstm.weight_hh_l0"])
    assert not np.array_equal(others["lstm.weight_hh_l0"], other["lstm.weight_hh_l0"])
    assert np.array_equal(others["embedding.weight"], other["embedding.weight"])
