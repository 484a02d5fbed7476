from pathlib import Path

import numpy as np
import pytest

from training.glue import TASKS, read_dev, read_train
from training.task import TaskError

# One header and one row of each official train file's form; None where the file has no header.
PAIR = ("It rains.", "It is wet.")
FORMS = {
    "sst2": ("sentence\tlabel", "a fine film \t1", ("a fine film",), 1),
    "cola": (None, "gj04\t0\t*\tThe dog barked its way.", ("The dog barked its way.",), 0),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t1\t2\t"He did.\tHe did.', ('"He did.', "He did."), 1),
    "stsb": ("index\tgenre\tsentence1\tsentence2\tscore", "0\tnews\tIt rains.\tIt is wet.\t2.500", PAIR, 2.5),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tIt rains.\tIt is wet.\t0", PAIR, 0),
    "mnli": ("index\tsentence1\tsentence2\tlabel1\tgold_label", "0\tIt rains.\tIt is wet.\tx\tneutral", PAIR, 1),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tIt rains.\tIt is wet.\tnot_entailment", PAIR, 1),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tIt is wet.\tentailment", PAIR, 0),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tIt is wet.\t1", PAIR, 1),
}


def written(data: Path, task: str, file: str, *lines: str | None) -> Path:
    path = data / "glue" / TASKS[task].folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line for line in lines if line) + "\n")
    return data


@pytest.mark.parametrize("task", FORMS)
def test_each_official_form_is_read(tmp_path: Path, task: str):
    header, row, texts, label = FORMS[task]
    examples = read_train(TASKS[task], written(tmp_path, task, "train.tsv", header, row))
    assert examples.texts == [texts]
    assert examples.labels.tolist() == [label]


def test_a_missing_file_says_which_setting_names_its_folder(tmp_path: Path):
    with pytest.raises(TaskError, match=r"train.tsv is missing; DATA_DIR"):
        read_train(TASKS["rte"], tmp_path)


def test_mnli_has_a_dev_set_that_matches_and_one_that_does_not(tmp_path: Path):
    header, row, *_ = FORMS["mnli"]
    written(tmp_path, "mnli", "dev_matched.tsv", header, row)
    written(tmp_path, "mnli-mm", "dev_mismatched.tsv", header, row, row)
    assert len(read_dev(TASKS["mnli"], tmp_path)) == 1
    assert len(read_dev(TASKS["mnli-mm"], tmp_path)) == 2


def test_both_dev_sets_of_mnli_are_scored_with_its_three_labels(tmp_path: Path):
    labels = ("entailment", "neutral", "contradiction", "neutral")
    for task in ("mnli", "mnli-mm"):
        lines = [f"{number}\tIt rains.\tIt is wet.\tx\t{label}" for number, label in enumerate(labels)]
        data = written(tmp_path, task, TASKS[task].dev, FORMS["mnli"][0], *lines)
        dev = read_dev(TASKS[task], data)
        assert dev.labels.tolist() == [0, 1, 2, 1]
        always_neutral = np.tile([0.0, 1.0, 0.0], (4, 1))
        assert TASKS[task].task.score(dev.labels, always_neutral) == {"accuracy": 0.5}


def test_the_order_of_a_pair_means_nothing_where_its_texts_are_told_alike():
    assert {name for name, row in TASKS.items() if row.task.symmetric} == {"mrpc", "qqp", "stsb"}


@pytest.mark.parametrize("task", FORMS)
def test_each_task_is_scored_by_its_official_metrics(task: str):
    official = {"cola": ("matthews",), "mrpc": ("f1", "accuracy"), "qqp": ("f1", "accuracy")}
    official["stsb"] = ("spearman", "pearson")
    assert TASKS[task].task.metrics == official.get(task, ("accuracy",))


def test_an_unknown_label_names_its_line(tmp_path: Path):
    data = written(tmp_path, "mnli", "train.tsv", FORMS["mnli"][0], FORMS["mnli"][1], "1\tIt rains.\tWet.\tx\t-")
    with pytest.raises(TaskError, match="line 3: label '-' is none of"):
        read_train(TASKS["mnli"], data)


def test_the_broken_rows_of_qqp_are_passed_over(tmp_path: Path):
    header, row, *_ = FORMS["qqp"]
    data = written(tmp_path, "qqp", "train.tsv", header, row, "2\t3\t4\tWhy", "3\t4\t5\tWhy?\t\t1")
    assert read_train(TASKS["qqp"], data).texts == [PAIR, ("Why?", "")]


def test_the_real_files_have_their_official_sizes(data: Path):
    dev = {"sst2": 872, "cola": 1043, "mrpc": 408, "stsb": 1500, "rte": 277, "wnli": 71, "qnli": 5463}
    train = {"sst2": 67349, "cola": 8551, "mrpc": 3668, "stsb": 5749, "rte": 2490, "wnli": 635}
    assert {name: len(read_dev(TASKS[name], data)) for name in dev} == dev
    assert {name: len(read_train(TASKS[name], data)) for name in train} == train
