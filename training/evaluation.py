"""Encoders side by side: every measure of each, as Markdown and as JSON."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from training.checkpoint import RunError
from training.corpus import CorpusError, read_corpus, read_lines
from training.distillation import split
from training.encoding import Encode, Vectors, tokenize
from training.glue import TASKS, read_dev, read_train
from training.measures import (
    COSINE,
    MEANING,
    PROBES,
    Figure,
    Measure,
    Row,
    by_length,
    by_slice,
    cosine_of,
    domains,
    passages,
    probe,
    similarity,
    similarity_by_slice,
)
from training.progress import Progress
from training.recipe import DistillRecipe, as_dict, decisive
from training.table import Columns, read_task
from training.targets import distinct_rows
from training.task import Examples, Task, TaskError
from training.teacher import Teacher, load_teacher

TEXTS_AT_ONCE = 256
HELD_OUT_ROWS = 4000  # the teacher encodes them in about 15 seconds
PROBED = ("sst2", "cola")
OWN_COLUMNS = Columns(("text",), "label")

TASKS_SECTION, TASKS_COLUMN = "Tasks", "bundle"

Answer = Callable[[Sequence[tuple[str, ...]]], NDArray[np.float32]]  # rows of texts to (rows, labels or 1)


@dataclass(frozen=True)
class TaskAnswers:
    """What a task's bundle answers, and to what.

    Attributes:
        texts: Of a row.
        labels: In the order of its scores; none of a regression.
        answer: Gives the scores of rows.
    """

    texts: int
    labels: tuple[str, ...]
    answer: Answer

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
        """Answer rows of texts: (rows, labels), or (rows, 1)."""
        return self.answer(rows)

    def require(self, task: Task) -> None:
        """Raises TaskError when the task's rows or labels are others: a score's number would mean another label."""
        if (self.texts, self.labels) != (task.texts, task.labels):
            learnt, asked = (_rows_and_labels(one.texts, one.labels) for one in (self, task))
            raise TaskError(f"the bundle has learnt {learnt}, and the rows to score it on are {asked}")


@dataclass(frozen=True)
class Evaluation:
    """What was measured: `figures[row][column]`, and a line for each measure that could not be had.

    Attributes:
        columns: The encoders; the first is the teacher.
        rows: What the figures are about.
        figures: One per row and column.
        missing: Measures that could not be had, with the reason.
        notes: What a reader should know of the run, such as its seeds.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    figures: tuple[tuple[Figure, ...], ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Give a table per section; a figure drawn with several seeds is shown as mean ± standard deviation."""
        sections = dict.fromkeys(row.section for row in self.rows)
        tables = [f"## {section}\n\n{self._table(section)}" for section in sections]
        notes = "\n".join(f"- {note}" for note in (*self.notes, *self.missing))
        return "\n\n".join(part for part in ("# Evaluation", notes, *tables) if part) + "\n"

    def json(self) -> str:
        """Give the same, with a value for each seed."""
        rows: list[dict[str, Any]] = [
            {
                **row._asdict(),
                "figures": {
                    column: {"mean": _mean(figure), "deviation": _deviation(figure), "by_seed": figure}
                    for column, figure in zip(self.columns, figures, strict=True)
                    if figure
                },
            }
            for row, figures in zip(self.rows, self.figures, strict=True)
        ]
        return json.dumps({"notes": self.notes, "missing": self.missing, "rows": rows}, indent=2) + "\n"

    def section(self, name: str) -> list[tuple[Row, tuple[Figure, ...]]]:
        """Give the rows of one section with their figures."""
        return [both for both in zip(self.rows, self.figures, strict=True) if both[0].section == name]

    def _table(self, section: str) -> str:
        found = self.section(section)
        used = [number for number in range(len(self.columns)) if any(figures[number] for _, figures in found)]
        lines = [("", *(self.columns[number] for number in used)), ("---", *("---:" for _ in used))]
        lines += [(_title(row), *(_cell(figures[number]) for number in used)) for row, figures in found]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def evaluate(
    encoders: Mapping[str, Encode], measures: Sequence[Measure], notes: Sequence[str] = (), log: Path | None = None
) -> Evaluation:
    """Measure encoders side by side; every text is encoded once by each.

    Args:
        encoders: By column, the teacher first.
        measures: What to measure.
        notes: Passed on to the reader.
        log: JSON lines of how far the encoding is are appended to this file.

    Raises:
        TaskError: every measure is missing.
    """
    missing = tuple(f"{measure.rows[0].title}: {measure.missing}" for measure in measures if measure.missing)
    if len(missing) == len(measures):
        raise TaskError(f"there is nothing to measure: {'; '.join(missing)}")
    texts = sorted(dict.fromkeys(text for measure in measures for text in measure.texts), key=len)
    places = {text: place for place, text in enumerate(texts)}
    had = [measure for measure in measures if not measure.missing]
    chosen = [np.fromiter((places[text] for text in measure.texts), dtype=np.int64) for measure in had]
    by_column: list[list[Figure]] = []
    expected: Vectors | None = None
    for name, encoder in encoders.items():
        vectors = _encode(name, encoder, texts, log)
        expected = vectors if expected is None else expected
        judged = tqdm(zip(had, chosen, strict=True), total=len(had), desc=f"{name}: measures", unit="measure")
        by_column.append([figure for one, rows in judged for figure in one.judge(vectors[rows], expected[rows])])
    return Evaluation(
        columns=tuple(encoders),
        rows=tuple(row for measure in had for row in measure.rows),
        figures=tuple(zip(*by_column, strict=True)),
        missing=missing,
        notes=tuple(notes),
    )


def teacher_of(recipe: DistillRecipe | None, source: str) -> Teacher:
    """Load the teacher that students are held against.

    It reads as much of a text as it did for the distillation, where that is more than its own files say: what is cut
    off decides which rows of the corpus are distinct, and so which were held out. It never reads less than they say,
    since a student that is cut short is to be seen as such.

    Args:
        recipe: Of the distillation; none where nothing was distilled.
        source: As `load_teacher` takes it.

    Raises:
        TeacherError: as `load_teacher`.
    """
    teacher = load_teacher(source)
    wanted = recipe.corpus.max_tokens if recipe else 0
    return teacher if wanted <= teacher.max_tokens else load_teacher(source, wanted)


def sts_spearman(encode_texts: Encode, data: Path) -> float:
    """Give the Spearman correlation of cosine and human score on STS-B's dev set; raises TaskError without it."""
    measure = similarity(read_dev(TASKS["stsb"], data))
    vectors = encode_texts(measure.texts)
    return measure.judge(vectors, vectors)[0][0]


def dev_rows(name: str, data: Path) -> tuple[Task, Examples]:
    """Read the dev rows of a task of GLUE, or of a folder in user-task/; raises TaskError where there are none."""
    if name in TASKS:
        return TASKS[name].task, read_dev(TASKS[name], data)
    task, _, dev = _own_rows(data / "user-task" / name)
    return task, dev


def with_tasks(
    evaluation: Evaluation, answers: Mapping[str, TaskAnswers], data: Path, column: str = TASKS_COLUMN
) -> Evaluation:
    """Add the dev metrics of task bundles, as a column of their own.

    Args:
        evaluation: To be added to.
        answers: By task: that of GLUE, or of a folder in user-task/. Those that raise TaskError, or have learnt another
            task of that name, are listed as missing.
        data: Holds glue/ and user-task/.
        column: What to call theirs.
    """
    rows: list[Row] = []
    figures: list[Figure] = []
    missing: list[str] = []
    for name, answer in answers.items():
        try:
            task, dev = dev_rows(name, data)
            answer.require(task)
            scores = task.score(dev.labels, answer(dev.texts))
        except TaskError as error:
            missing.append(f"{name}: {error}")
            continue
        rows += [Row(TASKS_SECTION, f"{name} dev, {metric}", len(dev), "rows") for metric in scores]
        figures += [(score,) for score in scores.values()]
    none: tuple[Figure, ...] = ((),)
    return replace(
        evaluation,
        columns=(*evaluation.columns, column),
        rows=(*evaluation.rows, *rows),
        figures=(
            *(before + none for before in evaluation.figures),
            *(none * len(evaluation.columns) + (figure,) for figure in figures),
        ),
        missing=(*evaluation.missing, *missing),
    )


def all_measures(
    data: Path, cache: Path, teacher: Teacher, recipe: DistillRecipe | None, seeds: Sequence[int]
) -> list[Measure]:
    """Build every measure that the data folder has texts for; the others say why they are missing.

    Args:
        data: Holds glue/, fidelity/*.txt, user-task/<name>/, and what `recipe` reads.
        cache: For the held-out rows, which take a reading of the whole corpus to find.
        teacher: Its tokenizer counts tokens.
        recipe: What the student learnt from: names the held-out rows, and the file that passages are made from.
        seeds: Each draws rows for a probe; the first draws the passages.
    """

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenize(teacher.tokenizer, texts, teacher.max_tokens)]

    def held_out() -> Measure:
        return cosine_of("held-out rows of the corpus", held_out_texts(_known(recipe), data, cache, teacher))

    def long() -> Measure:
        source = _known(recipe).corpus.sources[0]
        lines = read_lines(data / source.path, source.column)
        return cosine_of("passages of 128 to 256 tokens", passages(lines, count, seeds[0]))

    meaning = [_or_missing(MEANING, "STS-B dev", lambda: similarity(read_dev(TASKS["stsb"], data)))]
    if not meaning[0].missing:
        pairs = read_dev(TASKS["stsb"], data)
        meaning.append(similarity_by_slice(pairs, [sum(count(texts)) for texts in pairs.texts]))
    found = [
        _or_missing(COSINE, "held-out rows of the corpus", held_out),
        _or_missing(COSINE, "passages of 128 to 256 tokens", long),
        _or_missing(COSINE, "other domains", lambda: domains(domain_texts(data))),
    ]
    faithful = list(dict.fromkeys(chain.from_iterable(measure.texts for measure in found)))
    if faithful:
        tokens = count(faithful)
        found += [by_length(faithful, tokens), by_slice(faithful, tokens)]
    own = [folder.name for folder in sorted((data / "user-task").glob("*/"))]
    return meaning + found + [_or_missing(PROBES, name, partial(_probe, name, data, seeds)) for name in (*PROBED, *own)]


