import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from training.__main__ import RECIPES, main, parser
from training.checkpoint import Run

FROM_GLUE = "is read from GLUE's own files, and its labels are GLUE's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill", "--recipe", "none.toml"], "error: cannot read the recipe none.toml"),
        (["distill", "--from", "none"], "error: none holds no complete run: facts.json"),
        (["distill", "--data", "nowhere"], "error: nowhere/corpus/wiki_core.txt.xz is missing: DATA_DIR"),
        (["finetune", "--task", "sst2", "--data", "nowhere"], "error: nowhere/glue/SST-2/train.tsv is missing"),
        (["finetune", "--task", "mine"], "error: 'mine' is no task of GLUE"),
        (["finetune", "--task", "mine", "--train", "a.tsv"], "error: --train needs --text COLUMN"),
        (["finetune", "--task", "mine", "--train", "a.tsv", "--text", "t"], "error: a.tsv is missing"),
        (["finetune", "--task", "sst2", "--recipe", "none.toml"], "error: cannot read the recipe none.toml"),
        (["finetune", "--task", "sst2", "--frozen", "--scratch"], "error: --frozen keeps an encoder as it was trained"),
        (["finetune", "--task", "sst2", "--transfer-rows", "5"], "error: --transfer-text and --transfer-rows say how"),
        (["finetune", "--task", "sst2", "--transfer", "a.txt"], "error: --transfer names rows without labels"),
        (["finetune", "--task", "sst2", "--augment", "2"], "error: --augment varies rows beyond what their labels say"),
        (
            ["finetune", "--task", "sst2", "--dev", "a.tsv"],
            f"error: sst2 {FROM_GLUE}: leave out --dev, or give a table",
        ),
        (
            ["finetune", "--task", "mnli", "--train", "a.tsv", "--text", "t"],
            f"error: mnli {FROM_GLUE}: leave out --train and --text, or give a table of your own another name",
        ),
        (
            ["finetune-teacher", "--task", "sst2", "--text", "t", "--label", "l"],
            f"error: sst2 {FROM_GLUE}: leave out --t",
        ),
        (["finetune-teacher", "--task", "sst2", "--regression"], f"error: sst2 {FROM_GLUE}: leave out --regression"),
        (["finetune-teacher", "--task", "sst2", "--data", "nowhere"], "error: nowhere/glue/SST-2/train.tsv is missing"),
        (["finetune-teacher", "--task", "sst2", "--recipe", "none.toml"], "error: cannot read the recipe none.toml"),
        (["finetune", "--task", "mrpc", "--symmetric"], f"error: mrpc {FROM_GLUE}: leave out --symmetric"),
        (
            ["finetune", "--task", "mine", "--train", "a.tsv", "--text", "t", "--symmetric"],
            "error: --symmetric is for pairs, whose texts may change places: give --text twice",
        ),
        (["compare", "nowhere"], "error: nowhere holds no complete run"),
        (["evaluate", "--run", "nowhere"], "error: nowhere holds no complete run"),
        (["evaluate", "--bundle", "nowhere"], "error: nowhere is no bundle"),
        (["evaluate", "--teacher", "./nowhere"], "error: models/student is no bundle"),
        (["data", "glue"], "error: fetching data needs another package: pip install datasets"),
        (["data", "corpus"], "error: fetching data needs another package: pip install datasets"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    "option",
    [["--seed", "-1"], ["--threads", "0"], ["--augment", "0"], ["--transfer-rows", "some"], ["--seed", "9" * 30]],
)
def test_a_number_out_of_range_is_refused_with_its_option(option: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", "--task", "sst2", *option])
    assert f"argument {option[0]}: '{option[1]}' is no whole number from " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("finetune --task a", "--teacher"),
        ("finetune --task a", "--transfer"),
        ("evaluate", "--run"),
        ("evaluate", "--bundle"),
    ],
)
def test_an_option_of_several_values_may_be_given_several_times(command: str, name: str):
    options = parser().parse_args([*command.split(), name, "a", "b", name, "c"])
    assert getattr(options, name[2:]) == [Path("a"), Path("b"), Path("c")]


