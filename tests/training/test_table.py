from pathlib import Path

import pytest

from training.table import Columns, find_classes, read_table, read_task
from training.task import TaskError

MOOD = Columns(("text",), "mood")
CLASSES = ("bad", "good")


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\ttext\tmood\n1\tso, so\tgood\n2\tno\tbad\n"),
        ("a.csv", 'text,mood\n"so, so",good\nno,bad\n'),
        ("a.csv", '\ufefftext,mood\r\n"so, so",good\r\nno,bad\r\n'),
        ("a.jsonl", '{"text": "so, so", "mood": "good"}\n\n{"mood": "bad", "text": "no"}\n'),
    ],
)
def test_tsv_csv_and_json_lines_read_alike(tmp_path: Path, name: str, content: str):
    examples = read_table(written(tmp_path, name, content), MOOD, CLASSES)
    assert examples.texts == [("so, so",), ("no",)]
    assert examples.labels.tolist() == [1, 0]


def test_a_label_is_one_class_however_its_accents_are_encoded(tmp_path: Path):
    file = written(tmp_path, "a.csv", "text,mood\nno,caf\u00e9\nso,cafe\u0301\nyes,tea\n")
    assert find_classes(file, MOOD) == ("caf\u00e9", "tea")
    assert read_table(file, MOOD, ("caf\u00e9", "tea")).labels.tolist() == [0, 0, 1]


def test_a_table_of_ones_own_that_is_missing_is_not_looked_for_among_those_of_glue(tmp_path: Path):
    with pytest.raises(TaskError, match=r"my\.csv is missing$"):
        find_classes(tmp_path / "my.csv", MOOD)


def test_in_a_tsv_quotes_are_literal_and_only_a_line_feed_ends_a_row(tmp_path: Path):
    file = written(tmp_path, "a.tsv", 'text\tmood\r\n"a\u2028b\x85c\tgood\r\n')
    assert read_table(file, MOOD, CLASSES).texts == [('"a\u2028b\x85c',)]


def test_in_a_csv_a_quoted_text_may_span_lines(tmp_path: Path):
    file = written(tmp_path, "a.csv", 'text,mood\n"one\ntwo",good\n')
    assert read_table(file, MOOD, CLASSES).texts == [("one\ntwo",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tmood\nyes\tgood\nno\n", "line 3: 1 columns, expected 2"),
        ("a.tsv", "text\tmood\nyes\tgood\nno\tmeh\n", r"line 3: label 'meh' is none of \['bad', 'good'\]"),
        ("a.tsv", "text\tmood\nyes\tgood\n \tbad\n", "line 3: column 'text' is empty"),
        ("a.tsv", "text\tmood\nyes\tgood\nno\t \n", "line 3: column 'mood' is empty"),
        ("a.csv", "text,mood\nyes,good\nno,\n", "line 3: column 'mood' is empty"),
        ("a.jsonl", '{"text": null, "mood": "good"}\n', "line 1: column 'text' is empty"),
        ("a.jsonl", '{"text": NaN, "mood": "good"}\n', "line 1: column 'text' is empty"),
        ("a.jsonl", '{"text": "yes", "mood": null}\n', "line 1: column 'mood' is empty"),
        ("a.tsv", "text\tlabel\nyes\tgood\n", "no column 'mood'; there are"),
        ("a.tsv", "text\tmood\n", "holds no rows"),
        ("a.tsv", b"text\tmood\nyes\tgood\ncaf\xe9\tbad\n", "line 3 is not UTF-8"),
        ("a.jsonl", '{"text": "yes", "mood": "good"}\nno\n', "line 2 is not JSON"),
        ("a.jsonl", '["yes", "good"]\n', "line 1: expected an object"),
        ("a.csv", "text,mood\nyes,good\nn\ro,bad\n", "line 3 is not CSV, .*a carriage return alone"),
        ("a.csv", "text,mood\ryes,good\rno,bad\r", "line 1 is not CSV, .*a carriage return alone"),
        ("a.csv", f"text,mood\nyes,good\n{'no' * 70_000},bad\n", "line 3 is not CSV, .*131072"),
        ("a.tsv", "text\tmood\ryes\tgood\rno\tbad\r", "no column 'mood'; there are"),
        (
            "a.jsonl",
            '{"text": "\\ud83d\\ude00", "mood": "good"}\n{"text": "\\ud83d"}\n',
            "line 2: .*half of a character",
        ),
        ("a.txt", "yes good\n", "ends in .tsv, .csv, .jsonl"),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path: Path, name: str, content: str | bytes, message: str):
    with pytest.raises(TaskError, match=message) as error:
        read_table(written(tmp_path, name, content), MOOD, CLASSES)
    assert name in str(error.value)


@pytest.mark.parametrize(("value", "message"), [("much", "none of the numbers"), ("nan", "no finite number")])
def test_a_regression_wants_finite_numbers(tmp_path: Path, value: str, message: str):
    file = written(tmp_path, "a.tsv", f"text\tmood\nyes\t1.5\nno\t{value}\n")
    with pytest.raises(TaskError, match=f"line 3: label '{value}' is {message}"):
        read_table(file, MOOD, ())


def test_a_folder_is_no_table(tmp_path: Path):
    (tmp_path / "a.tsv").mkdir()
    with pytest.raises(TaskError, match=r"a.tsv cannot be read: Is a directory"):
        read_table(tmp_path / "a.tsv", MOOD, CLASSES)


def test_classes_are_found_and_one_alone_is_refused(tmp_path: Path):
    assert find_classes(written(tmp_path, "a.tsv", "text\tmood\na\tgood\nb\tbad\nc\tgood\n"), MOOD) == CLASSES
    with pytest.raises(TaskError, match="at least two labels"):
        find_classes(written(tmp_path, "b.tsv", "text\tmood\na\tgood\nb\tgood\n"), MOOD)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\tmood\na\tgood\nb\t\nc\tbad\n"),
        ("a.csv", "text,mood\na,good\nb,\nc,bad\n"),
        ("a.jsonl", '{"text": "a", "mood": "good"}\n\n{"text": "b", "mood": null}\n'),
    ],
)
def test_a_missing_label_is_no_class(tmp_path: Path, name: str, content: str):
    with pytest.raises(TaskError, match=f"{name}, line 3: column 'mood' is empty"):
        find_classes(written(tmp_path, name, content), MOOD)


