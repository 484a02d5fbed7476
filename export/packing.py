"""From a run or a teacher to a bundle: graph, parity, int8, judgement, pack. Each step says its figure."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

from app.bundle import (
    CANARY,
    CARD,
    HEAD,
    MANIFEST,
    TOKENIZER,
    WEIGHTS,
    Baseline,
    Bundle,
    BundleError,
    Inputs,
    Texts,
    find_encoder,
    read_manifest,
    write_bundle,
)
from app.session import HeadSession, Vectors
from export.baseline import take_baseline
from export.card import model_card
from export.judgement import encoder_inputs, row_vectors, slices, sts_figures, sts_slices, task_figures
from export.packed_encoder import (
    PRECISION,
    Encode,
    PackedEncoder,
    pack_encoder,
    packed_encoder,
    probes,
    teacher_space,
)
from export.packed_head import pack_head
from export.parity import SENTENCES, say
from training.checkpoint import Run, RunError
from training.glue import TASKS
from training.head import Head
from training.recipe import Int8
from training.slices import noisy_rows
from training.student import load_student
from training.task import Task, examples_from, task_from
from training.task_model import Reader, TaskModel, answer, read_apart, read_joined
from training.teacher import Teacher
from training.tuned_teacher import load_tuned_teacher

# What other CPUs' kernels may differ by; a wrong tokenizer or weight differs by tenths.
CANARY_COSINE_DISTANCE = {"float32": 1e-4, "int8": 2e-3}
CANARY_SCORE_DIFFERENCE = 0.05
CANARY_DECIMALS = 6


def export_teacher(teacher: Teacher, folder: Path, precision: str) -> Bundle:
    """Write the teacher's bundle; raises ParityError when the graph answers otherwise than PyTorch."""
    packed = pack_encoder(teacher.encoder, teacher.tokenizer.to_str().encode(), teacher.max_tokens, precision)
    facts = {
        "name": folder.name,
        "role": "teacher",
        "kind": "encoder",
        "dimensions": teacher.width,
        "max_tokens": teacher.max_tokens,
        "vocabulary": teacher.vocabulary,
        "precision": precision,
        "space": teacher_space(teacher.fingerprint, precision),
        "canary_tolerance": CANARY_COSINE_DISTANCE[precision],
        "training": {"source": teacher.name, "weights_sha256": teacher.weights_sha256},
        "figures": packed.figures,
    }
    return _write(folder, facts, {**packed.files, CANARY: _encoder_canary(packed.encode)})


def export_student(run: Run, folder: Path, data: Path) -> Bundle:
    """Write a student's int8 bundle, with its float16 weights for fine-tuning.

    Raises:
        RunError: the run is not finished, or holds a task.
        ParityError: the graph answers otherwise than PyTorch, or int8 costs more than it may.
    """
    facts, recipe = run.facts(), run.recipe()
    if "task" in facts:
        raise RunError(f"{run.folder} holds a task: `python -m export task --run {run.folder}` is its command")
    run.require_finished()
    student = load_student(recipe["student"], run.weights())
    limits = Int8(**recipe.get("int8", {}))
    tokenizer = run.tokenizer().to_str().encode()
    packed = pack_encoder(student, tokenizer, facts["max_tokens"], "int8", limits=limits)
    manifest = {
        "name": folder.name,
        "role": "student",
        "kind": "encoder",
        "dimensions": facts["width"],
        "max_tokens": facts["max_tokens"],
        "vocabulary": facts["vocabulary"],
        "precision": "int8",
        "space": packed.space,
        "approximates": teacher_space(facts["teacher_fingerprint"], "float32"),
        "canary_tolerance": CANARY_COSINE_DISTANCE["int8"],
        "training": {"recipe": recipe, **{key: facts[key] for key in ("teacher", "rows", "tokens")}},
        "figures": packed.figures | run.final_figures() | sts_figures(student, run, packed.encode, data, limits),
        "baseline": _held_out_baseline(run, packed),
        "slices": sts_slices(packed.reader, packed.encode, data),
    }
    weights = {name: weight.half().contiguous() for name, weight in student.state_dict().items()}
    files = {WEIGHTS: safetensors_bytes(weights), CANARY: _encoder_canary(packed.encode)}
    return _write(folder, manifest, packed.files | files)


