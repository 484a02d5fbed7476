import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from training.checkpoint import Run, RunError
from training.finetuning import finetune
from training.recipe import FinetuneRecipe, Optimisation, TeacherTaskRecipe
from training.settings_table import Figure, Gain, as_json, as_markdown, setting_of, settings
from training.soft_targets import Teaching
from training.start import from_scratch, load_start
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
    teaching = Teaching([load_tuned_teacher(folder / "teacher")])
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
    assert lines[0] == "| task | setting | accuracy | f1 | over the row above | seeds | runs |"
    assert lines[2].startswith("| mood | student from scratch | ")
    assert lines[2].endswith(" |  | 1 | scratch |")
    assert " ± " in lines[3]
    assert lines[3].endswith(f" | {rows[1].gain} | 1, 2 | approximated-1, approximated-2 |")
    assert lines[-1].startswith("Mean ± standard deviation over seeds. Over the row above: ")
    plain = json.loads(as_json(rows))
    assert plain[1]["figures"]["accuracy"]["mean"] == rows[1].figures["accuracy"].mean
    assert plain[0]["figures"]["accuracy"]["spread"] is None


def answering(
    folder: Path,
    name: str,
    seed: int,
    answers: np.ndarray,
    learnt: str = "films",
    dev: Examples = FILMS,
    **recipe: object,
) -> Run:
    """A finished run that answered its dev rows so."""
    run = Run(folder / name)
    plain = {"seed": seed, "from": {}, "encoder_rate": 1, "optimisation": {"epochs": 1}, **recipe}
    run.start(plain, Tokenizer(WordLevel()), [learnt])
    run.save_facts({"task": asdict(MOOD), "rows": 24})
    run.save_dev(dev.plain())
    scores = np.eye(2, dtype=np.float32)[answers]
    run.save_dev_answers(scores)
    run.log(step=1, epoch=1, **MOOD.score(dev.labels, scores))
    return run


def test_the_gain_over_the_row_above_is_paired_and_its_interval_is_of_the_rows(tmp_path: Path):
    truth = FILMS.labels.astype(int)
    better = np.where(np.arange(24) < 4, 1 - truth, truth)  # wrong on 4 rows of 24
    worse = np.where(np.arange(24) < 12, 1 - truth, truth)  # on these and 8 more
    rows = settings(
        [
            answering(tmp_path, "scratch", 1, worse, **{"from": {"scratch": "bert"}}),
            answering(tmp_path, "one", 1, better),
            answering(tmp_path, "two", 2, truth),
            answering(tmp_path, "taught", 1, truth, taught_by=[]),
        ]
    )
    assert rows[0].gain is None
    gain, last = rows[1].gain, rows[2].gain
    assert gain is not None
    assert last is not None
    assert gain.value == pytest.approx(10 / 24)  # (8 + 12) / 2 rows of 24
    resampled = [
        np.mean((np.r_[[0.5] * 4, [1] * 8, [0] * 12])[np.random.default_rng(draw).integers(0, 24, 24)])
        for draw in range(2000)
    ]
    assert (gain.low, gain.high) == pytest.approx(tuple(np.percentile(resampled, (2.5, 97.5))), abs=0.05)
    assert last.value == pytest.approx(2 / 24)
    assert last.low <= last.value <= last.high
    assert str(Gain(0.0123, -0.01, 0.03)) == "+0.0123 (-0.0100 to +0.0300)"


def test_teachers_that_read_pairs_joined_and_apart_are_two_settings():
    facts = {"role": "teacher", "task": {"texts": 2}}
    assert setting_of({}, {**facts, "apart": True}) == "fine-tuned teacher"
    assert setting_of({}, {**facts, "apart": False}) == "fine-tuned teacher, pairs joined"
    assert setting_of({}, {**facts, "task": {"texts": 1}, "apart": False}) == "fine-tuned teacher"


def test_runs_that_learnt_other_rows_are_no_seeds_of_one_setting(tmp_path: Path):
    answers = FILMS.labels.astype(int)
    one, other = answering(tmp_path, "clean", 1, answers), answering(tmp_path, "noisy", 2, 1 - answers, learnt="noise")
    assert [row.runs for row in settings([one, other])] == [("clean",), ("noisy",)]
    same = answering(tmp_path, "other", 1, 1 - answers, learnt="noise")
    assert [row.seeds for row in settings([one, same])] == [(1,), (1,)]


def test_students_from_scratch_are_seeds_of_one_setting_though_their_first_weights_differ(tmp_path: Path):
    answers, scratch = FILMS.labels.astype(int), {"from": {"scratch": "bert"}}
    runs = [answering(tmp_path, f"seed-{seed}", seed, answers, learnt=f"weights {seed}", **scratch) for seed in (1, 2)]
    assert [row.seeds for row in settings(runs)] == [(1, 2)]


def test_a_symmetric_student_from_scratch_is_no_seed_of_one_whose_order_counts(tmp_path: Path):
    answers, scratch = FILMS.labels.astype(int), {"from": {"scratch": "bert"}}
    runs = [answering(tmp_path, name, 1, answers, **scratch) for name in ("plain", "symmetric")]
    runs[1].save_facts({"task": asdict(replace(MOOD, symmetric=True)), "rows": 24})
    assert [row.runs for row in settings(runs)] == [("plain",), ("symmetric",)]


def test_a_single_dev_row_gives_no_interval(tmp_path: Path):
    row = FILMS.part(np.asarray([1]))
    runs = [answering(tmp_path, name, 1, np.asarray([1]), dev=row, of=name) for name in ("one", "two")]
    assert [found.gain for found in settings(runs)] == [None, None]


def test_runs_with_other_dev_rows_or_without_answers_are_refused(tmp_path: Path):
    answers = FILMS.labels.astype(int)
    one, two = (answering(tmp_path, f"run-{seed}", seed, answers) for seed in (1, 2))
    two.save_dev({**FILMS.plain(), "labels": (1 - FILMS.labels).tolist()})
    with pytest.raises(RunError, match=r"run-1 and .*run-2 were scored on different dev rows"):
        settings([one, two])
    (one.folder / "dev_answers.npy").unlink()
    with pytest.raises(RunError, match=r"dev_answers.npy cannot be read .* given again, writes it"):
        settings([one])


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
