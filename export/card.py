"""The model card that lies in every bundle."""

from collections.abc import Mapping
from typing import Any

from export.calibration import BINS, ROWS_TO_FIT
from export.packed_encoder import PRECISION
from training.glue import TASKS
from training.head import FOLDS
from training.slices import LONGEST, ROWS_TO_SCORE, TYPO_EVERY
from training.teacher import PACKAGE_NAME

TITLES = {
    "parity_max_abs": "float32 graph against PyTorch, largest difference",
    "head_parity_max_abs": "head against PyTorch, largest difference",
    "int8_mean_cosine": "int8 against PyTorch float32, mean cosine",
    "int8_min_cosine": "int8 against PyTorch float32, smallest cosine",
    "held_out_cosine": "cosine to the teacher on held-out corpus rows, float32",
    "sts_dev_spearman_float32": "STS-B dev, Spearman, float32",
    "sts_dev_spearman_int8": "STS-B dev, Spearman, int8",
}

STARTS = {"bundle": "models", "run": "runs"}  # what a student that is trained further may be, and where it lies
SUFFIX = {"student": "", "teacher": "-teacher"}  # of a task's run, recipe and folder, by role


def model_card(manifest: Mapping[str, Any]) -> str:
    """Give the card as Markdown: what the bundle is, how it was made, every figure with the command that prints it."""
    sections = [f"# {manifest['name']}", _what(manifest), "## What it is for", _purpose(manifest)]
    sections += ["## How it was made", _how(manifest), "## Figures", _figures(manifest)]
    if manifest["kind"] == "classifier":
        sections += ["## Calibration", _calibration(manifest)]
    if manifest.get("slices"):
        sections += ["## Where it is weaker", _slices(manifest)]
    return "\n\n".join([*sections, "## Limits", _limits(manifest)]) + "\n"


def _what(manifest: Mapping[str, Any]) -> str:
    made = manifest["training"]
    if manifest["role"] == "teacher" and manifest["kind"] == "encoder":
        return (
            f"{made['source']} as an ONNX graph in {manifest['precision']}: {manifest['dimensions']} numbers per text."
        )
    if manifest["kind"] == "encoder":
        return (
            f"A BiLSTM sentence encoder that stands in for {made['teacher']}: {manifest['dimensions']} numbers per "
            f"text, each vector of unit length, {manifest['precision']}."
        )
    labels = ", ".join(manifest["labels"]) or "a number"
    task = made["recipe"]["task"]
    order = ", the same whichever text of a pair comes first" if manifest.get("symmetric") else ""
    if _is_head(made["recipe"]):
        whose = "a shared student" if manifest.get("base") else "a student of its own"
        return f"A head on the vectors of {whose}, for {task}; answers {labels}{order}."
    network = "A BiLSTM" if manifest["role"] == "student" else made["recipe"]["teacher"]
    joined = ", the two texts of a pair joined into one row" if manifest["inputs"] == "pair_joined" else ""
    return f"{network} fine-tuned on {task}{joined}; answers {labels}{order}. Encoder in {manifest['precision']}."


def _purpose(manifest: Mapping[str, Any]) -> str:
    if manifest["kind"] == "encoder":
        return (
            "Similarity, search, clustering and classification of English sentences and short passages. An index holds "
            f"vectors of one `space` alone (here `{manifest['space']}`), and so of one model.\n\n"
            "Not for: other languages, whole documents, or deciding by itself what concerns a person."
        )
    return (
        "Texts like those that it was trained on; of others, score some labelled rows first.\n\n"
        "Not for: other languages, or deciding by itself what concerns a person."
    )


def _how(manifest: Mapping[str, Any]) -> str:
    made = manifest["training"]
    if manifest["role"] == "teacher" and manifest["kind"] == "encoder":
        return f"`{_export(manifest)}`, from weights with sha256 `{made['weights_sha256']}`."
    recipe = made["recipe"]
    if manifest["kind"] == "encoder":
        start = recipe.get("from", {})
        grown = f" --from {_start(start)}" if start else ""
        return (
            f"    python -m training distill --recipe training/recipes/{recipe['name']}.toml{grown}\n"
            f"    {_export(manifest)}\n\n"
            f"{made['rows']:,} distinct texts ({made['tokens']:,} tokens), {recipe['optimisation']['epochs']} passes, "
            f"{_losses(recipe)} loss to the teacher's vectors (Wu et al. 2020, arXiv 2004.03097). No task and no "
            f"labels.\n\n{_sources(recipe['corpus'])}\n\n{_before(start)}"
            "`weights.safetensors` holds the same weights in float16, for fine-tuning: "
            f"`python -m training finetune --from models/{manifest['name']} --task sst2`."
        )
    command = "finetune-teacher" if manifest["role"] == "teacher" else "finetune"
    return (
        f"    python -m training {command} --task {recipe['task']}{_options(manifest)}\n"
        f"    {_export(manifest)}\n\n"
        f"{made['rows']:,} training rows, {_training(recipe)}. {_rows(manifest)}"
    )