def export_task(run: Run, folder: Path, precision: str | None = None) -> Bundle:
    """Write a task's bundle: its head, and of its encoder what is not that of the bundle beside it.

    Args:
        run: Of a student or of a teacher.
        folder: The bundle's. Its name is the task's route; a teacher's folder may add `-teacher` to it.
        precision: `float32` or `int8`; without it a student is int8, a teacher float32. A head has its encoder's.

    Raises:
        RunError: the run is not finished, holds no task, a task of one's own under the name of one of GLUE's, or a head
            on an encoder in another precision; or an encoder lies in `folder`.
        ParityError: a graph answers otherwise than PyTorch, or int8 costs more than it may.
        BundleError: the bundle that the frozen encoder belongs to is not beside `folder`, or one there cannot be read.
    """
    facts, recipe = run.facts(), run.recipe()
    if "task" not in facts:
        raise RunError(f"{run.folder} holds an encoder: `python -m export student` is its command")
    if (folder / MANIFEST).is_file() and read_manifest(folder).kind == "encoder":
        raise RunError(f"{folder} holds an encoder, whose place the task would take: give it another --bundle")
    role = facts.get("role", "student")
    run.require_finished()
    task = task_from(facts["task"])
    if task.name in TASKS and task != TASKS[task.name].task:
        raise RunError(
            f"{run.folder} has learnt a table of your own under the name of GLUE's {task.name}, whose licence and rows "
            "its card would name: fine-tune it under another name"
        )
    inputs = _inputs(task, facts)
    model = load_tuned_teacher(run.folder).model if role == "teacher" else _student_of_task(run)
    limits = Int8(**recipe.get("int8", {}))
    precision = precision or PRECISION[role]
    base = _base(recipe, folder.parent, precision)
    tokenizer = base.path(TOKENIZER).read_bytes() if base else run.tokenizer().to_str().encode()
    packed = (
        packed_encoder(base)
        if base and recipe["encoder_rate"] == 0
        else pack_encoder(model.encoder, tokenizer, facts["max_tokens"], precision, inputs, limits, base)
    )
    dev = examples_from(run.dev())
    sequences = _reader(inputs, run)(dev.texts)  # token ids
    vectors = row_vectors(inputs, packed.encode, dev.texts)  # (rows, texts, dimensions)
    head = pack_head(model.head, task, vectors, dev.labels)
    answers = head.session.run(vectors)
    noisy = head.session.run(row_vectors(inputs, packed.encode, noisy_rows(dev.texts)))
    tokens = [sum(map(len, row)) for row in sequences]
    exact = task.score(dev.labels, answer(model, sequences))[task.metrics[0]] if packed.precision == "int8" else None
    manifest = {
        "name": folder.name.removesuffix("-teacher") if role == "teacher" else folder.name,
        "role": role,
        "kind": facts["kind"],
        "inputs": inputs,
        "symmetric": model.head.symmetric,
        "dimensions": facts["width"],
        "max_tokens": facts["max_tokens"],
        "vocabulary": facts["vocabulary"],
        "labels": task.labels,
        "activation": head.activation,
        "precision": packed.precision,
        "space": packed.space,
        "base": base.manifest.space if base else None,
        # answers are recorded no finer than that, however small the values
        "canary_tolerance": max(CANARY_SCORE_DIFFERENCE * head.unit, 10**-CANARY_DECIMALS),
        "training": {"recipe": recipe, "rows": facts["rows"]},
        "figures": packed.figures | head.figures | task_figures(task, dev, answers, exact, limits),
        "calibration": head.calibration,
        "slices": slices(task, dev, tokens, answers, noisy),
        "baseline": take_baseline(list(chain(*sequences)), vectors, packed.reader.unknown, task.labels, answers),
    }
    files = {**packed.files, HEAD: head.graph, CANARY: _task_canary(inputs, packed.encode, head.session)}
    return _write(folder, manifest, files)


