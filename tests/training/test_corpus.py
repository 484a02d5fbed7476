import gzip
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

from training.corpus import CorpusError, read_corpus, read_lines, sample_texts
from training.recipe import Corpus, Measured, Source

LINES = [f"line {number}" for number in range(100)]


@pytest.mark.parametrize(("name", "opener"), [("a.txt", open), ("a.txt.gz", gzip.open), ("a.txt.xz", lzma.open)])
def test_plain_gzip_and_xz_read_alike(tmp_path: Path, name: str, opener):
    with opener(tmp_path / name, "wt") as file:
        file.write("one\n\n  two \nthree")
    assert read_lines(tmp_path / name) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,text\n1,"one, two"\n2,\n3,three\n'),
        ("a.tsv", 'id\ttext\n1\tone, two\n3\t"three\n'.replace('"', "")),
        ("a.jsonl", '{"text": "one, two"}\n\n{"text": null}\n{"text": NaN}\n{"text": "three", "id": 3}\n'),
    ],
)
def test_a_column_of_a_table_reads_like_lines(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    with gzip.open(tmp_path / f"{name}.gz", "wt") as file:
        file.write(content)
    assert read_lines(tmp_path / name, "text") == read_lines(tmp_path / f"{name}.gz", "text") == ["one, two", "three"]


def test_a_column_of_a_parquet_file_reads_like_lines(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"text": ["one, two", None, "three"], "id": [1, 2, 3]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert read_lines(tmp_path / "a.parquet", "text") == ["one, two", "three"]
    with pytest.raises(CorpusError, match="no column 'line'"):
        read_lines(tmp_path / "a.parquet", "line")
    with pytest.raises(CorpusError, match=r"a.parquet cannot be read: column 'id' holds int64, expected texts"):
        read_lines(tmp_path / "a.parquet", "id")


def test_parquet_without_its_package_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match="pip install pyarrow"):
        read_lines(tmp_path / "a.parquet", "text")


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,line\n1,one\n"), ("a.jsonl", '{"line": "one"}\n')])
def test_a_missing_column_is_named(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match="no column 'text'"):
        read_lines(tmp_path / name, "text")


def test_a_missing_file_says_which_setting_names_its_folder(tmp_path: Path):
    with pytest.raises(CorpusError, match="DATA_DIR"):
        read_lines(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.doc", b"one", "expected .txt, .tsv, .csv, .jsonl"),
        ("a.jsonl", b"one", "`column` in the recipe"),
        ("a.txt", b"caf\xe9", "cannot be read"),
        ("a.txt.xz", b"not xz", "cannot be read"),
        ("a.txt.gz", b"not gzip", "cannot be read"),
        ("a.txt.xz", lzma.compress(b"one\ntwo\n")[:-8], "cannot be read"),
        ("a.txt.gz", gzip.compress(b"one\ntwo\n")[:10] + b"\xff" * 20, "cannot be read"),
        ("a.txt", b"\n \n", "holds no text"),
        ("a.txt", b"", "holds no text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as error:
        read_lines(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'text\none\n"tw"o\n', "line 3 is not CSV"),
        ("a.csv", "text\none\nt\rwo\n", "line 3 is not CSV"),
        ("a.csv", "text\rone\rtwo\r", "line 1 is not CSV"),
        ("a.csv", f"text\none\n{'two' * 50_000}\n", "line 3 is not CSV"),
        ("a.csv", "text\n", "holds no text"),
        ("a.jsonl", '{"text": "one"}\n["two"]\n', r"line 2: expected an object, found \["),
        ("a.jsonl", '{"text": "one"}\n{"text": "\\ud83d"}\n', "line 2: column 'text' holds .*half of a character"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(CorpusError, match=message) as error:
        read_lines(tmp_path / name, "text")
    assert name in str(error.value)


def test_a_sample_has_no_repeats_and_takes_all_of_a_short_file():
    some = sample_texts(LINES, Source("a.txt", sentences=30), np.random.default_rng(0))
    every = sample_texts(LINES, Source("a.txt", sentences=1000), np.random.default_rng(0))
    assert len(set(some)) == 30
    assert every == LINES


def test_a_passage_is_two_to_six_neighbouring_lines():
    for passage in sample_texts(LINES, Source("a.txt", sentences=0, passages=50), np.random.default_rng(0)):
        numbers = [int(word) for word in passage.split() if word.isdigit()]
        assert 2 <= len(numbers) <= 6
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_equal_texts_of_several_files_are_kept_once_and_the_seed_decides(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n".join(LINES))
    corpus = Corpus((Source("a.txt", 60), Source("b.txt", 60)))
    texts = read_corpus(corpus, tmp_path, seed=1)
    assert len(texts) == len(set(texts))
    assert texts == read_corpus(corpus, tmp_path, seed=1)
    assert texts != read_corpus(corpus, tmp_path, seed=2)


def test_a_recipe_that_draws_nothing_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(CorpusError, match="draws no sentence and no passage"):
        read_corpus(Corpus((Source("a.txt", 0),)), tmp_path, seed=1)


def test_a_grammar_is_found_in_the_data_folder_before_those_that_ship(tmp_path: Path):
    shipped = read_corpus(Corpus((Source("captions.toml", 50, repeats=2),)), tmp_path, seed=1)
    assert len(shipped) == 50
    assert set(shipped.values()) == {2}
    (tmp_path / "captions.toml").write_text('text = "{who} runs | {who} sits"\nwho = "a cat | a dog"')
    assert len(read_corpus(Corpus((Source("captions.toml", 50),)), tmp_path, seed=1)) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"no grammar own.toml .* captions.toml, everyday.toml, news.toml"),
        ('who = "a"', r"own.toml: it has no symbol"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, said: str):
    if content:
        (tmp_path / "own.toml").write_text(content)
    with pytest.raises(CorpusError, match=said):
        read_corpus(Corpus((Source("own.toml", 50),)), tmp_path, seed=1)


@pytest.mark.parametrize("more", [{"passages": 1}, {"column": "text"}])
def test_a_grammar_has_neither_passages_nor_columns(more: dict):
    with pytest.raises(ValueError, match=r"own.toml is a grammar, which has neither"):
        Source("own.toml", 50, **more)


def test_what_measures_a_student_is_not_read_whatever_its_case_and_punctuation(tmp_path: Path):
    (tmp_path / "a.txt").write_text("A man runs.\nA dog runs.\nA cat sleeps.\n")
    (tmp_path / "dev.tsv").write_text("id\tfirst\n1\ta man runs\n2\tA  CAT sleeps!\n")
    corpus = Corpus((Source("a.txt", 9),), never=(Measured("dev.tsv", "first"),))
    assert list(read_corpus(corpus, tmp_path, seed=1)) == ["A dog runs."]
