"""Runs on disk: a folder with the recipe, the checkpoint, the tokenizer and the metrics of one training run."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.recipe import decisive


class RunError(RuntimeError):
    """A run folder that cannot be used; the message names the folder and the way out."""


@dataclass(frozen=True)
class Run:
    """The folder of one training run.

    recipe.json      what is being followed; a run never changes its recipe
    rows.sha256      of what is learnt and scored, and from whom; nor does it change its rows
    facts.json       what export needs to know: sizes, labels, where the rows came from
    tokenizer.json   the encoder's
    dev.json         what was held out: texts of the corpus, or the labelled rows that the task is scored on
    dev_answers.npy  of tasks: what the model gave to the dev rows when it was last scored
    soft_targets.npz task distillation only: the teacher's logits so far, and a key of teacher and rows
    checkpoint.pt    the newest state, replaced as a whole
    metrics.jsonl    one JSON object per logged step
    lock             held by the process that trains

    Of several processes that train together one alone `writes`; for the others every writing method does nothing.
    """

    folder: Path
    writes: bool = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from training in the folder; raises RunError where one does, or it is no run's."""
        if not self.writes:
            yield
            return
        if self._taken():
            raise RunError(f"{self.folder} holds something other than a run: give another --into")
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "lock"
        with file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another process is training in {self.folder}: give another --into") from error
            try:
                yield
            finally:
                if list(self.folder.iterdir()) == [file]:  # refused before it began: no trace of it
                    file.unlink()
                    with suppress(OSError):
                        self.folder.rmdir()

    def start(self, recipe: Mapping[str, Any], tokenizer: Tokenizer, rows: Iterable[Any]) -> None:
        """Make the folder, or go on in one whose recipe and rows decide the same training.

        Args:
            recipe: What to do, in plain values.
            tokenizer: The encoder's.
            rows: What is learnt and scored, in plain values and in order, and whatever else decides it; any difference
                makes it another run.

        Raises:
            RunError: the folder holds a run of another recipe or on other rows; it is left as it was.
        """
        text = json.dumps(recipe, indent=2, sort_keys=True)
        file = self.folder / "recipe.json"
        if file.is_file() and decisive(self.recipe()) != decisive(json.loads(text)):
            raise RunError(f"{self.folder} holds a run of another recipe: give another --into, or delete it")
        digest = _digest(rows)
        # runs of earlier versions kept none: theirs are taken to be the same
        if self.rows() not in (None, digest):
            changed = "holds a run on other rows, or of a model that has changed since"
            raise RunError(f"{self.folder} {changed}; choose another folder with --into or delete it")
        self._write("recipe.json", text)
        self._write("rows.sha256", digest)
        self._write("tokenizer.json", tokenizer.to_str())

    def rows(self) -> str | None:
        """Identify what is learnt and scored, and from whom; none in runs of earlier versions."""
        kept = self.folder / "rows.sha256"
        return kept.read_text() if kept.is_file() else None

    def save_facts(self, facts: Mapping[str, Any]) -> None:
        """Keep what export needs to know."""
        self._write("facts.json", json.dumps(facts, indent=2, sort_keys=True))

    def facts(self) -> dict[str, Any]:
        """Read what `save_facts` kept."""
        return self._json("facts.json")

    def save_dev(self, rows: Mapping[str, Any]) -> None:
        """Keep the texts that were held out, and a task's labels."""
        self._write("dev.json", json.dumps(rows, ensure_ascii=False))

    def dev(self) -> dict[str, Any]:
        """Read what `save_dev` kept."""
        return self._json("dev.json")

    def save_dev_answers(self, scores: NDArray[np.float32]) -> None:
        """Keep what a task's model gave to the rows of `save_dev`, (rows, outputs)."""
        if self.writes:
            with self._replacing("dev_answers.npy") as file:
                np.save(file, scores)

    def dev_answers(self) -> NDArray[np.float32]:
        """Read what `save_dev_answers` kept.

        Raises:
            RunError: nothing was kept, or it cannot be read.
        """
        file = self.folder / "dev_answers.npy"
        try:
            answers: NDArray[np.float32] = np.load(file)
        except (OSError, ValueError) as error:
            again = "the command that made this run, given again, writes it"
            raise RunError(f"{file} cannot be read ({error}): {again}") from error
        return answers

    def save_soft_targets(self, key: str, logits: NDArray[np.float32]) -> None:
        """Keep a teacher's logits, (rows, outputs), and what they are answers to."""
        if self.writes:
            with self._replacing("soft_targets.npz") as file:
                np.savez(file, key=np.asarray(key), logits=logits)

    def soft_targets(self) -> tuple[str, NDArray[np.float32]] | None:
        """Read what `save_soft_targets` kept; none where nothing was."""
        file = self.folder / "soft_targets.npz"
        if not file.is_file():
            return None
        try:
            with np.load(file) as content:
                return str(content["key"]), content["logits"]
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise RunError(f"{file} cannot be read ({error}): delete it, and it is made anew") from error

    def recipe(self) -> dict[str, Any]:
        """Read the recipe as plain values."""
        return self._json("recipe.json")

    def tokenizer(self) -> Tokenizer:
        """Load the encoder's tokenizer."""
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        if not self.writes:
            return
        with self._replacing("checkpoint.pt") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, weights: Mapping[str, Any], figures: dict[str, float]) -> dict[str, float]:
        """Save a training that needs no steps, and give its figures."""
        self.save({"step": 1, "seconds": 0.0, "model": dict(weights), "average": None, "optimisers": []})
        self.forget_after(0)
        self.log(step=1, epoch=1, **figures)
        return figures

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / "checkpoint.pt").is_file()

    def load(self, *, mapped: bool = False) -> dict[str, Any] | None:
        """Load the checkpoint; none where the run has not saved one yet.

        Args:
            mapped: Read a tensor from the file no sooner than it is looked at.
        """
        if not self.begun:
            return None
        file = self.folder / "checkpoint.pt"
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # torch raises whatever unpickling raised
            raise RunError(f"{file} cannot be read ({error}): delete it to start this run anew") from error
        return state

    def weights(self) -> dict[str, torch.Tensor]:
        """Load the weights to use: those that ship, or else the averaged ones, where the recipe says so.

        Raises:
            RunError: the folder holds no checkpoint.
        """
        state = self.load()
        if state is None:
            raise RunError(f"{self.folder} holds no checkpoint: train first, or name another --run")
        weights: dict[str, torch.Tensor] = state.get("shipped") or state["average"] or state["model"]
        return weights

    def log(self, **values: float | int) -> None:
        """Append one line to the metrics."""
        if not self.writes:
            return
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """Read what was logged, in order; empty where nothing was."""
        file = self.folder / "metrics.jsonl"
        return [line for text in file.read_text().splitlines() if (line := _logged(text))] if file.is_file() else []

    def final_figures(self) -> dict[str, float]:
        """Read the figures of the last epoch; empty where none has ended."""
        return {name: value for name, value in self._last_epoch().items() if name not in ("step", "epoch")}

    def require_finished(self) -> None:
        """Raises RunError when the run stopped before its last epoch, or before that epoch's weights were saved."""
        if lacks := self.unfinished():
            raise RunError(f"{self.folder} is not finished: {lacks}; the command that began it goes on")

    def unfinished(self) -> str | None:
        """Say how far a run came that stopped early, as `require_finished` means it; none for a finished one."""
        recipe, last = self.recipe(), self._last_epoch()
        fitted_at_once = recipe.get("encoder_rate") == 0
        done, epochs = last.get("epoch", 0), 1 if fitted_at_once else recipe["optimisation"]["epochs"]
        if done < epochs:
            return f"{done} of {epochs} epochs"
        # an epoch is logged before its checkpoint is written, which a full disk or a kill may prevent
        state = self.load(mapped=True)
        if state and state["step"] < last["step"]:
            return f"its checkpoint is of step {state['step']} of {last['step']}"
        return None

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps that a killed run had done beyond its last checkpoint; they will be done again."""
        if (self.folder / "metrics.jsonl").is_file():
            kept = [line for line in self.metrics() if line["step"] <= step]
            self._write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def _taken(self) -> bool:
        if not self.folder.is_dir() or (self.folder / "recipe.json").is_file():
            return False
        return any(entry.name not in ("lock", "recipe.json.draft") for entry in self.folder.iterdir())

    def _last_epoch(self) -> dict[str, Any]:
        return next((line for line in reversed(self.metrics()) if "epoch" in line), {})

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._replacing(name) as file:
                file.write(text.encode())

    @contextmanager
    def _replacing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file so that a reader sees the old content or the new, never a part."""
        draft = self.folder / f"{name}.draft"
        with draft.open("wb") as file:
            yield file
        draft.replace(self.folder / name)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder} holds no complete run: {name}: {error}") from error
        return content


def _digest(rows: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _logged(text: str) -> dict[str, float] | None:
    try:
        line: dict[str, float] = json.loads(text)
    except ValueError:  # a line that a kill or a full disk cut off
        return None
    return line
