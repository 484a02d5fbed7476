import pytest

from app.bundle import Calibration, Part, Slices
from export.card import model_card

ENCODER = {
    "name": "student",
    "role": "student",
    "kind": "encoder",
    "inputs": "text",
    "dimensions": 384,
    "max_tokens": 256,
    "precision": "int8",
    "space": "0123456789abcdef",
    "labels": (),
    "figures": {"int8_mean_cosine": 0.9994},
    "training": {
        "teacher": "all-MiniLM-L6-v2",
        "rows": 100,
        "tokens": 1200,
        "recipe": {
            "name": "student",
            "optimisation": {"epochs": 2},
            "corpus": {
                "sources": [
                    {"path": "wiki.txt", "sentences": 90, "passages": 5, "licence": "CC BY-SA"},
                    {"path": "older.txt", "sentences": 10, "passages": 0},
                ]
            },
        },
    },
}
TASK = ENCODER | {
    "name": "mood",
    "kind": "classifier",
    "labels": ("bad", "good"),
    "figures": {"mood_dev_accuracy_int8": 0.9},
    "training": {"rows": 100, "recipe": {"task": "mood", "seed": 1, "optimisation": {"epochs": 3}}},
    "calibration": Calibration(temperature=1.6321, ece_before=0.0721, ece_after=0.0215, rows=872),
    "slices": Slices(
        metric="accuracy", parts={"all rows": Part(rows=872, score=0.8658), "negation": Part(rows=201, score=0.8012)}
    ),
}


def test_an_encoders_card_gives_each_source_with_its_licence():
    card = model_card(ENCODER)
    assert "| wiki.txt | CC BY-SA | 90 | 5 |\n| older.txt | not stated | 10 | 0 |" in card
    assert "Printed by `python -m export student --run runs/student --bundle models/student`." in card
    assert "## Where it is weaker" not in card
    assert "## Calibration" not in card


def test_an_encoders_card_says_on_which_pairs_it_is_weaker_and_what_prints_that():
    slices = Slices(metric="spearman", parts={"negation": Part(rows=205, score=0.7795)})
    card = model_card(ENCODER | {"slices": slices})
    assert "Pairs of STS-B's dev set" in card
    assert "| negation | 205 | 0.7795 |" in card
    assert card.count("Printed by `python -m export student --run runs/student --bundle models/student`.") == 2
    assert "`python -m training evaluate --bundle models/student` sets its teacher beside it" in card


def test_an_encoders_card_names_the_losses_that_it_was_trained_by():
    loss = {"cosine": 0.0, "squared": 1.0, "similarity": 0.5}
    recipe = ENCODER["training"]["recipe"] | {"loss": loss}
    card = model_card(ENCODER | {"training": ENCODER["training"] | {"recipe": recipe}})
    assert "2 passes, squared and similarity loss to the teacher's vectors" in card


def test_an_encoders_card_says_from_which_students_it_went_on():
    def corpus(path: str) -> dict[str, object]:
        return {"sources": [{"path": path, "sentences": 70, "passages": 0, "licence": "CC0"}]}

    first = {"run": "further", "corpus": corpus("first.txt")}
    start = {"bundle": "general", "space": "89ab", "corpus": corpus("second.txt"), "from": first}
    recipe = ENCODER["training"]["recipe"] | {"from": start}
    card = model_card(ENCODER | {"training": ENCODER["training"] | {"recipe": recipe}})
    assert "--recipe training/recipes/student.toml --from models/general\n" in card
    assert "It began as models/general of space `89ab`, which had learnt from:\n\n| source |" in card
    assert "That one began as runs/further, which had learnt from:\n\n| source |" in card
    told = ["| older.txt |", "It began as", "| second.txt | CC0 | 70 | 0 |", "That one began as", "| first.txt | CC0 |"]
    places = [card.index(words) for words in told]
    assert places == sorted(places)
    assert "It began as" not in model_card(ENCODER)


def test_a_teachers_card_gives_the_command_that_makes_it():
    made = {"source": "small-bert", "weights_sha256": "0123"}
    teacher = ENCODER | {"name": "teacher", "role": "teacher", "training": made}
    assert "`python -m export teacher --source small-bert --precision int8`, from weights" in model_card(teacher)
    published = teacher | {"precision": "float32", "training": made | {"source": "all-MiniLM-L6-v2"}}
    assert "Printed by `python -m export teacher`." in model_card(published)