def test_help_names_the_commands(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in ("distill", "finetune", "finetune-teacher", "compare", "evaluate"):
        assert command in shown.split()


def test_a_stopped_run_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.distillation.distil", stop)
    assert main(["distill"]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.distillation.distil", fill)
    assert main(["distill"]) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


def test_a_table_of_ones_own_becomes_a_task(small_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    rows = [f"film {n}: {'good' if n % 2 else 'bad'}\t{'up' if n % 2 else 'down'}" for n in range(40)]
    (tmp_path / "my.tsv").write_text("\n".join(["review\tthumb", *rows]) + "\n")
    table = ["--train", str(tmp_path / "my.tsv"), "--text", "review", "--label", "thumb"]
    run = ["finetune", "--task", "thumbs", "--frozen", "--from", str(small_student), *table, "--into"]
    assert main([*run, str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "accuracy: 1.0000" in shown.out
    assert "warning" not in shown.err
    (tmp_path / "dev.tsv").write_text("\n".join(["review\tthumb", *rows[:3], "a good film\tup"]) + "\n")
    assert main([*run, str(tmp_path / "scored"), "--dev", str(tmp_path / "dev.tsv")]) == 0
    assert "warning: 3 of 4 rows of " in capsys.readouterr().err


def test_numbers_that_are_taken_for_classes_are_warned_of(
    small_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    for name, end in (("stars", ""), ("grades", ".5"), ("versions", ".5b")):
        rows = "".join(f"film {n}\t{n % 4}{end}\n" for n in range(40))
        (tmp_path / "my.tsv").write_text(f"text\tlabel\n{rows}")
        table = ["--train", str(tmp_path / "my.tsv"), "--text", "text", "--from", str(small_student)]
        assert main(["finetune", "--task", name, "--frozen", *table, "--into", str(tmp_path / name)]) == 0
        told = "warning: the 4 labels of " in capsys.readouterr().err
        assert told == (name == "grades")


def test_a_student_whose_training_goes_on_is_taken_with_a_warning(
    small_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "my.tsv").write_text("text\tlabel\n" + "".join(f"film {n}\t{n % 2}\n" for n in range(40)))
    shutil.copytree(small_student, early := tmp_path / "early")
    recipe = json.loads((early / "recipe.json").read_bytes())
    recipe["optimisation"]["epochs"] += 2
    (early / "recipe.json").write_text(json.dumps(recipe))
    table = ["--train", str(tmp_path / "my.tsv"), "--text", "text", "--from", str(early)]
    assert main(["finetune", "--task", "film", "--frozen", *table, "--into", str(tmp_path / "run")]) == 0
    epochs = recipe["optimisation"]["epochs"]
    assert f"warning: {early} is not finished: {epochs - 2} of {epochs} epochs; its" in capsys.readouterr().err


def test_rows_of_ones_own_may_be_pairs_whose_order_means_nothing(
    small_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    pairs = [(f"film {n}", f"cat {n}", "yes" if n % 2 else "no") for n in range(40)]
    turned = [(second, first, label) for first, second, label in pairs[:5]]
    for name, rows in (("train", pairs), ("dev", turned)):
        (tmp_path / f"{name}.tsv").write_text("".join("\t".join(row) + "\n" for row in [("a", "b", "label"), *rows]))
    files = ["--train", str(tmp_path / "train.tsv"), "--dev", str(tmp_path / "dev.tsv"), "--text", "a", "--text", "b"]
    made = ["finetune", "--task", "same", "--frozen", "--from", str(small_student), *files]
    assert main([*made, "--into", str(tmp_path / "plain")]) == 0
    assert "rows of" not in capsys.readouterr().err
    assert main([*made, "--symmetric", "--into", str(tmp_path / "symmetric")]) == 0
    assert "warning: 5 of 5 rows of " in capsys.readouterr().err
    width = Run(tmp_path / "plain").facts()["width"]
    shapes = [Run(tmp_path / name).weights()["head.output.weight"].shape for name in ("plain", "symmetric")]
    assert shapes == [(2, 4 * width), (2, 3 * width)]


def test_a_teacher_that_reads_pairs_in_their_order_is_not_called_symmetric(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    joined = (RECIPES / "task-teacher.toml").read_text().replace('pairs = "apart"', 'pairs = "joined"')
    (tmp_path / "joined.toml").write_text(joined)
    table = ["--train", "a.tsv", "--text", "a", "--text", "b", "--symmetric", "--recipe", str(tmp_path / "joined.toml")]
    assert main(["finetune-teacher", "--task", "same", *table]) == 2
    assert capsys.readouterr().err.startswith('error: pairs = "joined" reads the texts of a pair in their order')


@pytest.mark.parametrize("name", ["snips", "student"])
def test_a_table_of_ones_own_gets_neither_recipe_nor_licence_of_another_task_by_its_name(
    name: str, small_student: Path, tmp_path: Path
):
    rows = "".join(f"film {n}: {'good' if n % 2 else 'bad'}\t{n % 2}\n" for n in range(40))
    (tmp_path / "my.tsv").write_text(f"text\tlabel\n{rows}")
    table = ["--train", str(tmp_path / "my.tsv"), "--text", "text", "--from", str(small_student)]
    assert main(["finetune", "--task", name, "--frozen", *table, "--into", str(tmp_path / "run")]) == 0
    recipe = Run(tmp_path / "run").recipe()
    assert (recipe["name"], recipe["licence"]) == ("task", None)


def test_a_fine_tuned_teacher_answers_variants_of_the_training_rows(
    small_bert: Path, small_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rows = "\n".join(f"film {n}: {'not ' * (n % 3)}{'good' if n % 2 else 'bad'}\t{n % 2}" for n in range(40))
    (tmp_path / "my.tsv").write_text(f"review\tthumb\n{rows}\n")
    table = ["--task", "thumbs", "--train", str(tmp_path / "my.tsv"), "--text", "review", "--label", "thumb"]
    teacher, runs = str(tmp_path / "teacher"), [tmp_path / seed for seed in "12"]
    assert main(["finetune-teacher", *table, "--teacher", str(small_bert), "--into", teacher]) == 0
    taught = ["finetune", *table, "--from", str(small_student), "--teacher", teacher, "--augment"]
    for run in runs:
        assert main([*taught, "3", "--seed", run.name, "--into", str(run)]) == 0
        answers = Run(run).soft_targets()
        assert answers is not None
        assert 36 < len(answers[1]) <= 36 * (1 + 3)  # four of the forty rows are set aside
        assert (Run(run).recipe()["variants_per_row"], Run(run).recipe()["transfer_rows"]) == (3, 0)
    capsys.readouterr()
    assert main(["compare", *map(str, runs)]) == 0
    assert "| student + approximation + task distillation | " in (shown := capsys.readouterr().out)
    assert "| 1, 2 | 1, 2 |" in shown


def test_evaluate_writes_tables_and_plots(
    small_bert: Path, small_student: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folders = ["--data", str(corpus), "--cache", str(tmp_path / "cache"), "--into", str(tmp_path / "report")]
    assert main(["evaluate", "--run", str(small_student), "--teacher", str(small_bert), "--seeds", "1", *folders]) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "report" / "evaluation.md").read_text() == shown
    held_out = len(Run(small_student).dev()["texts"])
    assert f"| held-out rows of the corpus ({held_out} texts) | 1.0000 | 0." in shown
    found = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert {"teacher float32", "student float32"} == set(found["rows"][0]["figures"])
    encoded = [json.loads(line)["work"] for line in (tmp_path / "report" / "progress.jsonl").read_text().splitlines()]
    assert encoded == ["teacher float32", "student float32"]
    for name in ("learning-curves.png", "fidelity-by-length.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_without_texts_to_measure_fidelity_on_there_is_no_plot_of_it(
    small_student: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (corpus / "corpus" / "lines.txt.xz").unlink()
    folders = ["--data", str(corpus), "--cache", str(tmp_path / "cache"), "--into", str(tmp_path / "report")]
    assert main(["evaluate", "--run", str(small_student), "--seeds", "1", *folders]) == 0
    assert "- held-out rows of the corpus: " in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "report").glob("*.png")} == {"learning-curves.png"}


def test_nothing_to_measure_is_one_line(
    small_bert: Path, small_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    nowhere = ["--data", str(tmp_path / "none"), "--cache", str(tmp_path)]
    assert main(["evaluate", "--run", str(small_student), "--teacher", str(small_bert), *nowhere]) == 2
    assert capsys.readouterr().err.startswith("error: there is nothing to measure: STS-B dev: ")


def test_data_names_each_file_that_it_wrote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("training.__main__.fetch_glue", lambda data: iter([data / "glue" / "CoLA" / "train.tsv"]))
    assert main(["data", "glue", "--data", "here"]) == 0
    assert capsys.readouterr().out == "here/glue/CoLA/train.tsv\n"