def _before(start: Mapping[str, Any]) -> str:
    """Say which student a distillation went on from, what that had learnt, and so on back to the first."""
    told, subject = "", "It"
    while start:
        space = f" of space `{start['space']}`" if "space" in start else ""
        told += f"{subject} began as {_start(start)}{space}, which had learnt from:\n\n{_sources(start['corpus'])}\n\n"
        start, subject = start.get("from", {}), "That one"
    return told


def _sources(corpus: Mapping[str, Any]) -> str:
    rows = (
        f"| {source['path']} | {source.get('licence') or 'not stated'} | {source['sentences']:,} "
        f"| {source['passages']:,} |"
        for source in corpus["sources"]
    )
    return "\n".join(["| source | licence | sentences, at most | passages |", "| --- | --- | ---: | ---: |", *rows])


def _losses(recipe: Mapping[str, Any]) -> str:
    return " and ".join(name for name, weight in recipe.get("loss", {"cosine": 1.0}).items() if weight)


def _training(recipe: Mapping[str, Any]) -> str:
    """Say what the training rows were used for."""
    if _is_head(recipe):
        chosen = f"its penalty chosen by cross-validation among them, unless a label has fewer than {FOLDS} of them"
        return f"to which a head alone was fitted, {chosen}"
    passes = f"{recipe['optimisation']['epochs']} passes; the last pass is kept, whatever the dev set said of others"
    if not recipe.get("transfer_rows"):
        return passes
    files = ", ".join(recipe["transfer_files"])
    answered = "the teacher answered" if len(recipe["taught_by"]) == 1 else "the teachers answered"
    return f"and {recipe['transfer_rows']:,} without labels from {files}, which {answered}; {passes}"


def _is_head(recipe: Mapping[str, Any]) -> bool:
    """Tell whether the encoder was left as it was."""
    return recipe.get("encoder_rate") == 0


def _export(manifest: Mapping[str, Any]) -> str:
    """Give the command that makes the bundle, and prints every figure on its card."""
    name, recipe = manifest["name"], manifest["training"].get("recipe")
    precision = f" --precision {manifest['precision']}" if manifest["precision"] != PRECISION[manifest["role"]] else ""
    if recipe is None:
        source = manifest["training"]["source"]
        own = f" --source {source}" if source != PACKAGE_NAME else ""
        return f"python -m export teacher{own}{precision}"
    if manifest["kind"] == "encoder":
        return f"python -m export student --run runs/{recipe['name']} --bundle models/{name}"
    suffix = SUFFIX[manifest["role"]]
    return f"python -m export task --run runs/{recipe['task']}{suffix} --bundle models/{name}{suffix}{precision}"


def _rows(manifest: Mapping[str, Any]) -> str:
    """Say whose the training rows are, and where it is written what the encoder had read before."""
    recipe = manifest["training"]["recipe"]
    start = recipe.get("from", {})
    began = "is" if _is_head(recipe) else "began as"
    shared = ", whose table of token embeddings it shares" if manifest.get("base") and not _is_head(recipe) else ""
    before = f" The encoder {began} that of {where}{shared}{_known(start)}." if (where := _start(start)) else ""
    licence = recipe.get("licence") or "not stated"
    if recipe["task"] not in TASKS:
        return f"The rows are a table of one's own; its licence: {licence}.{before}"
    row = TASKS[recipe["task"]]
    others = f" That of the texts without labels: {licence}." if recipe.get("transfer_rows") else ""
    return (
        f"The rows are those of {row.folder} in GLUE (arXiv 1804.07461); licence of their texts: {row.licence}."
        f"{others}{before}"
    )


def _start(start: Mapping[str, Any]) -> str | None:
    """Say where the student lay that a training began with; none of a student from scratch, or of a teacher."""
    return next((f"{folder}/{start[kind]}" for kind, folder in STARTS.items() if kind in start), None)


def _known(start: Mapping[str, Any]) -> str:
    return ": its card names what that was trained on" if "bundle" in start else ""


