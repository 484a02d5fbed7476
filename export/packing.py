"""From a run or a teacher to a bundle: graph, parity, int8, judgement, pack. Each step says its figure."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from app.bundle import (
    CANARY,
    CARD,
    HEAD,
    MANIFEST,
    MODEL,
    TOKENIZER,
    WEIGHTS,
    Bundle,
    BundleError,
    Texts,
    read_bundle,
    space_id,
    write_bundle,
)
from app.session import EncoderSession, HeadSession, Vectors
from app.tokenizer import Tokenizer
from export.card import model_card
from export.graph import Scores, encoder_graph, head_graph, quantise
from export.parity import INT8_MIN_COSINE, PARITY_MAX_ABS, PASSAGES, SENTENCES, ParityError, compare, served
from training.checkpoint import Run
from training.encoding import encode
from training.evaluation import sts_spearman
from training.head import Head
from training.student import load_student
from training.task import Examples, Task, TaskError, examples_from
from training.teacher import Teacher

INT8_MAX_LOSS = 0.01  # of a task's deciding metric
# What other CPUs' kernels may differ by; a wrong tokenizer or weight differs by tenths.
CANARY_COSINE_DISTANCE = {"float32": 1e-4, "int8": 2e-3}
CANARY_SCORE_DIFFERENCE = 0.05
CANARY_DECIMALS = 6

Encode = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class PackedEncoder:
    """An encoder ready to be served.

    Attributes:
        files: Its graph and tokenizer; none where another bundle holds them.
        space: Of its vectors.
        encode: Texts to vectors through the very parts that serve.
        figures: Parity, and what int8 costs.
    """

    files: dict[str, bytes]
    space: str
    encode: Encode
    figures: dict[str, float]


def export_teacher(teacher: Teacher, folder: Path, precision: str) -> Bundle:
    """Write the teacher's bundle; raises ParityError when the graph answers otherwise than PyTorch."""
    packed = _pack_encoder(teacher.encoder, teacher.tokenizer.to_str().encode(), teacher.max_tokens, precision)
    facts = {
        "name": folder.name,
        "role": "teacher",
        "kind": "encoder",
        "dimensions": teacher.width,
        "max_tokens": teacher.max_tokens,
        "vocabulary": teacher.vocabulary,
        "precision": precision,
        # by weights and not by graph, so that a teacher built elsewhere by other versions is in the same space
        "space": space_id(teacher.fingerprint.encode(), precision.encode()),
        "canary_tolerance": CANARY_COSINE_DISTANCE[precision],
        "training": {"source": teacher.name, "weights_sha256": teacher.weights_sha256},
        "figures": packed.figures,
    }
    return _write(folder, facts, {**packed.files, CANARY: _encoder_canary(packed.encode)})


def export_student(run: Run, folder: Path, data: Path) -> Bundle:
    """Write a student's int8 bundle, with its float16 weights for fine-tuning.

    Raises:
        ParityError: the graph answers otherwise than PyTorch, or int8 costs more than it may.
    """
    facts, recipe = run.facts(), run.recipe()
    student = load_student(recipe["student"], run.weights())
    packed = _pack_encoder(student, run.tokenizer().to_str().encode(), facts["max_tokens"], "int8")
    manifest = {
        "name": folder.name,
        "role": "student",
        "kind": "encoder",
        "dimensions": facts["width"],
        "max_tokens": facts["max_tokens"],
        "vocabulary": facts["vocabulary"],
        "precision": "int8",
        "space": packed.space,
        "approximates": space_id(facts["teacher_fingerprint"].encode(), b"float32"),
        "canary_tolerance": CANARY_COSINE_DISTANCE["int8"],
        "training": {"recipe": recipe, **{key: facts[key] for key in ("teacher", "rows", "tokens")}},
        "figures": packed.figures | run.final_figures() | _sts_figures(student, run, packed.encode, data),
    }
    weights = {name: weight.half().contiguous() for name, weight in student.state_dict().items()}
    files = {WEIGHTS: safetensors_bytes(weights), CANARY: _encoder_canary(packed.encode)}
    return _write(folder, manifest, packed.files | files)