def held_out_texts(recipe: DistillRecipe, data: Path, cache: Path, teacher: Teacher) -> list[str]:
    """Give the texts of the corpus that a distillation by this recipe sets aside, at most HELD_OUT_ROWS.

    What a grammar makes is not among them: it is easier than what people write.

    Args:
        recipe: Names the corpus.
        data: Holds its files.
        cache: The texts are kept below it.
        teacher: As `teacher_of` loads it.

    Raises:
        CorpusError: a file of the corpus is not below `data`, or there is none but grammars.
    """
    limit = min(teacher.max_tokens, recipe.corpus.max_tokens)
    written = tuple(source for source in recipe.corpus.sources if not source.is_grammar)
    if not written:
        raise CorpusError("the corpus has grammars alone")
    corpus = replace(recipe.corpus, sources=written)
    files = [data / path for path in (*(one.path for one in corpus.sources), *(one.path for one in corpus.never))]
    facts = [decisive(as_dict(corpus)), recipe.seed, teacher.fingerprint, limit]
    stamps = [(file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None for file in files]
    name = hashlib.sha256(json.dumps([facts, stamps]).encode()).hexdigest()[:16]
    kept = cache / "held_out" / f"{name}.json"
    if not kept.is_file():
        texts = list(read_corpus(corpus, data, recipe.seed))
        tokens = distinct_rows(teacher, texts, limit)
        _, held_out = split(tokens.keys, corpus.held_out)
        held_out = np.sort(held_out[np.argsort(tokens.keys[held_out])[:HELD_OUT_ROWS]])
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_suffix(".draft")
        draft.write_text(json.dumps([texts[text] for text in tokens.texts[held_out]]))
        draft.replace(kept)
    found: list[str] = json.loads(kept.read_text())
    return found


def domain_texts(data: Path) -> dict[str, list[str]]:
    """Read the domains that no student was trained on; raises CorpusError where there are none."""
    found = {file.stem: read_lines(file) for file in sorted((data / "fidelity").glob("*.txt"))}
    if not found:
        raise CorpusError(f"{data / 'fidelity'} holds no *.txt, one text a line")
    return found


def _encode(name: str, encoder: Encode, texts: Sequence[str], log: Path | None) -> Vectors:
    """Encode texts sorted by length, some at a time, behind a progress bar."""
    parts = [texts[low : low + TEXTS_AT_ONCE] for low in range(0, len(texts), TEXTS_AT_ONCE)]
    found: list[Vectors] = []
    # One part a thread: threads that share a batch stall as soon as another process wants a core.
    with (
        ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as workers,
        Progress(name, len(texts), 0, "text", log) as progress,
    ):
        for vectors in workers.map(encoder, parts):
            found.append(vectors)
            progress.add(len(vectors))
    return np.concatenate(found)


def _probe(name: str, data: Path, seeds: Sequence[int]) -> Measure:
    if name in TASKS:
        row = TASKS[name]
        return probe(row.task, read_train(row, data), read_dev(row, data), seeds)
    return probe(*_own_rows(data / "user-task" / name), seeds)


def _own_rows(folder: Path) -> tuple[Task, Examples, Examples]:
    """Read a task of one's own: train.tsv, and dev.tsv or valid.tsv, with columns `text` and `label`."""
    dev = next((file for name in ("dev.tsv", "valid.tsv") if (file := folder / name).is_file()), None)
    return read_task(folder.name, folder / "train.tsv", dev, OWN_COLUMNS, seed=1, regression=False)


def _rows_and_labels(texts: int, labels: tuple[str, ...]) -> str:
    return f"{'single texts' if texts == 1 else 'pairs'} with {f'labels {list(labels)}' if labels else 'numbers'}"


def _known(recipe: DistillRecipe | None) -> DistillRecipe:
    if recipe is None:
        raise CorpusError("no recipe says what the student was trained on: name one with --recipe")
    return recipe


def _or_missing(section: str, title: str, build: Callable[[], Measure]) -> Measure:
    try:
        return build()
    except (TaskError, CorpusError, RunError) as error:
        return Measure((Row(section, title),), (), lambda *_: (), missing=str(error))


def _title(row: Row) -> str:
    return f"{row.title} ({row.size:,} {row.unit})"


def _cell(figure: Figure) -> str:
    if not figure:
        return "-"
    return f"{_mean(figure):.4f}" + (f" ± {_deviation(figure):.4f}" if len(figure) > 1 else "")


def _mean(figure: Figure) -> float:
    return float(np.mean(figure))


def _deviation(figure: Figure) -> float | None:
    return float(np.std(figure, ddof=1)) if len(figure) > 1 else None
