"""The exporter's command line.

python -m export teacher                        models/teacher, from the installed package, a folder or a hub id
python -m export student --run runs/student     models/student, int8, from a distilled student
python -m export task    --run runs/sst2        models/sst2, int8, from a fine-tuned student
python -m export task    --run runs/sst2-teacher   models/sst2-teacher, from a fine-tuned teacher
python -m export baseline --bundle models/student --texts traffic.txt    what drift is measured from, of your own texts
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# The TorchScript exporter says on stderr, from C++, that it cannot infer the shape of a packed sequence; parity can.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from app.bundle import BundleError, read_bundle
from export.baseline import BaselineError, add_baseline, read_rows
from export.packing import export_student, export_task, export_teacher
from export.parity import ParityError
from training.checkpoint import Run, RunError
from training.teacher import TeacherError, load_teacher

MODELS = Path("models")


def teacher(options: argparse.Namespace) -> None:
    """Write the teacher's bundle."""
    export_teacher(load_teacher(options.source), options.bundle or MODELS / "teacher", options.precision)


def student(options: argparse.Namespace) -> None:
    """Write a student's bundle."""
    export_student(Run(options.run), options.bundle or MODELS / options.run.name, options.data)


def task(options: argparse.Namespace) -> None:
    """Write a task's bundle."""
    export_task(Run(options.run), options.bundle or MODELS / options.run.name, options.precision)


def baseline(options: argparse.Namespace) -> None:
    """Give a bundle another baseline."""
    add_baseline(read_bundle(options.bundle), read_rows(options.texts))


def parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="python -m export", description=(__doc__ or "").splitlines()[0])
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--bundle", type=Path, help="folder to write (default: models/<name>)")
    commands = parser.add_subparsers(required=True, metavar="teacher | student | task | baseline")

    command = commands.add_parser("teacher", parents=[shared], help="a BERT-type sentence encoder, as it is")
    command.add_argument("--source", default="package", help="the installed package, a folder, or a hub id")
    command.add_argument("--precision", choices=("float32", "int8"), default="float32")
    command.set_defaults(command=teacher)

    command = commands.add_parser("student", parents=[shared], help="a distilled student, int8")
    command.add_argument("--run", type=Path, default=Path("runs/student"))
    data = Path(os.environ.get("DATA_DIR", "data"))
    command.add_argument("--data", type=Path, default=data, help="holds glue/, which judges int8 (DATA_DIR, or data/)")
    command.set_defaults(command=student)

    command = commands.add_parser("task", parents=[shared], help="a fine-tuned student or teacher")
    command.add_argument("--run", type=Path, required=True)
    command.add_argument("--precision", choices=("float32", "int8"), help="default: student int8, teacher float32")
    command.set_defaults(command=task)

    command = commands.add_parser("baseline", help="what a bundle's traffic is held against, from texts of your own")
    command.add_argument("--bundle", type=Path, required=True, help="is written anew, with the same graph")
    command.add_argument("--texts", type=Path, required=True, help="a text a line; for pairs, two with a tab between")
    command.set_defaults(command=baseline)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what a user can mend is one line, not a traceback."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    # OSError: a disk that is full or may not be written to
    except (BaselineError, BundleError, ParityError, RunError, TeacherError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; no bundle was written, and one that was there is as it was\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
