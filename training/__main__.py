"""The trainer's command line.

python -m training distill  --recipe training/recipes/student.toml     the student, from open text and a teacher
python -m training finetune --task sst2                                 a task, from that student
python -m training evaluate --run runs/student                          student and teacher side by side
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from training.checkpoint import Run, RunError
from training.corpus import CorpusError
from training.glue import TASKS, TaskError
from training.recipe import DistillRecipe, FinetuneRecipe, RecipeError, read_recipe
from training.targets import TargetsError
from training.teacher import TeacherError

RECIPES = Path(__file__).parent / "recipes"
EXPECTED = (RecipeError, CorpusError, TaskError, TeacherError, TargetsError, RunError)


def distill(options: argparse.Namespace) -> None:
    """Approximate a teacher."""
    from training.distillation import distil

    recipe = read_recipe(options.recipe, DistillRecipe)
    run = Run(options.run or Path("runs") / recipe.name)
    show(distil(recipe, options.data, options.cache, run), run)


def finetune(options: argparse.Namespace) -> None:
    """Fine-tune a student on a task."""
    from training.finetuning import finetune as fine

    recipe = read_recipe(options.recipe or RECIPES / f"{options.task}.toml", FinetuneRecipe)
    run = Run(options.run or Path("runs") / recipe.name)
    show(fine(recipe, TASKS[options.task], options.start, options.data, run), run)


def evaluate(options: argparse.Namespace) -> None:
    """Compare a student with its teacher on STS-B's dev set and on texts from other domains."""
    from training.evaluation import evaluate_student

    sys.stdout.write(evaluate_student(Run(options.run), options.teacher, options.data) + "\n")


def show(figures: dict[str, float], run: Run) -> None:
    """Print the final figures."""
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
    command.add_argument("--run", type=Path, help="folder of this run (default: runs/<recipe's name>)")
    command.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for teacher vectors")
    command.set_defaults(command=distill)

    command = commands.add_parser("finetune", parents=[shared], help="fine-tune a student on a task")
    command.add_argument("--task", choices=TASKS, required=True)
    command.add_argument("--recipe", type=Path, help="default: training/recipes/<task>.toml")
    command.add_argument(
        "--from", dest="start", type=Path, default=Path("models/student"), help="a student's bundle or run"
    )
    command.add_argument("--run", type=Path, help="folder of this run (default: runs/<recipe's name>)")
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
