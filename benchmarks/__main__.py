"""How fast the student is beside everything else, side by side in one run.

python -m benchmarks [in-process] [http] [start] [growth] [quality] [--into FOLDER]

Needs models/student and models/teacher. Peers are installed from the package index into --cache, once. What quality
costs is measured where it is asked for by name, since it needs --data.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from app.bundle import BundleError
from benchmarks import growth, in_process, quality, starting, through_http
from benchmarks.report import Table, machine, publish
from benchmarks.servers import CACHE
from export.parity import SENTENCES


def student_alone(options: argparse.Namespace) -> Path:
    """Give a models folder that holds nothing but the student."""
    folder: Path = options.cache / "student-alone"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(options.models / "student", folder / "student")
    return folder


def measure_in_process(options: argparse.Namespace) -> list[Table]:
    """Compare models."""
    return [in_process.table(options.models, options.cache, options.sentences)]


def measure_http(options: argparse.Namespace) -> list[Table]:
    """Compare servers."""
    return through_http.tables(student_alone(options), options.cache, options.sentences)


def measure_start(options: argparse.Namespace) -> list[Table]:
    """Compare how soon servers are ready, and what they hold."""
    return [starting.table(student_alone(options), options.models, options.cache, options.sentences)]


def measure_growth(options: argparse.Namespace) -> list[Table]:
    """Draw how cost grows."""
    return growth.tables(options.models, options.cache, options.sentences, options.into)


def measure_quality(options: argparse.Namespace) -> list[Table]:
    """Draw what models keep against what they cost."""
    return quality.tables(options.models, options.cache, options.sentences, options.data, options.into)


PARTS: dict[str, Callable[[argparse.Namespace], list[Table]]] = {
    "in-process": measure_in_process,
    "http": measure_http,
    "start": measure_start,
    "growth": measure_growth,
}
ASKED_FOR = {"quality": measure_quality}


def main() -> int:
    """Run some parts, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *ASKED_FOR, []], metavar="part")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="peers and graphs made once")
    parser.add_argument("--file", type=Path, help="sentences, one a line (default: export/sentences.txt)")
    parser.add_argument("--into", type=Path, default=Path("runs/benchmarks"), help="tables as Markdown and JSON, plots")
    data = Path(os.environ.get("DATA_DIR", "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of glue/ and fidelity/ (DATA_DIR, else data/)")
    options = parser.parse_args()
    try:
        options.sentences = options.file.read_text(encoding="utf-8").splitlines() if options.file else list(SENTENCES)
        for part in options.parts or PARTS:
            publish(part, machine(), {**PARTS, **ASKED_FOR}[part](options), options.into)
    except (BundleError, RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
