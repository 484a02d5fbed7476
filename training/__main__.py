"""The trainer's command line.

python -m training distill  --recipe training/recipes/student.toml     the student, from open text and a teacher
python -m training finetune --task sst2                                 a task of GLUE, from that student
python -m training finetune --task mine --train my.tsv --text sentence  a task of your own
python -m training finetune-teacher --task sst2                         the teacher itself, on the same task
python -m training finetune --task sst2 --teacher runs/sst2-teacher     task distillation: labels and that teacher
python -m training compare runs/sst2*                                   finished runs of tasks in one table
python -m training evaluate --bundle models/student                     teacher, student and its int8 side by side
python -m training data glue                                            GLUE's files, from a hub, into DATA_DIR

Training takes several processes as well: torchrun --nproc-per-node 2 -m training distill ...
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from training.checkpoint import Run, RunError
from training.corpus import CorpusError
from training.download import CORPUS_FILE, LAYOUT, DownloadError, fetch_corpus, fetch_glue
from training.glue import TASKS, read_dev, read_train
from training.peers import PeersError, join_peers
from training.recipe import DistillRecipe, FinetuneRecipe, RecipeError, TeacherTaskRecipe, read_recipe
from training.store import StoreError
from training.table import Columns, read_task
from training.targets import TargetsError
from training.task import Examples, Task, TaskError
from training.teacher import TeacherError

if TYPE_CHECKING:
    from training.evaluation import Evaluation
    from training.soft_targets import Teaching
    from training.start import Start

Seeded = TypeVar("Seeded", FinetuneRecipe, TeacherTaskRecipe)

RECIPES = Path(__file__).parent / "recipes"
# Whatever a run's own seed: a teacher, its student and every seed set the same rows aside.
DEV_SEED = 1
EXPECTED = (
    RecipeError,
    CorpusError,
    TaskError,
    TeacherError,
    StoreError,
    TargetsError,
    RunError,
    DownloadError,
    PeersError,
    OSError,  # a disk that is full or may not be written to
)


def distill(options: argparse.Namespace) -> None:
    """Approximate a teacher."""
    from training.distillation import distil

    recipe = read_recipe(options.recipe, DistillRecipe)
    start = started(options.start) if options.start else None
    with join_peers(options.device) as peers:
        run = Run(options.into or Path("runs") / recipe.name, writes=peers.first)
        with run.held():
            show(distil(recipe, options.data, options.cache, run, peers, start), run)


def finetune(options: argparse.Namespace) -> None:
    """Fine-tune a student on a task of GLUE, or on a table of one's own."""
    from training.finetuning import finetune as fine
    from training.start import from_scratch

    require_consistent(options)
    recipe = seeded(read_recipe(options.recipe or recipe_of(options.task), FinetuneRecipe), options)
    if options.frozen:
        recipe = replace(recipe, encoder_rate=0.0)
    if options.scratch:
        recipe = replace(recipe, encoder_rate=1.0, embedding_rate=1.0)  # what has not been trained needs no sparing
    task, train, dev = read_rows(options)
    start = started(options.start)
    if options.scratch:
        start = from_scratch(start, recipe.seed)
    with join_peers(options.device) as peers:
        run = Run(options.into or Path("runs") / task.name, writes=peers.first)
        with run.held():
            taught = teaching(options, recipe.seed, task, train, dev)
            show(fine(recipe, task, train, dev, start, run, peers, taught), run)


def started(folder: Path) -> "Start":
    """Load the student to go on from, and warn of one that is not finished."""
    from training.start import load_start

    start = load_start(folder)
    if "run" in start.origin and (so_far := Run(folder).unfinished()):
        sys.stderr.write(f"warning: {folder} is not finished: {so_far}; its weights so far are taken\n")
    return start


def recipe_of(task: str, whose: str = "") -> Path:
    """Find the recipe to follow unless another is named: a table of one's own may be called as some other's recipe.

    Args:
        task: By name.
        whose: Empty for a student, `-teacher` for a teacher.
    """
    own = RECIPES / f"{task}{whose}.toml"
    return own if task in TASKS and own.is_file() else RECIPES / f"task{whose}.toml"


def require_consistent(options: argparse.Namespace) -> None:
    """Raises RecipeError for options of `finetune` of which one would be passed over."""
    if options.frozen and options.scratch:
        raise RecipeError("--frozen keeps an encoder as it was trained, and with --scratch nothing was: leave one out")
    if options.transfer and not options.teacher:
        raise RecipeError("--transfer names rows without labels: only a --teacher can answer them")
    if options.augment is not None and not options.teacher:
        raise RecipeError("--augment varies rows beyond what their labels say: only a --teacher can answer them")
    if not options.transfer and (options.transfer_text or options.transfer_rows is not None):
        raise RecipeError("--transfer-text and --transfer-rows say how to read --transfer: name its files")


