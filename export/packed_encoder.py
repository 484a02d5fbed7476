"""An encoder on its way into a bundle: its graph, proven against PyTorch, and in int8 if that is wanted."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from app.bundle import EMBEDDING, MODEL, TOKENIZER, Bundle, Inputs, Texts, space_id
from app.session import EncoderSession, Vectors
from app.tokenizer import Tokenizer
from export.graph import encoder_graph, quantise, split, with_table_of
from export.parity import PARITY_MAX_ABS, PASSAGES, SENTENCES, compare, say, served
from training.encoding import encode
from training.recipe import Int8
from training.student import Student

Encode = Callable[[Sequence[str | Texts]], Vectors]
DEFAULT_LIMITS = Int8()
PRECISION = {"student": "int8", "teacher": "float32"}  # by role, unless another is asked for


@dataclass(frozen=True)
class PackedEncoder:
    """An encoder ready to be served.

    Attributes:
        files: Its graph, table of embeddings and tokenizer, without those that another bundle holds.
        space: Of its vectors.
        precision: Of its graph.
        reader: Its tokenizer, as the service reads by it.
        session: Its graph, as the service runs it.
        figures: Parity, and what int8 costs.
    """

    files: dict[str, bytes]
    space: str
    precision: str
    reader: Tokenizer
    session: EncoderSession
    figures: dict[str, float]

    def encode(self, texts: Sequence[str | Texts]) -> Vectors:
        """Encode texts, or joined pairs: float32 (texts, dimensions)."""
        return served(self.reader, self.session)(texts)


def pack_encoder(
    encoder: nn.Module,
    tokenizer: bytes,
    max_tokens: int,
    precision: str,
    inputs: Inputs = "text",
    limits: Int8 = DEFAULT_LIMITS,
    base: Bundle | None = None,
) -> PackedEncoder:
    """Trace, prove and quantise an encoder.

    Args:
        encoder: A student's or a teacher's.
        tokenizer: In the Rust library's format.
        max_tokens: Of a row.
        precision: `float32` or `int8`.
        inputs: What a row is made of; of a pair apart it is one text.
        limits: What int8 may cost.
        base: Whose embedding the encoder has learnt nothing beyond, and whose table it therefore shares in int8.

    Raises:
        ParityError: a step loses more than it may.
    """
    graph = encoder_graph(encoder)
    with in_file(tokenizer) as file:
        reader = Tokenizer(file, max_tokens)
    asked = probes((*SENTENCES, *PASSAGES), "pair_joined" if inputs == "pair_joined" else "text")
    rows = [row.ids for row in reader.rows(asked)]
    session = _session(graph)
    expected = encode(encoder, rows)
    together = compare(session.run(rows), expected)
    alone = compare(np.concatenate([session.run([row]) for row in rows]), expected)
    say(f"float32 graph against PyTorch, {len(rows)} rows of {min(map(len, rows))} to {max(map(len, rows))} tokens:")
    say(f"  in one padded batch: {together.require(max_abs=PARITY_MAX_ABS)}")
    say(f"  each row alone:      {alone.require(max_abs=PARITY_MAX_ABS)}")
    figures = {"parity_max_abs": max(together.max_abs, alone.max_abs)}
    if precision == "int8":
        in_float32, graph = graph, quantise(graph)
        if base:
            graph = with_table_of(graph, base.path(MODEL))
        session = _session(graph)
        report = compare(np.concatenate([session.run([row]) for row in rows]), expected)
        say(f"int8 against PyTorch: {report.require(min_cosine=limits.min_cosine)}")
        say(f"graph: {len(in_float32) / 1e6:.1f} MB in float32, {len(graph) / 1e6:.1f} MB in int8")
        figures |= {"int8_mean_cosine": report.mean_cosine, "int8_min_cosine": report.min_cosine}
    files = {MODEL: graph, TOKENIZER: tokenizer}
    if isinstance(encoder, Student) and precision == "int8":
        rest, table = split(graph)
        files = {MODEL: rest} if base else {MODEL: rest, EMBEDDING: table, TOKENIZER: tokenizer}
    return PackedEncoder(files, space_id(graph, tokenizer), precision, reader, session, figures)


def packed_encoder(bundle: Bundle) -> PackedEncoder:
    """Give the encoder that a bundle already holds."""
    say(f"the encoder is that of {bundle.folder}")
    return PackedEncoder({}, bundle.manifest.space, bundle.manifest.precision, *open_encoder(bundle), {})


def bundle_encoder(bundle: Bundle) -> Encode:
    """Encode texts, or joined pairs, with a bundle's encoder; raises BundleError where its base is not there."""
    return served(*open_encoder(bundle))


def open_encoder(bundle: Bundle) -> tuple[Tokenizer, EncoderSession]:
    """Open a bundle's tokenizer and graph; raises BundleError where its base is not there."""
    reader = Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens)
    return reader, EncoderSession(bundle.path(MODEL), bundle.embedding)


def probes(texts: Sequence[str], inputs: Inputs) -> list[Texts]:
    """Make inputs of a kind out of texts: each alone, or with the next as its partner."""
    if inputs == "text":
        return [(text,) for text in texts]
    return list(zip(texts, (*texts[1:], texts[0]), strict=True))


def teacher_space(fingerprint: str, precision: str) -> str:
    """Give the space of a teacher's vectors.

    By its weights and not by its graph, so that a teacher built elsewhere by other versions is in the same space.
    """
    return space_id(fingerprint.encode(), precision.encode())


@contextmanager
def in_file(content: bytes) -> Iterator[Path]:
    """Put bytes where a library that only reads files finds them."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _session(graph: bytes) -> EncoderSession:
    with in_file(graph) as file:
        return EncoderSession(file)
