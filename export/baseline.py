"""What ordinary rows look like to a bundle: kept in its manifest, so that the service can tell when traffic drifts."""

from collections.abc import Sequence
from pathlib import Path

from app.bundle import HEAD, Baseline, Bundle, Texts, write_bundle
from app.drift import Ids, RowCounter, baseline_of
from app.session import HeadSession, Vectors
from export.judgement import encoder_inputs
from export.packed_encoder import open_encoder
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
    reader, session = open_encoder(bundle)
    inputs = [one for row in rows for one in encoder_inputs(manifest.inputs, row)]
    vectors = served(reader, session)(inputs)  # (inputs, dimensions)
    scores = (
        HeadSession(bundle.path(HEAD)).run(vectors.reshape(len(rows), -1, manifest.dimensions))
        if manifest.labels
        else None
    )
    ids = [row.ids for row in reader.rows(inputs)]
    baseline = take_baseline(ids, vectors, reader.unknown, manifest.labels, scores)
    facts = manifest.model_copy(update={"baseline": baseline}).model_dump(exclude={"files"})
    return write_bundle(bundle.folder, facts, {file: bundle.path(file).read_bytes() for file in manifest.files})


def take_baseline(
    rows: Sequence[Ids],
    vectors: Vectors,
    unknown: int | None,
    labels: Sequence[str] = (),
    scores: Vectors | None = None,
) -> Baseline:
    """Take a baseline from what an encoder got, and what it and a head gave.

    Args:
        rows: Token ids, of at least one row; a pair that is encoded apart makes two.
        vectors: Of the rows, (rows, dimensions) or (inputs, texts, dimensions).
        unknown: The token id that stands for what the vocabulary lacks.
        labels: A classifier's; without them scores do not count.
        scores: The head's, (inputs, labels).
    """
    counter = RowCounter(unknown, vectors.shape[-1], len(labels))
    baseline = baseline_of(counter.count(rows, vectors.reshape(len(rows), -1), scores), labels)
    say(f"baseline of {baseline.rows:,} rows: {baseline.mean_tokens:.1f} tokens, {baseline.unknown_ratio:.3%} unknown")
    return baseline


def read_rows(file: Path) -> list[Texts]:
    """Read a text a line, or two with a tab between; blank lines are passed over.

    Raises:
        BaselineError: the file cannot be read.
    """
    try:
        return [tuple(line.split("\t")) for line in file.read_text("utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{file} cannot be read: {error}") from error