def teaching(options: argparse.Namespace, seed: int, task: Task, train: Examples, dev: Examples) -> "Teaching | None":
    """Load the fine-tuned teachers and the rows without labels that the options name, if any."""
    from training.soft_targets import Teaching
    from training.transfer import transfer_rows
    from training.tuned_teacher import load_tuned_teacher

    if options.teacher is None:
        return None
    teachers = [load_tuned_teacher(folder) for folder in options.teacher]
    known = [texts for row in (*train.texts, *dev.texts) for texts in task.orders(row)]
    columns, limit = options.transfer_text or (), options.transfer_rows
    transfer = transfer_rows(options.transfer, columns, task.texts, limit, seed, known) if options.transfer else []
    files = [file.name for file in options.transfer or ()]
    if options.augment is None:
        return Teaching(teachers, transfer, files)
    from training.augmentation import augment, mask_token, parts_of_speech

    mask = mask_token(teachers[0].tokenizer)
    variants = augment(train.texts, options.augment, seed, mask, parts_of_speech, (*known, *transfer))
    return Teaching(teachers, transfer, files, variants, options.augment)


def finetune_teacher(options: argparse.Namespace) -> None:
    """Fine-tune a teacher on a task of GLUE, or on a table of one's own."""
    from training.teacher import load_teacher
    from training.tuned_teacher import finetune_teacher as fine

    recipe = seeded(read_recipe(options.recipe or recipe_of(options.task, "-teacher"), TeacherTaskRecipe), options)
    if options.symmetric and recipe.pairs == "joined":
        raise RecipeError(
            'pairs = "joined" reads the texts of a pair in their order: leave out --symmetric, or choose "apart"'
        )
    task, train, dev = read_rows(options)
    with join_peers(options.device) as peers:
        run = Run(options.into or Path("runs") / f"{task.name}-teacher", writes=peers.first)
        with run.held():
            show(fine(recipe, task, train, dev, load_teacher(options.teacher), run, peers), run)


def seeded(recipe: Seeded, options: argparse.Namespace) -> Seeded:
    """Let --seed override the recipe's."""
    return recipe if options.seed is None else replace(recipe, seed=options.seed)


def read_rows(options: argparse.Namespace) -> tuple[Task, Examples, Examples]:
    """Read the rows that the options name; raises TaskError where they do not fit together."""
    if options.task in TASKS:
        own = ("train", "dev", "text", "label", "regression", "symmetric")
        table = {name: getattr(options, name) for name in own}
        if given := [f"--{name}" for name, value in table.items() if value]:
            raise TaskError(
                f"{options.task} is read from GLUE's own files, and its labels are GLUE's: "
                f"leave out {' and '.join(given)}, or give a table of your own another name with --task"
            )
        row = TASKS[options.task]
        return row.task, read_train(row, options.data), read_dev(row, options.data)
    if options.train is None:
        known = ", ".join(TASKS)
        raise TaskError(f"{options.task!r} is no task of GLUE ({known}); a table of your own needs --train")
    if not options.text or len(options.text) > 2:
        raise TaskError("--train needs --text COLUMN once, or twice for pairs")
    if options.symmetric and len(options.text) == 1:
        raise TaskError("--symmetric is for pairs, whose texts may change places: give --text twice, or leave it out")
    columns = Columns(tuple(options.text), options.label or "label")
    task, train, dev = read_task(
        options.task,
        options.train,
        options.dev,
        columns,
        DEV_SEED,
        regression=options.regression,
        symmetric=options.symmetric,
    )
    if are_values(task.labels):
        values = f"the {len(task.labels)} labels of {options.train} are numbers, and each is a class of its own"
        sys.stderr.write(f"warning: {values}; --regression learns their values\n")
    learnt = {texts for row in train.texts for texts in task.orders(row)}
    if twice := sum(texts in learnt for texts in dev.texts):
        where = f"of {len(dev)} rows of {options.dev} have texts that stand in {options.train} as well"
        sys.stderr.write(f"warning: {twice} {where}; the figures are better than on new texts\n")
    return task, train, dev


