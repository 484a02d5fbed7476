"""How many sentences a second each model encodes in process, side by side in one run.

Every graph runs as the service runs it: one ONNX Runtime session, one worker thread per core, a batch a thread. Batches
hold sentences of like length, tokenised beforehand; only the static model, which is little else than a tokenizer, is
timed with its own. Rounds are interleaved, so that whatever else the machine does meets all; the median is given.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from app.bundle import MODEL, TOKENIZER, read_bundle
from app.cores import usable_cores
from app.session import EncoderSession, Vectors
from app.tokenizer import Tokenizer
from benchmarks.report import Cell, Table, lead, spread
from export.graph import encoder_graph, quantise

BATCHES = (1, 8, 32, 128)
ROUNDS = 5
ROUND_SECONDS = 1.0
STUDENT, TEACHER = "student int8", "teacher float32"


class Batch(NamedTuple):
    """Sentences of like length, and their token ids."""

    sentences: list[str]
    rows: list[Sequence[int]]


Encode = Callable[[Batch], Vectors]
STATIC, BERT_BASE = "static (model2vec), tokenising included", "BERT-base geometry, random weights, float32"


def contenders(models: Path, cache: Path) -> dict[str, Encode]:
    """Open every model; graphs that no bundle holds are made once, and kept in `cache` by the space of their bundle."""
    student, teacher = read_bundle(models / "student"), read_bundle(models / "teacher")

    def kept(name: str, make: Callable[[], bytes]) -> Encode:
        file = cache / f"{name}.onnx"
        if not file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            file.write_bytes(make())
        return _encoder(file)

    return {
        STUDENT: _encoder(student.path(MODEL), student.embedding),
        "student float32": kept(student.manifest.space, lambda: _student(student.folder)),
        "teacher int8": kept(teacher.manifest.space, lambda: quantise(teacher.path(MODEL).read_bytes())),
        TEACHER: _encoder(teacher.path(MODEL)),
        BERT_BASE: kept("bert-base", _bert_base),
        STATIC: _static(cache),
    }


def sentence_batches(models: Path, sentences: Sequence[str], size: int) -> list[Batch]:
    """Cut sentences, repeated until they fill a batch, into batches of like length."""
    bundle = read_bundle(models / "student")
    tokenizer = Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens)
    several = list(sentences) * -(-4 * size // len(sentences))
    rows = tokenizer.rows([(sentence,) for sentence in several])
    ordered = sorted(zip(several, (row.ids for row in rows), strict=True), key=lambda pair: len(pair[1]))
    parts = [ordered[low : low + size] for low in range(0, len(ordered) - size + 1, size)]
    return [Batch([text for text, _ in part], [ids for _, ids in part]) for part in parts]


def sentences_per_second(encode: Encode, batches: Sequence[Batch], threads: int, seconds: float) -> float:
    """Encode batches over and over, on several threads, for about so long.

    Tokens are counted and turned into sentences of mean length: a slow model may not get round to all lengths.
    """
    tokens = [sum(map(len, batch.rows)) for batch in batches]
    stop = time.perf_counter() + seconds

    def work(worker: int) -> int:
        done, turn = 0, worker
        while not done or time.perf_counter() < stop:
            encode(batches[turn % len(batches)])
            done, turn = done + tokens[turn % len(batches)], turn + threads
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    sentences = sum(len(batch.sentences) for batch in batches)
    return done / (time.perf_counter() - started) * sentences / sum(tokens)


def measure(
    opened: Mapping[str, Encode], batches: Sequence[Batch], rounds: int = ROUNDS, seconds: float = ROUND_SECONDS
) -> dict[str, list[float]]:
    """Give the sentences per second of every round, by name."""
    found: dict[str, list[float]] = {name: [] for name in opened}
    for number in range(rounds + 1):
        for name, encode in opened.items():
            rate = sentences_per_second(encode, batches, usable_cores(), seconds)
            if number:  # the first round warms up
                found[name].append(rate)
    return found


def table(models: Path, cache: Path, sentences: Sequence[str]) -> Table:
    """Measure everything at every batch size."""
    opened = contenders(models, cache)
    rows: list[tuple[Cell, ...]] = []
    lengths: list[int] = []
    for size in BATCHES:
        batches = sentence_batches(models, sentences, size)
        lengths = [len(ids) for batch in batches for ids in batch.rows]
        found = measure(opened, batches)
        rows += [
            (size, name, statistics.median(rates), spread(rates), lead(found[STUDENT], rates))
            for name, rates in found.items()
        ]
    return Table(
        f"In process: {usable_cores()} threads, sentences of {min(lengths)} to {max(lengths)} tokens, "
        f"mean {statistics.mean(lengths):.1f}",
        ("batch", "model", "sentences/s", f"of {ROUNDS} rounds", "lead of the student"),
        rows,
    )


def _encoder(file: Path, embedding: Path | None = None) -> Encode:
    session = EncoderSession(file, embedding)
    return lambda batch: session.run(batch.rows)


def _student(folder: Path) -> bytes:
    from training.start import load_start

    return encoder_graph(load_start(folder).student)


def _bert_base() -> bytes:
    """A BERT of the size of bert-base-uncased: what its weights are does not change its speed."""
    from transformers import BertConfig, BertModel

    from training.teacher import TeacherEncoder

    return encoder_graph(TeacherEncoder(BertModel(BertConfig(), add_pooling_layer=False), "mean", normalise=True))


def _static(cache: Path) -> Encode:
    from training.static import static_encoder
    from training.teacher import load_teacher

    encode = static_encoder(load_teacher("package"), cache, reduce=True)
    return lambda batch: encode(batch.sentences)
