"""The student that a training begins with: where it lies, and what is known of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from training.checkpoint import Run, RunError
from training.encoding import Vectors, text_encoder
from training.recipe import StudentShape
from training.student import Student, build_student, load_student
from training.teacher import load_teacher


@dataclass(frozen=True)
class Start:
    """A student, its tokenizer, and where it came from.

    Attributes:
        student: With its weights.
        tokenizer: Its teacher's.
        origin: The sizes, and whatever its recipe and bundle say of it, for the manifest.
        teacher: Of whom it is a student: the installed package, a folder, or a hub id.
        corpus: What it approximated that on, as its recipe says; of one from scratch nothing.
        before: The lineage of the student that it had itself gone on from; nothing if it began anew.
    """

    student: Student
    tokenizer: Tokenizer
    origin: dict[str, Any]
    teacher: str
    corpus: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lineage(self) -> dict[str, Any]:
        """Say what it is and had learnt, and what went before, likewise, under `from`: for whoever goes on from it."""
        return {**self.origin, "corpus": self.corpus} | ({"from": self.before} if self.before else {})

    @property
    def fingerprint(self) -> str:
        """Identify its weights; a run's folder may hold others under the same name tomorrow."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.student.state_dict().items()):
            digest.update(name.encode() + weight.cpu().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts in float32: (texts, width)."""
        return text_encoder(self.student, self.tokenizer, self.origin["max_tokens"])(texts)


def from_scratch(start: Start, seed: int) -> Start:
    """Give a student of the same shape that has approximated nothing.

    Its embedding is the teacher's own, reduced by PCA, and all else is random: what it lacks beside `start` is whatever
    was learnt from the teacher's sentence vectors.

    Raises:
        TeacherError: its teacher cannot be loaded.
    """
    teacher = load_teacher(start.teacher)
    torch.manual_seed(seed)
    student = build_student(StudentShape(**start.origin["shape"]), teacher.word_embeddings(), teacher.width)
    kept = {name: start.origin[name] for name in ("shape", "max_tokens")}
    return Start(student, start.tokenizer, {**kept, "scratch": start.teacher}, start.teacher)


def load_start(folder: Path) -> Start:
    """Load a student from a bundle (its float16 weights) or from a run.

    Raises:
        RunError: the folder is neither, or holds something other than a student encoder.
    """
    if (folder / "manifest.json").is_file():
        return _from_bundle(folder)
    run = Run(folder)
    facts, recipe = run.facts(), run.recipe()
    if facts["kind"] != "encoder":
        raise RunError(f"{folder} holds a {facts['kind']}; only a student encoder can be gone on from")
    origin = {"run": folder.name, "shape": recipe["student"], "max_tokens": facts["max_tokens"]}
    student = load_student(recipe["student"], run.weights())
    return Start(student, run.tokenizer(), origin, recipe["teacher"], recipe["corpus"], recipe.get("from", {}))


def _from_bundle(folder: Path) -> Start:
    try:
        manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        recipe = manifest["training"]["recipe"]
        weights = load_file(folder / "weights.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        origin = {"bundle": manifest["name"], "space": manifest["space"], "max_tokens": manifest["max_tokens"]}
        origin["shape"] = recipe["student"]
        student = load_student(recipe["student"], weights)
        return Start(student, tokenizer, origin, recipe["teacher"], recipe["corpus"], recipe.get("from", {}))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder} holds no student to go on from: {error!r}") from error