def are_values(labels: Sequence[str]) -> bool:
    """Whether labels are numbers by which no one would number classes."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return not all(number.is_integer() for number in numbers)


def compare(options: argparse.Namespace) -> None:
    """Show finished runs of tasks in one table."""
    from training.settings_table import as_json, as_markdown, settings

    rows = settings([Run(folder) for folder in options.runs])
    if options.json:
        options.json.write_text(as_json(rows))
    sys.stdout.write(as_markdown(rows))


def evaluate(options: argparse.Namespace) -> None:
    """Set the teacher, students and their bundles side by side."""
    # bundles are export's to read: the one way from here to there
    from export.columns import columns, first_recipe, task_answers, with_less_held_out
    from training.evaluation import TASKS_COLUMN, all_measures, teacher_of, with_tasks
    from training.evaluation import evaluate as side_by_side
    from training.static import static_encoders

    bundles = options.bundle or ([] if options.run else [Path("models/student")])
    followed = first_recipe(options.run, bundles)
    recipe = read_recipe(options.recipe, DistillRecipe) if options.recipe else followed
    teacher = teacher_of(recipe, options.teacher or (followed.teacher if followed else "package"))
    found = columns(teacher, options.run, bundles)
    static = static_encoders(teacher, options.cache) if options.static else {}
    notes = [f"Teacher: {teacher.name}. Seeds: {', '.join(map(str, options.seeds))}."]
    if others := with_less_held_out(recipe, options.run, bundles) if recipe else []:
        names = ", ".join(dict.fromkeys(found.names[folder] for folder in others))
        notes.append(
            f"{names}: held out a smaller share of all texts, so may have learnt rows that are called held out here."
        )
    measures = all_measures(options.data, options.cache, teacher, recipe, options.seeds)
    if options.into:
        options.into.mkdir(parents=True, exist_ok=True)
    log = options.into / "progress.jsonl" if options.into else None
    tasks = {models: task_answers(models) for models in dict.fromkeys(folder.parent for folder in bundles)}
    evaluation = side_by_side(found.encoders | static, measures, notes, log)
    for models, answers in tasks.items():
        column = TASKS_COLUMN if len(tasks) == 1 else f"{TASKS_COLUMN} of {models}"
        evaluation = with_tasks(evaluation, answers, options.data, column)
    sys.stdout.write(evaluation.markdown())
    if options.into:
        save(evaluation, {found.names[folder]: Run(folder) for folder in options.run}, options.into)


def save(evaluation: "Evaluation", runs: Mapping[str, Run], folder: Path) -> None:
    """Write tables and plots, of runs by their names."""
    from training.measures import LENGTH
    from training.plots import fidelity_by_length, learning_curves

    (folder / "evaluation.md").write_text(evaluation.markdown(), encoding="utf-8")
    (folder / "evaluation.json").write_text(evaluation.json(), encoding="utf-8")
    if evaluation.section(LENGTH):
        fidelity_by_length(evaluation, folder / "fidelity-by-length.png")
    if runs:
        learning_curves({name: run.metrics() for name, run in runs.items()}, folder / "learning-curves.png")
    sys.stderr.write(f"saved in {folder}\n")


def fetch(options: argparse.Namespace) -> None:
    """Fetch GLUE or a sentence corpus into the data folder."""
    files = fetch_glue(options.data) if options.what == "glue" else [fetch_corpus(options.data, options.sentences)]
    for file in files:
        sys.stdout.write(f"{file}\n")


def show(figures: dict[str, float], run: Run) -> None:
    """Print the final figures."""
    if not run.writes:
        return
    sys.stdout.write("".join(f"{name}: {value:.4f}\n" for name, value in figures.items()) + f"saved in {run.folder}\n")


def whole(least: int) -> Callable[[str], int]:
    """Read an option that is a whole number; argparse names the option in front of the error."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to 2^63 - 1")
        return int(text)

    return read


def parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    shared = argparse.ArgumentParser(add_help=False)
    data = Path(os.environ.get("DATA_DIR", "data"))
    shared.add_argument("--data", type=Path, default=data, help="folder of corpus/ and glue/ (DATA_DIR, else data/)")
    shared.add_argument("--threads", type=whole(1), help="CPU threads (default: PyTorch's choice)")
    trained = argparse.ArgumentParser(add_help=False, parents=[shared])
    trained.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("distill", parents=[trained], help="approximate a teacher's sentence vectors")
    command.add_argument("--recipe", type=Path, default=RECIPES / "student.toml")
    command.add_argument(
        "--from", dest="start", type=Path, help="a student's bundle or run to go on from (default: none)"
    )
    command.add_argument("--into", type=Path, help="folder of this run (default: runs/<recipe's name>)")
    command.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for teacher vectors")
    command.set_defaults(command=distill)

    rows = argparse.ArgumentParser(add_help=False, parents=[trained])
    rows.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}; or, with --train, a name for yours")
    rows.add_argument("--train", type=Path, help="a table of your own: .tsv, .csv or .jsonl")
    rows.add_argument("--dev", type=Path, help="rows to score it on (default: a tenth of --train, set aside)")
    rows.add_argument("--text", action="append", help="column of the text; give it twice for pairs")
    rows.add_argument("--label", help="column of the label (default: label)")
    rows.add_argument("--regression", action="store_true", help="the label is a number")
    rows.add_argument("--symmetric", action="store_true", help="a pair means the same in either order")
    rows.add_argument("--seed", type=whole(0), help="instead of the recipe's")

    command = commands.add_parser("finetune", parents=[rows], help="fine-tune a student on a task")
    command.add_argument("--frozen", action="store_true", help="train only a head on the student's vectors: seconds")
    command.add_argument(
        "--recipe",
        type=Path,
        help="default: training/recipes/task.toml; for a task of GLUE <task>.toml, if there is one",
    )
    command.add_argument(
        "--from", dest="start", type=Path, default=Path("models/student"), help="a student's bundle or run"
    )
    command.add_argument("--scratch", action="store_true", help="a student of that shape that approximated nothing")
    command.add_argument(
        "--teacher",
        type=Path,
        action="extend",
        nargs="+",
        metavar="RUN",
        help="task distillation: a run of finetune-teacher; of several the mean of their answers is learnt",
    )
    command.add_argument(
        "--transfer",
        type=Path,
        action="extend",
        nargs="+",
        metavar="FILE",
        help="texts without labels for --teacher, in any form of a corpus; for pairs every two lines are one",
    )
    command.add_argument(
        "--transfer-text",
        action="append",
        metavar="COLUMN",
        help="column of their text; give it twice for a table of pairs",
    )
    command.add_argument("--transfer-rows", type=whole(1), metavar="N", help="draw so many of them (default: all)")
    command.add_argument(
        "--augment", type=whole(1), metavar="N", help="up to N variants of each training row for --teacher to answer"
    )
    command.add_argument("--into", type=Path, help="folder of this run (default: runs/<task>)")
    command.set_defaults(command=finetune)

    command = commands.add_parser("finetune-teacher", parents=[rows], help="fine-tune the teacher itself on a task")
    command.add_argument(
        "--recipe",
        type=Path,
        help="default: training/recipes/task-teacher.toml; for a task of GLUE <task>-teacher.toml, if there is one",
    )
    command.add_argument("--teacher", default="package", help="the installed package, a folder, or a hub id")
    command.add_argument("--into", type=Path, help="folder of this run (default: runs/<task>-teacher)")
    command.set_defaults(command=finetune_teacher)

    command = commands.add_parser("compare", help="finished runs of tasks in one table, seeds folded")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    command.set_defaults(command=compare, threads=None)

    command = commands.add_parser("evaluate", parents=[shared], help="teacher, students and bundles side by side")
    command.add_argument(
        "--run", type=Path, action="extend", nargs="*", default=[], help="runs of students, in float32"
    )
    command.add_argument(
        "--bundle",
        type=Path,
        action="extend",
        nargs="*",
        help="bundles of encoders (default: models/student, or none)",
    )
    command.add_argument("--static", action="store_true", help="also static models of the teacher, by model2vec")
    command.add_argument("--teacher", help="package, a folder, or a hub id (default: the first student's)")
    command.add_argument("--recipe", type=Path, help="names the corpus (default: the recipe of the first student)")
    command.add_argument(
        "--seeds", type=whole(0), nargs="+", default=[*range(1, 11)], help="draws of probe rows (default: 1 to 10)"
    )
    command.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for held-out rows, static models")
    command.add_argument("--into", type=Path, metavar="FOLDER", help="write Markdown, JSON and plots there as well")
    command.set_defaults(command=evaluate)

    command = commands.add_parser("data", parents=[shared], help="fetch data from a hub", epilog=LAYOUT)
    command.add_argument("what", choices=("glue", "corpus"), help=f"all nine tasks, or {CORPUS_FILE} from Wikipedia")
    command.add_argument("--sentences", type=whole(1), default=2_000_000, help="of the corpus (default: 2,000,000)")
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.set_defaults(command=fetch)
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
        sys.stderr.write("stopped; a training goes on from the last checkpoint, given the same command again\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