def _base(recipe: Mapping[str, Any], models_dir: Path, precision: str) -> Bundle | None:
    """Find the bundle that holds what of a task's encoder was not trained further; none where all is its own."""
    space = recipe.get("from", {}).get("space")
    frozen = recipe.get("encoder_rate") == 0
    if space is None or not (frozen or (recipe.get("embedding_rate") == 0 and precision == "int8")):
        return None
    base = find_encoder(models_dir, space)
    if not frozen:
        if base and base.embedding:
            return base
        say(f"no bundle in {models_dir} has the embedding of space {space} to share: the bundle has its own")
        return None
    if base is None:
        raise BundleError(f"no bundle in {models_dir} has the encoder of space {space}, on which this head was trained")
    if base.manifest.precision != precision:
        raise RunError(
            f"the head is one on the encoder of {base.folder}, which is there in {base.manifest.precision}, and "
            f"--precision is {precision}: leave it out, or fine-tune without --frozen"
        )
    return base


def _student_of_task(run: Run) -> TaskModel:
    facts, weights = run.facts(), run.weights()
    task = task_from(facts["task"])
    student = load_student(run.recipe()["from"]["shape"], _part(weights, "encoder."))
    head = Head(task.texts, facts["width"], task.outputs, symmetric=task.symmetric)
    head.load_state_dict(_part(weights, "head."))
    return TaskModel(student, head)


def _inputs(task: Task, facts: Mapping[str, Any]) -> Inputs:
    if task.texts == 1:
        return "text"
    return "pair_joined" if facts.get("role") == "teacher" and not facts.get("apart") else "pair_apart"


def _reader(inputs: Inputs, run: Run) -> Reader:
    read = read_joined if inputs == "pair_joined" else read_apart
    return read(run.tokenizer(), run.facts()["max_tokens"])


def _part(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _encoder_canary(encode: Encode) -> bytes:
    inputs = probes(SENTENCES, "text")
    return _canary(inputs, [encode([texts])[0] for texts in inputs])


def _task_canary(inputs: Inputs, encode: Encode, head: HeadSession) -> bytes:
    rows = probes(SENTENCES, inputs)
    alone = [np.concatenate([encode([part]) for part in encoder_inputs(inputs, texts)]) for texts in rows]
    return _canary(rows, [head.run(vectors[None])[0] for vectors in alone])


def _canary(inputs: Sequence[Texts], outputs: Sequence[Vectors]) -> bytes:
    rounded = [[round(float(number), CANARY_DECIMALS) for number in output] for output in outputs]
    return json.dumps({"inputs": inputs, "outputs": rounded}, ensure_ascii=False).encode()


def _held_out_baseline(run: Run, packed: PackedEncoder) -> Baseline | None:
    """Take the baseline from the texts that the run held out; runs of earlier versions kept none."""
    try:
        texts = [tuple(texts) for texts in run.dev()["texts"]]
    except RunError:
        say(f"no baseline: {run.folder} kept no rows; `python -m export baseline` takes one from yours")
        return None
    return take_baseline([row.ids for row in packed.reader.rows(texts)], packed.encode(texts), packed.reader.unknown)


def _write(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    bundle = write_bundle(folder, manifest, {**files, CARD: model_card(manifest).encode()})
    size = sum(bundle.path(file).stat().st_size for file in bundle.manifest.files)
    say(f"wrote {folder} ({size / 1e6:.1f} MB), space {bundle.manifest.space}")
    return bundle
