import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_data
from training import evaluation as module
from training.corpus import CorpusError, read_corpus
from training.distillation import split
from training.encoding import Encode, Vectors, text_encoder, tokenize
from training.evaluation import (
    Evaluation,
    TaskAnswers,
    all_measures,
    evaluate,
    held_out_texts,
    sts_spearman,
    teacher_of,
    with_tasks,
)
from training.measures import COSINE, MEANING, PROBES, Measure, Row, cosine_of
from training.recipe import Corpus, DistillRecipe, Optimisation, Source, StudentShape
from training.targets import label
from training.teacher import Teacher, load_teacher

TEACHER, STUDENT = "teacher float32", "student int8"


@pytest.fixture(scope="module")
def teacher(small_bert: Path) -> Teacher:
    return load_teacher(str(small_bert))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A data folder with everything that is measured, in the words that the small teacher knows."""
    data = write_data(tmp_path / "data")
    rng = np.random.default_rng(1)
    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "red", "small"]
    texts = [" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(40)]
    (data / "fidelity").mkdir()
    for name, part in (("chat", texts[:20]), ("news", texts[20:])):
        (data / "fidelity" / f"{name}.txt").write_text("\n".join(part) + "\n")
    folder = data / "glue" / "STS-B"
    folder.mkdir()
    pairs = [f"{texts[n]}\t{texts[n + n % 3]}\t{5 - n % 3}" for n in range(30)]
    (folder / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]) + "\n")
    own = data / "user-task" / "pets"
    own.mkdir(parents=True)
    rows = "".join(f"the {'cat' if n % 2 else 'dog'} sat\t{'cat' if n % 2 else 'dog'}\n" for n in range(20))
    for name in ("train", "valid"):
        (own / f"{name}.tsv").write_text(f"text\tlabel\n{rows}")
    return data


@pytest.fixture
def recipe(small_bert: Path) -> DistillRecipe:
    corpus = Corpus((Source("corpus/lines.txt.xz", 400),), max_tokens=32, held_out=0.1)
    return DistillRecipe("student", str(small_bert), corpus, StudentShape(), Optimisation(1, 1e-3))


def encoder_of(teacher: Teacher) -> Encode:
    return text_encoder(teacher.encoder, teacher.tokenizer, teacher.max_tokens)


def blurred(encode: Encode) -> Encode:
    def encode_texts(texts: Sequence[str]) -> Vectors:
        return encode(texts) + np.float32(0.05) * np.random.default_rng(0).standard_normal(32).astype(np.float32)

    return encode_texts


def titles(evaluation: Evaluation, section: str) -> list[str]:
    return [row.title for row, _ in evaluation.section(section)]


def test_every_measure_is_shown_for_teacher_and_student(
    teacher: Teacher, world: Path, recipe: DistillRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("training.measures.PASSAGE_TOKENS", (12, 30))
    encode = encoder_of(teacher)
    measures = all_measures(world, tmp_path, teacher, recipe, [1, 2])
    found = evaluate({TEACHER: encode, STUDENT: blurred(encode)}, measures, ["Seeds: 1, 2."])
    assert titles(found, MEANING)[0] == "STS-B dev, Spearman"
    assert titles(found, COSINE)[:2] == ["held-out rows of the corpus", "passages of 128 to 256 tokens"]
    assert titles(found, COSINE)[2:] == ["chat", "news", "mean of the 2 domains"]
    assert [title.split(",")[0] for title in titles(found, PROBES)] == ["sst2", "pets"]
    for _, (of_teacher, of_student) in found.section(COSINE):
        assert of_teacher == (pytest.approx(1, abs=1e-5),)
        assert 0.8 < of_student[0] < 0.9999
    assert [line.split(" is missing")[0] for line in found.missing] == [f"cola: {world}/glue/CoLA/train.tsv"]
    table = found.markdown()
    assert "- Seeds: 1, 2.\n- cola: " in table
    assert f"|  | {TEACHER} | {STUDENT} |\n| --- | ---: | ---: |\n| STS-B dev, Spearman (30 pairs) | " in table


def test_each_text_is_encoded_once_whatever_measures_share_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return np.asarray([[len(text), 1.0] for text in texts], dtype=np.float32)

    found = evaluate({"teacher": encode}, [cosine_of("one", ["a", "bb", "a"]), cosine_of("two", ["ccc", "bb"])])
    assert sorted(asked) == ["a", "bb", "ccc"]
    assert [row.size for row in found.rows] == [3, 2]


def test_what_is_missing_is_a_line_not_a_crash(teacher: Teacher, tmp_path: Path):
    measures = all_measures(tmp_path / "none", tmp_path, teacher, None, [1])
    found = evaluate({TEACHER: encoder_of(teacher)}, [cosine_of("some", ["the cat"]), *measures])
    assert [line.split(":")[0] for line in found.missing] == [
        "STS-B dev",
        "held-out rows of the corpus",
        "passages of 128 to 256 tokens",
        "other domains",
        "sst2",
        "cola",
    ]
    assert "name one with --recipe" in found.markdown()
    assert "holds no *.txt" in found.markdown()


def test_figures_of_several_seeds_have_a_mean_and_a_deviation():
    row = Row(PROBES, "sst2", 10, "dev rows")
    measure = Measure((row,), ["a"], lambda vectors, _: [(0.5, 0.6, 0.7)])
    found = evaluate({"teacher": lambda texts: np.ones((len(texts), 2), np.float32)}, [measure])
    assert "| sst2 (10 dev rows) | 0.6000 ± 0.1000 |" in found.markdown()
    figure = json.loads(found.json())["rows"][0]["figures"]["teacher"]
    assert figure == {"mean": pytest.approx(0.6), "deviation": pytest.approx(0.1), "by_seed": [0.5, 0.6, 0.7]}


def test_a_figure_that_is_not_defined_is_a_dash_and_no_number():
    def wide(texts: Sequence[str]) -> Vectors:
        return np.ones((len(texts), 3), np.float32)

    def narrow(texts: Sequence[str]) -> Vectors:
        return np.ones((len(texts), 2), np.float32)

    meaning = Measure((Row(COSINE, "other"),), ["a"], lambda *_: [(1.0,)])
    found = evaluate({"teacher": wide, "static": narrow}, [cosine_of("some", ["a"]), meaning])
    assert "| some (1 texts) | 1.0000 | - |" in found.markdown()
    assert list(json.loads(found.json())["rows"][0]["figures"]) == ["teacher"]


def test_task_bundles_stand_in_a_column_of_their_own(world: Path):
    before = evaluate({"teacher": lambda texts: np.ones((len(texts), 2), np.float32)}, [cosine_of("some", ["a"])])

    def always_good(rows: Sequence[tuple[str, ...]]) -> Vectors:
        return np.asarray([[0.2, 0.8]] * len(rows), dtype=np.float32)

    answers = {
        "sst2": TaskAnswers(1, ("negative", "positive"), always_good),
        "pets": TaskAnswers(1, ("cat", "dog"), always_good),
        "other": TaskAnswers(1, ("cat", "dog"), always_good),
    }
    found = with_tasks(before, answers, world)
    assert found.columns == ("teacher", "bundle")
    assert "## Tasks\n\n|  | bundle |\n| --- | ---: |\n| sst2 dev, accuracy (10 rows) | 0.5000 |" in found.markdown()
    assert "| pets dev, accuracy (20 rows) | 0.5000 |" in found.markdown()
    assert found.missing[0].startswith("other: ")
    assert "| some (1 texts) | 1.0000 |\n" in found.markdown()


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        (1, ("positive", "negative"), r"single texts with labels \['positive', 'negative'\]"),
        (1, (), "single texts with numbers"),
        (2, ("negative", "positive"), r"pairs with labels \['negative', 'positive'\]"),
    ],
)
def test_a_bundle_that_has_learnt_another_task_of_that_name_is_missing_and_has_no_figure(
    world: Path, texts: int, labels: tuple[str, ...], said: str
):
    before = evaluate({"teacher": lambda texts: np.ones((len(texts), 2), np.float32)}, [cosine_of("some", ["a"])])
    other = TaskAnswers(texts, labels, lambda rows: np.ones((len(rows), max(1, len(labels))), np.float32))
    found = with_tasks(before, {"sst2": other}, world)
    (line,) = found.missing
    assert re.match(rf"sst2: the bundle has learnt {said}, and .* single texts with .*'negative', 'positive'", line)
    assert not titles(found, "Tasks")


def test_held_out_rows_are_those_that_distillation_sets_aside_and_are_found_once(
    teacher: Teacher, corpus: Path, recipe: DistillRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = held_out_texts(recipe, corpus, tmp_path, teacher)
    targets = label(teacher, list(read_corpus(recipe.corpus, corpus, recipe.seed)), 32, tmp_path)
    _, held_out = split(targets.tokens.keys, 0.1)
    assert tokenize(teacher.tokenizer, texts, 32) == [targets.tokens.row(row) for row in held_out]
    monkeypatch.setattr(module, "read_corpus", None)
    assert held_out_texts(recipe, corpus, tmp_path, teacher) == texts


def test_what_a_grammar_makes_is_not_called_held_out(
    teacher: Teacher, corpus: Path, recipe: DistillRecipe, tmp_path: Path
):
    made = Source("captions.toml", 400)
    both = replace(recipe, corpus=replace(recipe.corpus, sources=(*recipe.corpus.sources, made)))
    assert held_out_texts(both, corpus, tmp_path, teacher) == held_out_texts(recipe, corpus, tmp_path, teacher)
    with pytest.raises(CorpusError, match="grammars alone"):
        held_out_texts(replace(recipe, corpus=replace(recipe.corpus, sources=(made,))), corpus, tmp_path, teacher)


def test_a_corpus_that_was_written_anew_in_the_same_size_holds_out_its_own_rows(
    teacher: Teacher, tmp_path: Path, recipe: DistillRecipe
):
    file, words = tmp_path / "lines.txt", ("cat", "dog")
    corpus = Corpus((Source(file.name, 400),), max_tokens=32, held_out=0.5)
    for word in words:
        lines = [f"the {word} ran {'very ' * n}under the {word} tree" for n in range(20)]
        file.write_text("\n".join(lines))
        os.utime(file, ns=(0, words.index(word)))
        held_out = held_out_texts(replace(recipe, corpus=corpus), tmp_path, tmp_path / "cache", teacher)
        assert set(held_out) < set(lines)


def test_a_teacher_reads_what_it_read_for_the_distillation_where_that_is_more_than_its_own_limit(
    small_bert: Path, corpus: Path, recipe: DistillRecipe, tmp_path: Path
):
    short = tmp_path / "short-bert"
    shutil.copytree(small_bert, short)
    (short / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    own, read = load_teacher(str(short)), teacher_of(recipe, str(short))
    assert [one.max_tokens for one in (own, read, teacher_of(None, str(short)))] == [6, 32, 6]
    assert teacher_of(recipe, str(small_bert)).max_tokens == 48
    targets = label(load_teacher(str(short), 32), list(read_corpus(recipe.corpus, corpus, recipe.seed)), 32, tmp_path)
    _, held_out = split(targets.tokens.keys, 0.1)
    wanted = [targets.tokens.row(row) for row in held_out]
    assert tokenize(own.tokenizer, held_out_texts(recipe, corpus, tmp_path, own), 32) != wanted
    assert tokenize(read.tokenizer, held_out_texts(recipe, corpus, tmp_path, read), 32) == wanted


def test_sts_is_the_rank_correlation_of_cosines(tmp_path: Path):
    vectors = {"north": [0.0, 1.0], "north-east": [1.0, 1.0], "east": [1.0, 0.0], "south": [0.0, -1.0]}
    task = tmp_path / "glue" / "STS-B"
    task.mkdir(parents=True)
    rows = ["north\tnorth\t5.0", "north\tnorth-east\t4.0", "north\teast\t2.0", "north\tsouth\t0.0"]
    (task / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    assert sts_spearman(lambda texts: np.asarray([vectors[text] for text in texts], np.float32), tmp_path) == 1
