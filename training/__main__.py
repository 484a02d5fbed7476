"""The trainer's command line.

python -m training distill  --recipe training/recipes/student.toml     the student, from open text and a teacher
python -m training finetune --task sst2                                 a task of GLUE, from that student
python -m training finetune --task mine --train my.tsv --text sentence  a task of your own
python -m training evaluate --run runs/student                          student and teacher side by side

Training takes several processes as well: torchrun --nproc-per-node 2 -m training distill ...
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.checkpoint import Run, RunError
from training.corpus import CorpusError
from training.glue import TASKS, read_dev, read_train
from training.peers import join_peers
from training.recipe import DistillRecipe, FinetuneRecipe, RecipeError, read_recipe
from training.store import StoreError
from training.table import Columns, read_task
from training.targets import TargetsError
from training.task import Examples, Task, TaskError
from training.teacher import TeacherError

RECIPES = Path(__file__).parent / "recipes"
EXPECTED = (RecipeError, CorpusError, TaskError, TeacherError, StoreError, TargetsError, RunError)


def distill(options: argparse.Namespace) -> None:
    """Approximate a teacher."""
    from training.distillation import distil

    recipe = read_recipe(options.recipe, DistillRecipe)
    with join_peers() as peers:
        run = Run(options.into or Path("runs") / recipe.name, writes=peers.first)
        show(distil(recipe, options.data, options.cache, run, peers), run)


def finetune(options: argparse.Namespace) -> None:
    """Fine-tune a student on a task of GLUE, or on a table of one's own."""
    from training.finetuning import finetune as fine

    own = RECIPES / f"{options.task}.toml"
    recipe = read_recipe(options.recipe or (own if own.is_file() else RECIPES / "task.toml"), FinetuneRecipe)
    if options.frozen:
        recipe = replace(recipe, encoder_rate=0.0)
    task, train, dev = read_rows(options, recipe.seed)
    with join_peers() as peers:
        run = Run(options.into or Path("runs") / task.name, writes=peers.first)
        show(fine(recipe, task, train, dev, options.start, run, peers), run)


def read_rows(options: argparse.Namespace, seed: int) -> tuple[Task, Examples, Examples]:
    """Read the rows that the options name; raises TaskError where they do not fit together."""
    if options.train is None:
        if options.task not in TASKS:
            known = ", ".join(TASKS)
            raise TaskError(f"{options.task!r} is no task of GLUE ({known}); a table of your own needs --train")
        row = TASKS[options.task]
        return row.task, read_train(row, options.data), read_dev(row, options.data)
    if not options.text or len(options.text) > 2:
        raise TaskError("--train needs --text COLUMN once, or twice for pairs")
    columns = Columns(tuple(options.text), options.label)
    return read_task(options.task, options.train, options.dev, columns, seed, regression=options.regression)


def evaluate(options: argparse.Namespace) -> None:
    """Compare a student with its teacher on STS-B's dev set and on texts from other domains."""
    from training.evaluation import evaluate_student

    sys.stdout.write(evaluate_student(Run(options.run), options.teacher, options.data) + "\n")


def show(figures: dict[str, float], run: Run) -> None:
    """Print the final figures."""
    if not run.writes:
        return
    sys.stdout.write("".join(f"{name}: {value:.4f}\n" for name, value in figures.items()) + f"saved in {run.folder}\n")


def parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    shared = argparse.ArgumentParser(add_help=False)
    data = Path(os.environ.get("DATA_DIR", "data"))
    shared.add_argument("--data", type=Path, default=data, help="folder of corpus/ and glue/ (DATA_DIR, else data/)")
    shared.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    commands = parser.add_subparsers(required=True, metavar="distill | finetune | evaluate")

    command = commands.add_parser("distill", parents=[shared], help="approximate a teacher's sentence vectors")
    command.add_argument("--recipe", type=Path, default=RECIPES / "student.toml")
    command.add_argument("--into", type=Path, help="folder of this run (default: runs/<recipe's name>)")
    command.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for teacher vectors")
    command.set_defaults(command=distill)

    command = commands.add_parser("finetune", parents=[shared], help="fine-tune a student on a task")
    command.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}; or, with --train, a name for yours")
    command.add_argument("--train", type=Path, help="a table of your own: .tsv, .csv or .jsonl")
    command.add_argument("--dev", type=Path, help="rows to score it on (default: a tenth of --train, set aside)")
    command.add_argument("--text", action="append", help="column of the text; give it twice for pairs")
    command.add_argument("--label", default="label", help="column of the label (default: label)")
    command.add_argument("--regression", action="store_true", help="the label is a number")
    command.add_argument("--frozen", action="store_true", help="train only a head on the student's vectors: seconds")
    command.add_argument("--recipe", type=Path, help="default: training/recipes/<task>.toml, or task.toml")
    command.add_argument(
        "--from", dest="start", type=Path, default=Path("models/student"), help="a student's bundle or run"
    )
    command.add_argument("--into", type=Path, help="folder of this run (default: runs/<task>)")
    command.set_defaults(command=finetune)

    command = commands.add_parser("evaluate", parents=[shared], help="student and teacher side by side")
    command.add_argument("--run", type=Path, default=Path("runs/student"))
    command.add_argument("--teacher", default="package", help="the installed package, a folder, or a hub id")
    command.set_defaults(command=evaluate)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what a user can mend is one line, not a traceback."""
    options = parser().parse_args(arguments)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    try:
        options.command(options)
    except EXPECTED as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from the last checkpoint\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