def export_task(run: Run, folder: Path) -> Bundle:
    """Write a task's bundle: its head, and its encoder in int8 unless that is the frozen one of a bundle beside it.

    Raises:
        ParityError: a graph answers otherwise than PyTorch, or int8 costs more than it may.
        BundleError: the bundle that the frozen encoder belongs to is not beside `folder`.
    """
    facts, recipe = run.facts(), run.recipe()
    task, weights, start = Task(**facts["task"]), run.weights(), recipe["from"]
    student = load_student(start["shape"], _part(weights, "encoder."))
    frozen = recipe["encoder_rate"] == 0 and "space" in start
    packed = (
        _find_encoder(folder.parent, start["space"])
        if frozen
        else _pack_encoder(student, run.tokenizer().to_str().encode(), facts["max_tokens"], "int8")
    )
    scores = _scores(task, facts["width"], _part(weights, "head."))
    head = head_graph(scores, task.texts, facts["width"])
    with _file(head) as file:
        session = HeadSession(file)
    figures = packed.figures | {"head_parity_max_abs": _head_parity(scores, session, task.texts, facts["width"])}
    manifest = {
        "name": folder.name,
        "role": "student",
        "kind": facts["kind"],
        "inputs": "text" if task.texts == 1 else "pair_apart",
        "dimensions": facts["width"],
        "max_tokens": facts["max_tokens"],
        "vocabulary": facts["vocabulary"],
        "labels": task.labels,
        "activation": scores.activation,
        "precision": "int8",
        "space": packed.space,
        "base": packed.space if frozen else None,
        "canary_tolerance": CANARY_SCORE_DIFFERENCE,
        "training": {"recipe": recipe, "rows": facts["rows"]},
        "figures": figures | _task_figures(task, scores, student, run, packed.encode, session),
    }
    return _write(folder, manifest, {**packed.files, HEAD: head, CANARY: _task_canary(task, packed.encode, session)})


def _pack_encoder(encoder: nn.Module, tokenizer: bytes, max_tokens: int, precision: str) -> PackedEncoder:
    graph = encoder_graph(encoder)
    with _file(tokenizer) as file:
        reader = Tokenizer(file, max_tokens)
    rows = [row.ids for row in reader.rows([(text,) for text in (*SENTENCES, *PASSAGES)])]
    session = _session(graph)
    expected = encode(encoder, rows)
    together = compare(session.run(rows), expected)
    alone = compare(np.concatenate([session.run([row]) for row in rows]), expected)
    _say(f"float32 graph against PyTorch, {len(rows)} rows of {min(map(len, rows))} to {max(map(len, rows))} tokens:")
    _say(f"  in one padded batch: {together.require(max_abs=PARITY_MAX_ABS)}")
    _say(f"  each row alone:      {alone.require(max_abs=PARITY_MAX_ABS)}")
    figures = {"parity_max_abs": max(together.max_abs, alone.max_abs)}
    if precision == "int8":
        in_float32, graph = graph, quantise(graph)
        session = _session(graph)
        report = compare(np.concatenate([session.run([row]) for row in rows]), expected)
        _say(f"int8 against PyTorch: {report.require(min_cosine=INT8_MIN_COSINE)}")
        _say(f"graph: {len(in_float32) / 1e6:.1f} MB in float32, {len(graph) / 1e6:.1f} MB in int8")
        figures |= {"int8_mean_cosine": report.mean_cosine, "int8_min_cosine": report.min_cosine}
    files = {MODEL: graph, TOKENIZER: tokenizer}
    return PackedEncoder(files, space_id(graph, tokenizer), served(reader, session), figures)


def _find_encoder(models: Path, space: str) -> PackedEncoder:
    for file in sorted(models.glob(f"[!.]*/{MANIFEST}")):
        bundle = read_bundle(file.parent)
        if bundle.manifest.space == space and bundle.has_encoder:
            _say(f"the encoder is that of {file.parent}")
            reader = Tokenizer(bundle.path(TOKENIZER), bundle.manifest.max_tokens)
            return PackedEncoder({}, space, served(reader, EncoderSession(bundle.path(MODEL))), {})
    raise BundleError(f"no bundle in {models} has the encoder with space {space}, on which this head was trained")