def _options(manifest: Mapping[str, Any]) -> str:
    """Give what the command line had besides the task: own tables, columns and recipes are the user's to name."""
    recipe = manifest["training"]["recipe"]
    table = ""
    if recipe["task"] not in TASKS:
        texts = " --text COLUMN" * (1 if manifest["inputs"] == "text" else 2)
        flags = {"--regression": manifest["kind"] == "regressor", "--symmetric": manifest.get("symmetric")}
        table = f" --train TABLE{texts}" + "".join(f" {flag}" for flag, given in flags.items() if given)
    suffix = SUFFIX[manifest["role"]]
    # a task of GLUE follows a recipe of its own name unasked, a table of one's own does not
    unasked = [f"task{suffix}", *([recipe["task"] + suffix] if recipe["task"] in TASKS else [])]
    followed = f" --recipe {name}.toml" if (name := recipe.get("name", unasked[0])) not in unasked else ""
    start = _start(recipe.get("from", {}))
    grown = f" --from {start}" if start not in (None, "models/student") else ""
    frozen = " --frozen" if _is_head(recipe) else ""
    scratch = " --scratch" if "scratch" in recipe.get("from", {}) else ""
    taught = "".join(f" runs/{teacher['run']}" for teacher in recipe.get("taught_by", ()))
    learnt = f" --teacher{taught}" if taught else ""
    own = f" --teacher {recipe['teacher']}" if recipe.get("teacher", PACKAGE_NAME) != PACKAGE_NAME else ""
    transfer = ""
    if recipe.get("transfer_rows"):
        transfer = f" --transfer {' '.join(recipe['transfer_files'])} --transfer-rows {recipe['transfer_rows']}"
    augment = f" --augment {recipe['variants_per_row']}" if "variants_per_row" in recipe else ""
    return f"{table}{followed}{grown}{frozen}{scratch}{learnt}{transfer}{augment}{own} --seed {recipe['seed']}"


def _figures(manifest: Mapping[str, Any]) -> str:
    rows = [f"| {_title(name)} | {_number(value)} |" for name, value in manifest["figures"].items()]
    return "\n".join([f"Printed by `{_export(manifest)}`.", "", "| figure | value |", "| --- | ---: |", *rows])


def _calibration(manifest: Mapping[str, Any]) -> str:
    found = manifest["calibration"]
    if found is None:
        return f"None: it takes {ROWS_TO_FIT} dev rows, one of them answered wrongly. Scores are no probabilities."
    error = f"The expected calibration error, over {BINS} bins of confidence of equal width, is {found.ece_before:.4f}"
    if found.temperature == 1:
        return (
            f"Scores are softmax(logits). {error} on the {found.rows:,} dev rows, and no temperature that half of them "
            f"gives lowers it on the other half. Printed by `{_export(manifest)}`."
        )
    return (
        f"Scores are softmax(logits / {found.temperature}), by the temperature that fits the {found.rows:,} dev rows "
        f"best (Guo et al. 2017, arXiv 1706.04599); no label changes by it. {error} without a temperature, and "
        f"{found.ece_after:.4f} with one, each half of the rows scored at what the other half gives. The temperature "
        f"in the bundle is fitted on all of them. Printed by `{_export(manifest)}`."
    )


def _slices(manifest: Mapping[str, Any]) -> str:
    found = manifest["slices"]
    rows = [f"| {name} | {part.rows:,} | {_number(part.score)} |" for name, part in found.parts.items()]
    what, beside = "Dev rows", ""
    if manifest["kind"] == "encoder":
        what = "Pairs of STS-B's dev set (Cer et al. 2017, arXiv 1708.00055), scored by the cosine of their vectors,"
        evaluate = f"python -m training evaluate --bundle models/{manifest['name']}"
        beside = f" `{evaluate}` sets its teacher beside it, with other batches, and so other last digits in int8."
    said = (
        f"{what} by what stands in them; long texts are the longest {1 / LONGEST:.0%} by tokens, and noisy text is "
        "all rows in lower case, without punctuation around words, two letters swapped in every "
        f"{TYPO_EVERY}th word. A slice of fewer than {ROWS_TO_SCORE} rows, or on which the metric is not defined, is "
        f"left out; a small one says little. Printed by `{_export(manifest)}`.{beside}"
    )
    return "\n".join([said, "", f"| slice | rows | {found.metric} |", "| --- | ---: | ---: |", *rows])


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def _limits(manifest: Mapping[str, Any]) -> str:
    return (
        f"English. Texts are cut at {manifest['max_tokens']} tokens, special tokens included, and the answer says so. "
        "In int8 a vector moves slightly with its neighbours in a batch, since activations are scaled over the batch."
    )
