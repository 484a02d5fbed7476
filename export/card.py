"""The model card that lies in every bundle."""

from collections.abc import Mapping
from typing import Any

from training.glue import TASKS
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


def model_card(manifest: Mapping[str, Any]) -> str:
    """Give the card as Markdown: what the bundle is, how it was made, every figure with the command that prints it."""
    sections = [f"# {manifest['name']}", _what(manifest), "## How it was made", _how(manifest)]
    sections += ["## Figures", _figures(manifest), "## Limits", _limits(manifest)]
    return "\n\n".join(sections) + "\n"


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
    network = "A BiLSTM" if manifest["role"] == "student" else made["recipe"]["teacher"]
    joined = ", the two texts of a pair joined into one row" if manifest["inputs"] == "pair_joined" else ""
    return (
        f"{network} fine-tuned on {made['recipe']['task']}{joined}; answers {labels}. "
        f"Encoder in {manifest['precision']}."
    )


def _how(manifest: Mapping[str, Any]) -> str:
    made = manifest["training"]
    if manifest["role"] == "teacher" and manifest["kind"] == "encoder":
        return f"`python -m export teacher`, from weights with sha256 `{made['weights_sha256']}`."
    recipe = made["recipe"]
    name = manifest["name"]
    if manifest["kind"] == "encoder":
        sources = "\n".join(
            f"| {source['path']} | {source['sentences']:,} | {source['passages']:,} |"
            for source in recipe["corpus"]["sources"]
        )
        return (
            f"    python -m training distill --recipe training/recipes/{recipe['name']}.toml\n"
            f"    python -m export student --run runs/{recipe['name']} --bundle models/{name}\n\n"
            f"{made['rows']:,} distinct texts ({made['tokens']:,} tokens), {recipe['optimisation']['epochs']} passes, "
            f"cosine loss to the teacher's vectors (Wu et al. 2020, arXiv 2004.03097). No task and no labels.\n\n"
            f"| source | sentences, at most | passages |\n| --- | ---: | ---: |\n{sources}\n\n"
            "`weights.safetensors` holds the same weights in float16, for fine-tuning: "
            f"`python -m training finetune --from models/{name} --task sst2`."
        )
    teacher = manifest["role"] == "teacher"
    command, run = ("finetune-teacher", f"{recipe['task']}-teacher") if teacher else ("finetune", recipe["task"])
    bundle = f"{name}-teacher" if teacher else name
    return (
        f"    python -m training {command} --task {recipe['task']}{_options(recipe)}\n"
        f"    python -m export task --run runs/{run} --bundle models/{bundle}\n\n"
        f"{made['rows']:,} training rows, {recipe['optimisation']['epochs']} passes; the last pass is kept, "
        "whatever the dev set said of others."
    )


def _options(recipe: Mapping[str, Any]) -> str:
    """Give what the command line had besides the task: own tables and columns are the user's to name."""
    table = "" if recipe["task"] in TASKS else " --train TABLE --text COLUMN"
    frozen = " --frozen" if recipe.get("encoder_rate") == 0 else ""
    scratch = " --scratch" if "scratch" in recipe.get("from", {}) else ""
    learnt = f" --teacher runs/{recipe['taught_by']['run']}" if "taught_by" in recipe else ""
    own = f" --teacher {recipe['teacher']}" if recipe.get("teacher", PACKAGE_NAME) != PACKAGE_NAME else ""
    transfer = " --transfer FILE" if recipe.get("transfer_rows") else ""
    return f"{table}{frozen}{scratch}{learnt}{transfer}{own} --seed {recipe['seed']}"


def _figures(manifest: Mapping[str, Any]) -> str:
    rows = [f"| {_title(name)} | {_number(value)} |" for name, value in manifest["figures"].items()]
    return "\n".join(["Printed by the commands above.", "", "| figure | value |", "| --- | ---: |", *rows])


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def _limits(manifest: Mapping[str, Any]) -> str:
    return (
        f"English. Texts are cut at {manifest['max_tokens']} tokens, special tokens included, and the answer says so. "
        "In int8 a vector moves slightly with its neighbours in a batch, since activations are scaled over the batch."
    )
