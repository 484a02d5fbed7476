"""An engine: one loaded encoder with its tokenizer and batcher. A task: a head on top of an engine."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np

from app.aside import Aside
from app.batcher import Answer, Batcher, Ids, Limits, PoisonError, QueueFullError
from app.bundle import HEAD, MODEL, TOKENIZER, Bundle, Texts
from app.canary import check_canary
from app.drift import watch_drift
from app.errors import InvalidError, ModelError, OverloadedError
from app.metrics import Metrics
from app.session import EncoderSession, HeadSession, Vectors
from app.settings import PREFIX
from app.tokenizer import Row, Tokenizer

# Work shorter than about a millisecond is done on the event loop: a thread's hand-over would cost as much.
INLINE_CHARACTERS = 4000
INLINE_ROWS = 64

Stages = dict[str, float]  # stage -> seconds


@dataclass(frozen=True)
class Encoded:
    """The vectors of a request.

    Attributes:
        rows: Token ids as the model saw them, special tokens included.
        vectors: float32 (rows, dimensions).
        truncated: Indices of the inputs that were cut off.
        stages: Seconds spent in tokenize, queue and inference.
    """

    rows: Sequence[Ids]
    vectors: Vectors
    truncated: list[int]
    stages: Stages

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(map(len, self.rows))


@dataclass(frozen=True)
class Scored(Encoded):
    """A task's scores, float32 (inputs, labels) or (inputs, 1), besides the vectors of the inputs' texts."""

    scores: Vectors


class ModelWatcher:
    """Turns what a batcher reports into the metrics of its model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        """Look the model's children up once: it happens for every batch."""
        self._rows = metrics.batch_rows.labels(model)
        self._tokens = metrics.batch_tokens.labels(model)
        self._padding = metrics.batch_padding.labels(model)
        self._queue = metrics.queue_tokens.labels(model)

    def batch(self, lengths: Sequence[int]) -> None:
        """Observe the shape of a batch."""
        tokens = sum(lengths)
        self._rows.observe(len(lengths))
        self._tokens.observe(tokens)
        self._padding.observe(1 - tokens / (len(lengths) * max(lengths)))

    def waiting(self, change: int) -> None:
        """Count the tokens in the queue."""
        self._queue.inc(change)