@pytest.mark.parametrize("manifest", [ENCODER, TASK], ids=["encoder", "task"])
def test_a_card_says_what_a_bundle_is_for_and_what_not(manifest: dict[str, object]):
    purpose = model_card(manifest).partition("## What it is for")[2].partition("##")[0]
    assert "Not for: other languages" in purpose


def test_a_tasks_card_shows_slices_and_calibration_with_their_command():
    card = model_card(TASK)
    assert "| slice | rows | accuracy |\n| --- | ---: | ---: |\n| all rows | 872 | 0.8658 |" in card
    assert "| negation | 201 | 0.8012 |" in card
    assert "softmax(logits / 1.6321)" in card
    assert "is 0.0721 without a temperature, and 0.0215 with one" in card
    assert card.count("Printed by `python -m export task --run runs/mood --bundle models/mood`.") == 3


def test_a_card_says_that_nothing_was_calibrated():
    useless = Calibration(temperature=1, ece_before=0.02, ece_after=0.02, rows=872)
    assert "Scores are softmax(logits). The expected" in model_card(TASK | {"calibration": useless})
    assert "Scores are no probabilities" in model_card(TASK | {"calibration": None})
    assert "## Calibration" not in model_card(TASK | {"kind": "regressor", "labels": (), "calibration": None})


@pytest.mark.parametrize(
    ("task", "said"),
    [("sst2", "SST-2 in GLUE (arXiv 1804.07461); licence of their texts: not stated"), ("mood", "one's own")],
)
def test_a_tasks_card_says_whose_its_rows_are(task: str, said: str):
    recipe = {"task": task, "seed": 1, "optimisation": {"epochs": 3}, "from": {"bundle": "student"}}
    card = model_card(TASK | {"training": {"rows": 100, "recipe": recipe}})
    assert said in card
    assert "The encoder began as that of models/student" in card


def test_a_teachers_task_is_made_by_its_own_commands():
    recipe = {"task": "mood", "seed": 1, "optimisation": {"epochs": 3}, "teacher": "all-MiniLM-L6-v2"}
    card = model_card(TASK | {"role": "teacher", "training": {"rows": 100, "recipe": recipe}})
    assert "python -m training finetune-teacher --task mood" in card
    assert "python -m export task --run runs/mood-teacher --bundle models/mood-teacher" in card


def test_a_tasks_card_repeats_the_options_that_made_it():
    recipe = {"task": "sst2", "seed": 3, "optimisation": {"epochs": 3}, "taught_by": [{"run": "sst2-teacher"}]}
    recipe |= {"transfer_rows": 500, "transfer_files": ["films.txt"], "variants_per_row": 4, "licence": "CC0"}
    card = model_card(TASK | {"training": {"rows": 100, "recipe": recipe}})
    options = "--teacher runs/sst2-teacher --transfer films.txt --transfer-rows 500 --augment 4 --seed 3"
    assert f"--task sst2 {options}\n" in card
    assert "100 training rows, and 500 without labels from films.txt, which the teacher answered; 3 passes" in card
    assert "That of the texts without labels: CC0." in card
    card = model_card(
        TASK | {"training": {"rows": 100, "recipe": recipe | {"taught_by": [{"run": "a"}, {"run": "b"}]}}}
    )
    assert "--teacher runs/a runs/b --transfer" in card
    assert "from films.txt, which the teachers answered;" in card


@pytest.mark.parametrize(
    ("role", "what", "options"),
    [
        ("student", {"inputs": "text"}, "--train TABLE --text COLUMN"),
        ("student", {"inputs": "pair_apart"}, "--train TABLE --text COLUMN --text COLUMN"),
        (
            "student",
            {"inputs": "pair_apart", "symmetric": True},
            "--train TABLE --text COLUMN --text COLUMN --symmetric",
        ),
        (
            "teacher",
            {"inputs": "pair_joined", "kind": "regressor"},
            "--train TABLE --text COLUMN --text COLUMN --regression",
        ),
    ],
)
def test_the_command_on_the_card_of_ones_own_task_reads_the_table_as_it_was_read(
    role: str, what: dict[str, object], options: str
):
    recipe = {"task": "mood", "seed": 1, "optimisation": {"epochs": 3}, "teacher": "all-MiniLM-L6-v2"}
    made = {"role": role, "training": {"rows": 100, "recipe": recipe}}
    assert f" --task mood {options} --seed 1\n" in model_card(TASK | made | what)