def test_without_dev_rows_a_tenth_is_set_aside(tmp_path: Path):
    rows = "\n".join(f"text {n}\t{CLASSES[n % 2]}" for n in range(60))
    file = written(tmp_path, "a.tsv", f"text\tmood\n{rows}\n")
    task, train, dev = read_task("mood", file, None, MOOD, seed=1, regression=False)
    assert (task.texts, task.labels, task.metrics) == (1, CLASSES, ("accuracy", "macro_f1"))
    assert (len(train), len(dev)) == (54, 6)
    assert not set(train.texts) & set(dev.texts)
    assert read_task("mood", file, file, MOOD, seed=1, regression=False)[2].texts[0] == ("text 0",)


def test_equal_texts_are_set_aside_together(tmp_path: Path):
    rows = "\n".join(f"text {n % 40}\t{CLASSES[n % 2]}" for n in range(200))
    file = written(tmp_path, "a.tsv", f"text\tmood\n{rows}\n")
    _, train, dev = read_task("mood", file, None, MOOD, seed=1, regression=False)
    assert (len(train), len(dev)) == (180, 20)
    assert not set(train.texts) & set(dev.texts)


def test_both_orders_of_a_pair_are_set_aside_together_where_they_mean_the_same(tmp_path: Path):
    pairs = [(f"text {n}", f"other {n}", str(n % 2)) for n in range(40)]
    turned = [(second, first, label) for first, second, label in pairs]
    (tmp_path / "t.tsv").write_text("a\tb\tlabel\n" + "".join("\t".join(row) + "\n" for row in pairs + turned))
    columns = Columns(("a", "b"), "label")
    _, train, dev = read_task("t", tmp_path / "t.tsv", None, columns, seed=1, regression=False, symmetric=True)
    assert len(dev) == 8
    assert {frozenset(texts) for texts in train.texts}.isdisjoint(frozenset(texts) for texts in dev.texts)


def test_no_class_is_set_aside_whole(tmp_path: Path):
    rows = "\n".join(f"text {n}\t{n if n < 3 else CLASSES[n % 2]}" for n in range(30))
    file = written(tmp_path, "a.tsv", f"text\tmood\n{rows}\n")
    for seed in range(10):
        task, train, dev = read_task("mood", file, None, MOOD, seed, regression=False)
        assert {task.labels[int(label)] for label in train.labels} == {"0", "1", "2", *CLASSES}
        assert (len(train) + len(dev), set(dev.labels) <= {3, 4}) == (30, True)


@pytest.mark.parametrize("name", ["Mood", "my mood", "../mood", ""])
def test_a_name_that_no_route_can_have_is_refused_before_anything_is_read(tmp_path: Path, name: str):
    with pytest.raises(TaskError, match="task name"):
        read_task(name, tmp_path / "none.tsv", None, MOOD, seed=1, regression=False)


def test_too_few_rows_to_set_any_aside_ask_for_a_file(tmp_path: Path):
    few = "a\tgood\nb\tbad\n"
    each_of_its_class = "".join(f"text {n}\tclass {n}\n" for n in range(30))
    for rows, number in ((few, 2), (few * 30, 2), (each_of_its_class, 30)):
        file = written(tmp_path, "a.tsv", f"text\tmood\n{rows}")
        with pytest.raises(TaskError, match=f"has {number} rows of different texts, .* --dev"):
            read_task("mood", file, None, MOOD, seed=1, regression=False)