class Engine:
    """A loaded encoder. Vectors of any request go through its one queue."""

    def __init__(self, bundle: Bundle, limits: Limits, threads: int, metrics: Metrics) -> None:
        """Load the bundle's encoder.

        Raises:
            BundleError: the graph or the tokenizer cannot be loaded, or the canary answers differently.
        """
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.threads = threads
        self._tokenizer = Tokenizer(bundle.path(TOKENIZER), self.manifest.max_tokens)
        # Of its own: a long text takes hundreds of megabytes, and whatever else works in threads must not wait for it.
        self._tokenizing = ThreadPoolExecutor(threads, "tokenize")
        self._session = EncoderSession(bundle.path(MODEL), bundle.embedding)
        if self.manifest.kind == "encoder":
            check_canary(bundle, lambda texts: self.encode_now([texts])[0])
        self._batcher = Batcher(
            self._session.run, limits, threads, ModelWatcher(metrics, self.manifest.role), self.manifest.name
        )
        self.drift = watch_drift(self.manifest, self.unknown) if self.manifest.kind == "encoder" else None

    def encode_now(self, inputs: Sequence[Texts], aside: Aside | None = None) -> Vectors:
        """Encode in the caller's thread or aside, past the queue, as one batch: float32 (inputs, dimensions)."""
        rows = [row.ids for row in self._tokenizer.rows(inputs)]
        return aside.encode(self.bundle, rows) if aside else self._session.run(rows)

    async def encode(self, inputs: Sequence[Texts], *, truncate: bool = True, each: int = 1) -> Encoded:
        """Encode texts, or joined pairs.

        Args:
            inputs: What makes a row each.
            truncate: Whether to cut what is too long, or to refuse it.
            each: Rows that make one of the client's inputs, by which it is told what was too long.

        Raises:
            InvalidError: an input has no tokens, or more than the model takes and `truncate` is False.
            OverloadedError: the queue is full.
            ModelError: the model failed on an input.
        """
        begun = perf_counter()
        rows = await self._tokenize(inputs)
        truncated = sorted({index // each for index, row in enumerate(rows) if row.truncated})
        if truncated and not truncate:
            raise InvalidError(
                f"{len(truncated)} inputs, the first at index {truncated[0]}, are longer than the model's "
                f"{self.manifest.max_tokens} tokens; shorten them or let `truncate` be true",
                "truncate",
            )
        return await self._answer([row.ids for row in rows], truncated, perf_counter() - begun)

    async def encode_ids(self, rows: Sequence[Ids]) -> Encoded:
        """Encode rows of token ids, special tokens included, as this model's tokenizer gives them.

        Raises:
            InvalidError: a row is empty or too long, or an id is not in the vocabulary.
            OverloadedError: the queue is full.
            ModelError: the model failed on an input.
        """
        begun = perf_counter()
        limit, vocabulary = self.manifest.max_tokens, self.manifest.vocabulary
        for index, row in enumerate(rows):
            if len(row) > limit:
                raise InvalidError(f"row {index} has {len(row)} tokens; the model takes {limit}", "input")
            if row and (min(row) < 0 or max(row) >= vocabulary):
                raise InvalidError(f"row {index} holds a token id outside 0 to {vocabulary - 1}", "input")
        return await self._answer(rows, [], perf_counter() - begun)

    @property
    def unknown(self) -> int | None:
        """The token id that stands for what the vocabulary lacks."""
        return self._tokenizer.unknown

    @property
    def waiting_tokens(self) -> int:
        """Tokens waiting for a batch."""
        return self._batcher.waiting_tokens

    @property
    def longest_run(self) -> float:
        """How long the oldest batch in flight has been running, in seconds."""
        return self._batcher.longest_run()

    @property
    def queue_age(self) -> float:
        """How long the oldest job has been waiting, in seconds."""
        return self._batcher.oldest_age()

    @property
    def is_open(self) -> bool:
        """Whether requests are still admitted."""
        return self._batcher.is_open

    def close(self) -> None:
        """Admit no more; what was admitted is still answered."""
        self._batcher.close()
        self._tokenizing.shutdown(wait=False)

    async def _tokenize(self, inputs: Sequence[Texts]) -> list[Row]:
        # Tokenising what is refused afterwards is what would bring an overloaded service down.
        tokens = self._estimate(inputs)
        with self._refusing():
            if sum(len(text) for texts in inputs for text in texts) <= INLINE_CHARACTERS:
                self._batcher.require_room(tokens)
                return self._tokenizer.rows(inputs)
            with self._batcher.reserve(tokens):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._tokenizing, self._tokenizer.rows, inputs)

    async def _answer(self, rows: Sequence[Ids], truncated: list[int], tokenize: float) -> Encoded:
        for index, row in enumerate(rows):
            if not row:
                raise InvalidError(f"input {index} has no tokens", "input")
        with self._refusing():
            future = self._batcher.submit(rows)
        answer = await _wait(future)
        stages = {
            "tokenize": tokenize,
            "queue": answer.started - answer.admitted,
            "inference": answer.finished - answer.started,
        }
        return Encoded(rows, answer.vectors, truncated, stages)

    def _estimate(self, inputs: Sequence[Texts]) -> int:
        """Guess the tokens: a word piece has about five letters, and each row its special tokens."""
        limit = self.manifest.max_tokens
        return sum(min(limit, 2 + sum(map(len, texts)) // 5) for texts in inputs)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Tell a full queue to the client."""
        try:
            yield
        except QueueFullError as error:
            raise OverloadedError(
                f"the {self.manifest.role}'s queue is full: {error.waiting} tokens are waiting, "
                f"{PREFIX}QUEUE_TOKENS is {error.limit}; try again in {error.retry_after} s",
                error.retry_after,
            ) from error


class Task:
    """A loaded task: its head, and the engine whose vectors the head takes."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        """Load the bundle's head.

        Raises:
            BundleError: the head cannot be loaded, or the canary answers differently.
        """
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.engine = engine
        self._head = HeadSession(bundle.path(HEAD))
        check_canary(bundle, self._score_alone)
        self.drift = watch_drift(self.manifest, engine.unknown)

    async def score(self, inputs: Sequence[Texts], *, truncate: bool = True) -> Scored:
        """Score texts or pairs.

        Raises:
            InvalidError, OverloadedError, ModelError: as Engine.encode.
        """
        rows = self._rows(inputs)
        encoded = await self.engine.encode(rows, truncate=truncate, each=len(rows) // len(inputs))
        begun = perf_counter()
        vectors = self._by_input(encoded.vectors, len(inputs))
        try:
            small = len(inputs) <= INLINE_ROWS
            scores = self._head.run(vectors) if small else await asyncio.to_thread(self._head.run, vectors)
        except Exception as error:
            raise ModelError(f"the head of {self.manifest.name} failed: {type(error).__name__}") from error
        stages = {**encoded.stages, "inference": encoded.stages["inference"] + perf_counter() - begun}
        return Scored(encoded.rows, encoded.vectors, encoded.truncated, stages, scores)

    def score_now(self, inputs: Sequence[Texts], aside: Aside | None = None) -> Vectors:
        """Score as Engine.encode_now encodes: float32 (inputs, labels), or (inputs, 1)."""
        return self._head.run(self._by_input(self.engine.encode_now(self._rows(inputs), aside), len(inputs)))

    def predictions(self, scored: Scored) -> list[dict[str, Any]]:
        """Say what scores mean, as the routes write it: label, score and scores of each input, or its value."""
        if self.manifest.kind == "regressor":
            return [{"value": value} for (value,) in scored.scores]
        labels = self.manifest.labels
        return [
            {"label": labels[top], "score": row[top], "scores": dict(zip(labels, row, strict=True))}
            for row, top in zip(scored.scores, scored.scores.argmax(axis=1), strict=True)
        ]

    @property
    def threads(self) -> int:
        """Batches in flight."""
        return self.engine.threads

    @property
    def takes(self) -> Literal["sentences", "pairs"]:
        """What a request has to hold."""
        return "sentences" if self.manifest.inputs == "text" else "pairs"

    def _rows(self, inputs: Sequence[Texts]) -> Sequence[Texts]:
        """What the encoder gets: a pair that is encoded apart makes two rows."""
        if self.manifest.inputs != "pair_apart":
            return inputs
        return [(text,) for texts in inputs for text in texts]

    def _score_alone(self, texts: Texts) -> Vectors:
        """Score one input as its canary was made: each text in a batch of its own."""
        vectors = np.concatenate([self.engine.encode_now([row]) for row in self._rows([texts])])
        scores: Vectors = self._head.run(self._by_input(vectors, 1))[0]
        return scores

    @staticmethod
    def _by_input(vectors: Vectors, inputs: int) -> Vectors:
        """Bring the vectors of an input's texts together: (rows, dimensions) -> (inputs, texts, dimensions)."""
        return vectors.reshape(inputs, -1, vectors.shape[-1])


async def _wait(future: "Future[Answer]") -> Answer:
    """Wait for the batcher; cancelling this gives the request up."""
    try:
        return await asyncio.wrap_future(future)
    except PoisonError as error:
        raise ModelError(str(error)) from error
