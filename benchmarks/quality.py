"""How good the shipped bundles are, beside the teacher, scored in one run from the files that serve.

python -m benchmarks.quality     needs DATA_DIR (glue/, and fidelity/ for the other domains)
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from app.bundle import HEAD, MODEL, TOKENIZER, Bundle, BundleError, read_bundle
from app.session import EncoderSession, HeadSession, Vectors
from app.tokenizer import Tokenizer
from export.parity import served
from training.encoding import encode, tokenize
from training.evaluation import Encode, comparison
from training.finetuning import load_start
from training.glue import TASKS, read_dev
from training.task import TaskError
from training.teacher import load_teacher


def bundle_encoder(bundle: Bundle) -> Encode:
    """Encode texts with a bundle's own graph and tokenizer, as the service does."""
    return served(Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens), EncoderSession(bundle.path(MODEL)))


def weights_encoder(folder: Path) -> Encode:
    """Encode texts with the float16 weights that a student's bundle carries, in float32 PyTorch."""
    start = load_start(folder)

    def encode_texts(texts: Sequence[str]) -> Vectors:
        return encode(start.student, tokenize(start.tokenizer, texts, start.origin["max_tokens"]))

    return encode_texts


def teacher_encoder(source: str) -> Encode:
    """Encode texts with the teacher in float32 PyTorch."""
    teacher = load_teacher(source)

    def encode_texts(texts: Sequence[str]) -> Vectors:
        return encode(teacher.encoder, tokenize(teacher.tokenizer, texts, teacher.max_tokens))

    return encode_texts


def task_figures(models: Path, data: Path) -> dict[str, dict[str, float]]:
    """Score every bundle of a GLUE task on its dev set: metrics by task."""
    bundles = [read_bundle(folder) for folder in sorted(models.glob("[!.]*/"))]
    encoders = {bundle.manifest.space: bundle for bundle in bundles if bundle.has_encoder}
    figures: dict[str, dict[str, float]] = {}
    for bundle in bundles:
        row = TASKS.get(bundle.manifest.name)
        if row is not None:
            dev = read_dev(row, data)
            encode_texts = bundle_encoder(encoders[bundle.manifest.base or bundle.manifest.space])
            vectors = encode_texts([text for texts in dev.texts for text in texts])
            by_row: Vectors = vectors.reshape(len(dev), row.task.texts, -1)
            figures[row.task.name] = row.task.score(dev.labels, HeadSession(bundle.path(HEAD)).run(by_row))
    return figures


def task_table(figures: dict[str, dict[str, float]]) -> str:
    """Show the figures of `task_figures` as a Markdown table."""
    lines = ["| task | figure | int8 bundle |", "| --- | --- | ---: |"]
    lines += [f"| {task} | dev {name} | {value:.4f} |" for task in figures for name, value in figures[task].items()]
    return "\n".join(lines)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DATA_DIR", "data")))
    parser.add_argument("--teacher", default="package", help="the installed package, a folder, or a hub id")
    options = parser.parse_args()
    try:
        encoders = {
            "student int8": bundle_encoder(read_bundle(options.models / "student")),
            "student float32": weights_encoder(options.models / "student"),
            "teacher float32": teacher_encoder(options.teacher),
        }
        sys.stdout.write(comparison(encoders, "teacher float32", options.data) + "\n\n")
        sys.stdout.write(task_table(task_figures(options.models, options.data)) + "\n")
    except (BundleError, TaskError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
