from itertools import pairwise
from pathlib import Path

import pytest

from training.__main__ import recipe_of
from training.recipe import (
    DistillRecipe,
    FinetuneRecipe,
    RecipeError,
    TeacherTaskRecipe,
    as_dict,
    decisive,
    read_recipe,
)
from training.widening import widens_to

RECIPES = Path(__file__).parents[2] / "training" / "recipes"

SMALL = """
name = "small"
teacher = "package"
[corpus]
sources = [{ path = "lines.txt", sentences = 10 }]
[student]
[optimisation]
epochs = 1
learning_rate = 1e-3
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text)
    return file


def test_the_shipped_recipes_can_be_read():
    assert read_recipe(RECIPES / "student.toml", DistillRecipe).student.hidden == 256
    names = ("student", "further", "heads", "domain")  # each goes on from the one before
    steps = [read_recipe(RECIPES / f"{name}.toml", DistillRecipe) for name in names]
    assert all(widens_to(step.student, later.student) for step, later in pairwise(steps))
    assert len({step.corpus.held_out for step in steps}) == 1
    assert read_recipe(RECIPES / "sst2.toml", FinetuneRecipe).name == "sst2"
    assert read_recipe(RECIPES / "task.toml", FinetuneRecipe).distillation.kind == "logits"
    for name in ("task-teacher", "sst2-teacher"):
        recipe = read_recipe(RECIPES / f"{name}.toml", TeacherTaskRecipe)
        assert (recipe.name, recipe.pairs) == (name, "apart")


@pytest.mark.parametrize(
    ("task", "whose", "recipe"),
    [
        ("sst2", "", "sst2"),
        ("mrpc", "", "task"),
        ("snips", "", "task"),
        ("sst2", "-teacher", "sst2-teacher"),
        ("cola", "-teacher", "task-teacher"),
        ("task", "-teacher", "task-teacher"),
    ],
)
def test_a_task_of_glue_has_its_own_recipe_where_there_is_one(task: str, whose: str, recipe: str):
    assert recipe_of(task, whose) == RECIPES / f"{recipe}.toml"


def test_what_is_left_out_has_a_default(tmp_path: Path):
    assert read_recipe(written(tmp_path, SMALL), DistillRecipe).corpus.max_tokens == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 1", "epocs = 1"), "optimisation.epocs"),
        (("epochs = 1", "epochs = 0"), "optimisation.epochs"),
        (("1e-3", '"fast"'), "optimisation.learning_rate"),
        (('name = "small"', ""), "name"),
        (("[student]", "[student"), "not TOML"),
        (("[student]", "[loss]\ncosine = 0\n[student]"), "loss: .*at least one loss"),
        (("[student]", '[student]\npooling = ["median"]'), "student.pooling"),
        (
            ("[student]", '[student]\npooling = ["mean"]\nheads = 2'),
            "student: .*the pooling `embedding`",
        ),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, change: tuple[str, str], message: str):
    file = written(tmp_path, SMALL.replace(*change))
    with pytest.raises(RecipeError, match=message) as error:
        read_recipe(file, DistillRecipe)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("line", ["weight = 0", "weight = 1.5", "temperature = 0", 'kind = "hints"', "alpha = 0.5"])
def test_task_distillation_that_cannot_be_is_refused(tmp_path: Path, line: str):
    text = f'name = "t"\n[optimisation]\nepochs = 1\nlearning_rate = 1e-3\n[distillation]\n{line}\n'
    with pytest.raises(RecipeError, match=f"distillation.{line.partition(' ')[0]}"):
        read_recipe(written(tmp_path, text), FinetuneRecipe)


def test_the_licence_of_every_text_that_the_shipped_student_reads_is_known():
    for step in ("student", "further", "heads"):
        sources = read_recipe(RECIPES / f"{step}.toml", DistillRecipe).corpus.sources
        assert [source.path for source in sources if not source.licence] == []


def test_remarks_decide_no_training(tmp_path: Path):
    remarks = SMALL.replace("sentences = 10", 'sentences = 10, licence = "CC0"') + "[int8]\nmax_loss = 0.5\n"
    plain, remarked = (as_dict(read_recipe(written(tmp_path, text), DistillRecipe)) for text in (SMALL, remarks))
    assert plain != remarked
    assert decisive(plain) == decisive(remarked)
    assert decisive(plain | {"seed": 2}) != decisive(plain)
    assert decisive(plain)["corpus"]["sources"] == [
        {"path": "lines.txt", "sentences": 10, "passages": 0, "repeats": 1, "column": None}
    ]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"none\.toml: No such file"):
        read_recipe(tmp_path / "none.toml", DistillRecipe)
