from pathlib import Path

import numpy as np
import pytest

from training.glue import TASKS, TaskError, read_examples, score

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


def written(folder: Path, task: str, content: str | bytes) -> Path:
    file = folder / "glue" / TASKS[task].folder / "train.tsv"
    file.parent.mkdir(parents=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize("task", FORMS)
def test_each_official_form_is_read(tmp_path: Path, task: str):
    header, row, texts, label = FORMS[task]
    data = written(tmp_path, task, "\n".join(line for line in (header, row) if line) + "\n")
    examples = read_examples(TASKS[task], data, "train.tsv")
    assert examples.texts == [texts]
    assert examples.labels.tolist() == [label]


def test_only_a_line_feed_ends_a_row(tmp_path: Path):
    data = written(tmp_path, "sst2", "sentence\tlabel\r\na\u2028b\x85c\t1\r\n")
    assert read_examples(TASKS["sst2"], data, "train.tsv").texts == [("a\u2028b\x85c",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\ngood\t1\nbad\n", "row 3: 1 columns, expected 2"),
        ("sentence\tlabel\ngood\t1\nbad\tno\n", r"row 3: label 'no' is none of \['0', '1'\]"),
        ("text\tlabel\ngood\t1\n", "has no column 'sentence'"),
        ("sentence\tlabel\n", "holds no rows"),
        (b"sentence\tlabel\ncaf\xe9\t1\n", "is not UTF-8"),
    ],
)
def test_an_error_names_the_file_and_the_row(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(TaskError, match=message) as error:
        read_examples(TASKS["sst2"], written(tmp_path, "sst2", content), "train.tsv")
    assert "train.tsv" in str(error.value)


def test_a_missing_file_says_which_setting_names_its_folder(tmp_path: Path):
    with pytest.raises(TaskError, match="DATA_DIR"):
        read_examples(TASKS["sst2"], tmp_path, "train.tsv")


def test_scores_are_the_official_metrics():
    truth, scores = np.asarray([0.0, 0, 1, 1]), np.asarray([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])
    assert score(TASKS["sst2"], truth, scores) == {"accuracy": 0.75}
    assert score(TASKS["mrpc"], truth, scores)["f1"] == pytest.approx(0.8)
    assert score(TASKS["cola"], truth, scores)["matthews"] == pytest.approx(0.5774, abs=1e-4)
    values = score(TASKS["stsb"], np.asarray([1.0, 2, 3]), np.asarray([[0.1], [0.2], [0.9]]))
    assert values["spearman"] == pytest.approx(1)
    assert values["pearson"] == pytest.approx(0.9177, abs=1e-4)


def test_the_real_dev_files_have_their_official_sizes(data: Path):
    sizes = {"sst2": 872, "cola": 1043, "mrpc": 408, "stsb": 1500, "rte": 277, "wnli": 71, "qnli": 5463}
    assert {name: len(read_examples(TASKS[name], data, TASKS[name].dev).texts) for name in sizes} == sizes