def _scores(task: Task, width: int, weights: Mapping[str, torch.Tensor]) -> Scores:
    head = Head(task.texts, width, task.outputs)
    head.load_state_dict(dict(weights))
    return Scores(head.eval(), "softmax" if task.labels else "none")


def _sts_figures(student: nn.Module, run: Run, encode_int8: Encode, data: Path) -> dict[str, float]:
    reader = Tokenizer(run.folder / "tokenizer.json", run.facts()["max_tokens"])

    def encode_float32(texts: Sequence[str]) -> Vectors:
        return encode(student, [row.ids for row in reader.rows([(text,) for text in texts])])

    try:
        exact, small = sts_spearman(encode_float32, data), sts_spearman(encode_int8, data)
    except TaskError as error:
        _say(f"STS-B not scored: {error}")
        return {}
    return _judge("sts_dev_spearman", exact, small)


def _task_figures(
    task: Task, scores: Scores, student: nn.Module, run: Run, encode_int8: Encode, head: HeadSession
) -> dict[str, float]:
    dev = examples_from(run.dev())
    reader = Tokenizer(run.folder / "tokenizer.json", run.facts()["max_tokens"])
    flat = [text for texts in dev.texts for text in texts]
    exact = encode(student, [row.ids for row in reader.rows([(text,) for text in flat])])
    with torch.inference_mode():
        exact_scores = scores(torch.from_numpy(_by_row(exact, dev))).numpy()
    small_scores = head.run(_by_row(encode_int8(flat), dev))
    metric = task.metrics[0]
    return _judge(
        f"{task.name}_dev_{metric}",
        task.score(dev.labels, exact_scores)[metric],
        task.score(dev.labels, small_scores)[metric],
    )


def _by_row(vectors: Vectors, examples: Examples) -> Vectors:
    by_row: Vectors = vectors.reshape(len(examples), len(examples.texts[0]), -1)
    return by_row


def _judge(name: str, exact: float, small: float) -> dict[str, float]:
    _say(f"{name}: {exact:.4f} in float32, {small:.4f} in int8")
    if exact - small > INT8_MAX_LOSS:
        raise ParityError(f"int8 costs {exact - small:.4f} of {name}, allowed {INT8_MAX_LOSS}")
    return {f"{name}_float32": exact, f"{name}_int8": small}


def _head_parity(scores: Scores, session: HeadSession, texts: int, width: int) -> float:
    vectors = np.random.default_rng(0).standard_normal((8, texts, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    with torch.inference_mode():
        report = compare(session.run(vectors), scores(torch.from_numpy(vectors)).numpy())
    _say(f"head against PyTorch: {report.require(max_abs=PARITY_MAX_ABS)}")
    return report.max_abs


def _encoder_canary(encode_texts: Encode) -> bytes:
    inputs = [(sentence,) for sentence in SENTENCES]
    return _canary(inputs, [encode_texts(texts)[0] for texts in inputs])


def _task_canary(task: Task, encode_texts: Encode, head: HeadSession) -> bytes:
    pairs = zip(SENTENCES, SENTENCES[1:] + SENTENCES[:1], strict=True)
    inputs: list[Texts] = [texts[: task.texts] for texts in pairs]
    outputs = [head.run(np.concatenate([encode_texts([text]) for text in texts])[None])[0] for texts in inputs]
    return _canary(inputs, outputs)


def _canary(inputs: Sequence[Texts], outputs: Sequence[Vectors]) -> bytes:
    rounded = [[round(float(number), CANARY_DECIMALS) for number in output] for output in outputs]
    return json.dumps({"inputs": inputs, "outputs": rounded}, ensure_ascii=False).encode()


def _part(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """Put bytes where a library that only reads files finds them."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _session(graph: bytes) -> EncoderSession:
    with _file(graph) as file:
        return EncoderSession(file)


def _write(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    bundle = write_bundle(folder, manifest, {**files, CARD: model_card(manifest).encode()})
    size = sum(bundle.path(file).stat().st_size for file in bundle.manifest.files)
    _say(f"wrote {folder} ({size / 1e6:.1f} MB), space {bundle.manifest.space}")
    return bundle


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