@pytest.mark.parametrize("encoder_rate", [0.0, 1.0])
def test_a_card_says_that_the_order_of_a_pair_means_nothing(encoder_rate: float):
    recipe = {"task": "same", "seed": 1, "optimisation": {"epochs": 3}, "encoder_rate": encoder_rate}
    made = {"inputs": "pair_apart", "training": {"rows": 100, "recipe": recipe}}
    said = "the same whichever text of a pair comes first"
    assert said in model_card(TASK | made | {"symmetric": True})
    assert said not in model_card(TASK | made)


@pytest.mark.parametrize(
    ("start", "option", "said"),
    [
        ({"bundle": "student"}, "", "models/student: its card"),
        ({"bundle": "small"}, " --from models/small", "models/small: its card"),
        ({"run": "student"}, " --from runs/student", "runs/student.\n"),
    ],
)
def test_a_tasks_card_says_from_which_student_it_grew(start: dict[str, str], option: str, said: str):
    recipe = {"task": "sst2", "seed": 1, "optimisation": {"epochs": 3}, "from": start}
    card = model_card(TASK | {"training": {"rows": 100, "recipe": recipe}})
    assert f" --task sst2{option} --seed 1\n" in card
    assert f"The encoder began as that of {said}" in card


@pytest.mark.parametrize(
    ("role", "task", "name", "option"),
    [
        ("student", "mrpc", "task", ""),
        ("student", "sst2", "sst2", ""),
        ("student", "mood", "mood", " --train TABLE --text COLUMN --recipe mood.toml"),
        ("teacher", "mrpc", "task-teacher", ""),
        ("teacher", "mrpc", "joined", " --recipe joined.toml"),
    ],
)
def test_a_tasks_card_names_a_recipe_that_is_not_followed_unasked(role: str, task: str, name: str, option: str):
    recipe = {"name": name, "task": task, "seed": 1, "optimisation": {"epochs": 3}, "teacher": "all-MiniLM-L6-v2"}
    card = model_card(TASK | {"role": role, "training": {"rows": 100, "recipe": recipe}})
    assert f" --task {task}{option} --seed 1\n" in card


def test_a_tasks_card_gives_its_precision_where_that_was_asked_for():
    made = {"rows": 100, "recipe": TASK["training"]["recipe"] | {"teacher": "all-MiniLM-L6-v2"}}
    student, teacher = TASK | {"training": made}, TASK | {"role": "teacher", "training": made}
    for usual in (student | {"precision": "int8"}, teacher | {"precision": "float32"}):
        assert "--precision" not in model_card(usual)
    assert "--bundle models/mood --precision float32`." in model_card(student | {"precision": "float32"})
    assert "--bundle models/mood-teacher --precision int8`." in model_card(teacher | {"precision": "int8"})


def test_the_card_of_a_head_with_an_encoder_of_its_own_does_not_call_it_shared():
    recipe = {"task": "mood", "seed": 1, "optimisation": {"epochs": 3}, "encoder_rate": 0, "from": {"run": "student"}}
    card = model_card(TASK | {"training": {"rows": 100, "recipe": recipe}})
    assert "A head on the vectors of a student of its own, for mood; answers" in card
    assert "The encoder is that of runs/student.\n" in card


def test_the_card_of_a_head_alone_speaks_of_no_passes():
    recipe = {"task": "mood", "seed": 1, "optimisation": {"epochs": 3}, "encoder_rate": 0, "licence": "CC0"}
    card = model_card(TASK | {"base": "0123456789abcdef", "training": {"rows": 100, "recipe": recipe}})
    assert "100 training rows, to which a head alone was fitted" in card
    assert "A head on the vectors of a shared student, for mood; answers" in card
    assert "passes" not in card
    assert "a table of one's own; its licence: CC0." in card
