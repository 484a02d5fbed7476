"""What ordinary rows look like to a bundle: kept in its manifest, so that the service can tell when traffic drifts."""

from collections.abc import Sequence
from pathlib import Path

from app.bundle import HEAD, MODEL, TOKENIZER, Bundle, Texts, write_bundle
from app.drift import RowCounter, baseline_of
from app.session import EncoderSession, HeadSession
from app.tokenizer import Tokenizer
from export.judgement import encoder_inputs
from export.parity import say, served


class BaselineError(ValueError):
    """Rows that no baseline can be taken from; the message says what is wrong with them."""


def add_baseline(bundle: Bundle, rows: Sequence[Texts]) -> Bundle:
    """Write a bundle anew with a baseline taken from texts or pairs, and with every other file as it was.

    Raises:
        BaselineError: there are no rows, or they are not what the bundle takes.
        BundleError: the bundle that holds the encoder is not beside this one.
    """
    manifest = bundle.manifest
    wanted = 1 if manifest.inputs == "text" else 2
    if not rows or any(len(texts) != wanted for texts in rows):
        raise BaselineError(f"{bundle.folder}: a baseline needs rows of {wanted} texts each")
    reader = Tokenizer(bundle.path(TOKENIZER), manifest.max_tokens)
    inputs = [(one,) if isinstance(one, str) else one for row in rows for one in encoder_inputs(manifest.inputs, row)]
    vectors = served(reader, EncoderSession(bundle.path(MODEL), bundle.embedding))(inputs)  # (inputs, dimensions)
    scores = (
        HeadSession(bundle.path(HEAD)).run(vectors.reshape(len(rows), -1, manifest.dimensions))
        if manifest.labels
        else None
    )
    counter = RowCounter(reader.unknown, manifest.dimensions, len(manifest.labels))
    tally = counter.count([row.ids for row in reader.rows(inputs)], vectors, scores)
    baseline = baseline_of(tally, manifest.labels)
    say(f"baseline of {baseline.rows:,} rows: {baseline.mean_tokens:.1f} tokens, {baseline.unknown_ratio:.3%} unknown")
    facts = manifest.model_copy(update={"baseline": baseline}).model_dump(exclude={"files"})
    return write_bundle(bundle.folder, facts, {file: bundle.path(file).read_bytes() for file in manifest.files})


def read_rows(file: Path) -> list[Texts]:
    """Read a text a line, or two with a tab between; blank lines are passed over.

    Raises:
        BaselineError: the file cannot be read.
    """
    try:
        return [tuple(line.split("\t")) for line in file.read_text("utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{file} cannot be read: {error}") from error
