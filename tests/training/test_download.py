import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.corpus import read_lines
from training.download import CORPUS_FILE, DownloadError, fetch_corpus, fetch_glue, split_sentences
from training.glue import TASKS, read_dev, read_train

# What the hub holds: columns as its dataset card names them, labels as class numbers (STS-B: a number).
PAIR = {"sentence1": "It\trains.", "sentence2": "It is\nwet."}
HUB: dict[str, dict[str, Any]] = {
    "sst2": {"sentence": 'a "fine" film ', "label": 1},
    "cola": {"sentence": "The dog barked its way.", "label": 0},
    "mrpc": {**PAIR, "label": 1},
    "stsb": {**PAIR, "label": 3.799999952316284},
    "qqp": {"question1": "It rains.", "question2": "It is wet.", "label": 0},
    "mnli": {"premise": "It rains.", "hypothesis": "It is wet.", "label": 1},
    "qnli": {"question": "It rains.", "sentence": "It is wet.", "label": 1},
    "rte": {**PAIR, "label": 0},
    "wnli": {**PAIR, "label": 1},
}
ARTICLES = [
    "The cat sat on the mat. Dr. Smith saw it.\n\nHistory\n\nIt ran away, quickly!",
    "A dog lay under the tree.",
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Put a library in place of `datasets`; the calls that it got."""
    calls: list[tuple[str, ...]] = []

    def load_dataset(path: str, name: str, *, split: str, streaming: bool = False) -> list[dict[str, Any]]:
        calls.append((path, name, split))
        if path == "wikimedia/wikipedia":
            assert streaming
            return [{"text": article} for article in ARTICLES]
        return [HUB[name] | {"idx": row} for row in range(3 if split == "train" else 2)]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_what_is_fetched_is_what_the_readers_read(hub: list, tmp_path: Path):
    files = list(fetch_glue(tmp_path))
    assert all(file.is_file() for file in files)
    assert {file.parent.name for file in files} == {row.folder for row in TASKS.values()}
    labels = {}
    for name, row in TASKS.items():
        train, dev = read_train(row, tmp_path), read_dev(row, tmp_path)
        assert (len(train), len(dev)) == (3, 2)
        assert train.texts[0][0] in ("It rains.", 'a "fine" film', "The dog barked its way.")
        assert row.task.texts == 1 or train.texts[0][1] == "It is wet."
        labels[name] = train.labels[0]
    assert labels == {name: HUB[name.removesuffix("-mm")]["label"] for name in TASKS} | {"stsb": 3.8}


def test_mnli_has_both_its_dev_sets(hub: list, tmp_path: Path):
    list(fetch_glue(tmp_path))
    asked = {split for path, name, split in hub if name == "mnli"}
    assert asked == {"train", "validation_matched", "validation_mismatched"}


def test_files_that_are_there_are_left_alone(hub: list, tmp_path: Path):
    first = next(fetch_glue(tmp_path))
    first.write_text("sentence\tlabel\nmine\t0\n")
    hub.clear()
    list(fetch_glue(tmp_path))
    assert first.read_text() == "sentence\tlabel\nmine\t0\n"
    assert ("nyu-mll/glue", "sst2", "train") not in hub


def test_a_corpus_is_sentences_in_document_order(hub: list, tmp_path: Path):
    path = fetch_corpus(tmp_path, 3)
    assert path == tmp_path / CORPUS_FILE
    assert read_lines(path) == ["The cat sat on the mat.", "Dr. Smith saw it.", "It ran away, quickly!"]


def test_a_fetch_that_breaks_off_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def load_dataset(*_: str, **__: object) -> Any:
        yield {"text": ARTICLES[0]}
        raise ConnectionError("the line went dead\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DownloadError, match=r"from the hub \(the line went dead\): put any text of your own"):
        fetch_corpus(tmp_path, 100)
    assert not (tmp_path / CORPUS_FILE).exists()


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def load_dataset(*_: str, **__: object) -> Any:
        raise TimeoutError("timed out")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DownloadError, match=r"nyu-mll/glue .*timed out.*official files at <data>/glue"):
        list(fetch_glue(tmp_path))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DownloadError, match="pip install datasets; or put each task's official files"):
        list(fetch_glue(tmp_path))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He met J. Smith in the U.S. He left.", ["He met J. Smith in the U.S. He left."]),
        (
            'She said: "It is not so." Then she left the house.',
            ['She said: "It is not so."', "Then she left the house."],
        ),
        ("It cost 3.5 million in all. Was it worth that?", ["It cost 3.5 million in all.", "Was it worth that?"]),
        ("See also\n\nList of all the trees\n\nToo short.", []),
        ("word " * 81 + "end.", []),
    ],
)
def test_articles_are_cut_into_sentences(text: str, sentences: list[str]):
    assert split_sentences(text) == sentences
