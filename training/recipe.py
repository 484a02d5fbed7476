"""Recipes: a commented TOML file becomes a frozen dataclass, checked before anything costly starts."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
# Said to the model card and to the export: whatever they are, the training is the same.
REMARKS = ("licence", "int8")
STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Pooling = Literal["attention", "max", "mean", "embedding"]
Precision = Literal["bfloat16", "float32"]  # a device that does not compute in bfloat16 takes float32
Recipe = TypeVar("Recipe")


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the file, the key and what is expected."""


@dataclass(frozen=True, config=STRICT)
class Source:
    """One corpus file below the data folder, one sentence a line or a row; or a grammar that makes sentences.

    Attributes:
        path: Relative to the data folder: `.txt`, `.csv`, `.tsv` or `.jsonl`, each also as `.gz` or `.xz`; `.parquet`.
            A grammar, `.toml`, is looked for in training/grammars as well.
        sentences: How many lines to sample, or texts to make; all of them when there are fewer.
        passages: How many runs of two to six consecutive lines to add, joined into one text.
        repeats: How often a pass over the corpus shows each of them: the file's weight, beyond what `sentences` does.
        column: Where the sentence stands in a file that has columns.
        licence: Of its texts, for the model card.
    """

    path: str
    sentences: Count
    passages: Count = 0
    repeats: Size = 1
    column: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.is_grammar and (self.passages or self.column):
            raise ValueError(f"{self.path} is a grammar, which has neither passages nor columns")

    @property
    def is_grammar(self) -> bool:
        """Tell whether texts are made by it, and not read from it."""
        return self.path.endswith(".toml")


@dataclass(frozen=True, config=STRICT)
class Measured:
    """Texts that a student is measured by: `path` and `column` as a source has them."""

    path: str
    column: str | None = None


@dataclass(frozen=True, config=STRICT)
class Corpus:
    """What the student reads.

    Attributes:
        sources: Where its texts come from.
        never: Texts that it must not read, as they measure it; a text of the same words is left out as well.
        max_tokens: A longer text's first ones are read; special tokens count.
        held_out: Share of the texts that are never trained on: every corpus with this share holds out the same texts.
    """

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    never: tuple[Measured, ...] = ()
    max_tokens: Annotated[int, Field(ge=3)] = 256
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.003


@dataclass(frozen=True, config=STRICT)
class StudentShape:
    """Sizes of the BiLSTM: `embedding` per token, `hidden` per direction; `pooling`, whose results stand side by side.

    All poolings but one are of the BiLSTM's states. `embedding` is the mean of the token embeddings past the BiLSTM,
    each times a weight of its token: the linear part of what there is to learn, which is fitted before the rest. Beside
    it stand the means of so many `heads`, in each of which a token's state changes its weight.
    """

    embedding: Size = 256
    hidden: Size = 256
    layers: Size = 1
    pooling: Annotated[tuple[Pooling, ...], Field(min_length=1)] = ("attention", "max", "mean")
    heads: Count = 0

    def __post_init__(self) -> None:
        """Refuse heads of a pooling that is not there."""
        if self.heads and "embedding" not in self.pooling:
            raise ValueError("heads belong to the pooling `embedding`, which is not there")


@dataclass(frozen=True, config=STRICT)
class LossWeights:
    """The loss is the weighted sum of those in training/losses.py."""

    cosine: Weight = 1.0
    squared: Weight = 0.0
    similarity: Weight = 0.0

    def __post_init__(self) -> None:
        """Refuse a loss that is always zero."""
        if not any(dataclasses.astuple(self)):
            raise ValueError("at least one loss needs a weight above 0")


@dataclass(frozen=True, config=STRICT)
class Optimisation:
    """AdamW, and Muon where that is wanted, with linear warm-up, a plateau, and cosine decay to zero.

    Attributes:
        epochs: Passes over the rows.
        learning_rate: AdamW's peak.
        matrix_rate: Muon's peak (Jordan et al. 2024), for all matrices other than embeddings; 0 leaves them to AdamW.
        warmup: Share of all steps in which the rate climbs.
        decay: Share of all steps, the last ones, in which it falls, as far as the climb leaves them.
        batch_rows: Rows of a full batch; rarer lengths give smaller ones, weighted by their rows.
        batch_tokens: Tokens of a batch at most, so that long rows do not cost more memory.
        average: Decay of the moving average of the weights, which climbs to it from 0; 0 turns it off.
        keep: Share of the first weights in those that ship, so that what was known before is not forgotten.
    """

    epochs: Size
    learning_rate: Annotated[float, Field(gt=0)]
    matrix_rate: Weight = 0.0
    warmup: Share = 0.05
    decay: Share = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch_rows: Size = 512
    batch_tokens: Size = 16384
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.0


@dataclass(frozen=True, config=STRICT)
class Int8:
    """What int8 may cost when the run is exported; beyond it the export stops.

    Attributes:
        min_cosine: Lowest cosine of a vector to the same text's in float32, over the exporter's own texts.
        max_loss: Of the deciding metric, where there are labelled rows; of few of them, as much as one counts for.
    """

    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.995
    max_loss: Share = 0.01


@dataclass(frozen=True, config=STRICT)
class DistillRecipe:
    """Approximation of a teacher's sentence vectors, no task involved (Wu et al. 2020)."""

    name: str
    teacher: str
    corpus: Corpus
    student: StudentShape
    optimisation: Optimisation
    loss: LossWeights = LossWeights()
    seed: Seed = 1
    precision: Precision = "bfloat16"
    int8: Int8 = Int8()


@dataclass(frozen=True, config=STRICT)
class SoftTargets:
    """How a fine-tuned teacher's answers count beside the labels; of effect only where there is such a teacher.

    Attributes:
        kind: `logits`: squared distance of logits (Tang et al. 2019); `temperature`: KL divergence of softened answers
            (Hinton et al. 2015). A regression is held against the teacher's value, whatever is said here.
        weight: Share of the loss; the labels have the rest. Rows without a label have this part alone.
        temperature: For the second kind.
    """

    kind: Literal["logits", "temperature"] = "logits"
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0


@dataclass(frozen=True, config=STRICT)
class FinetuneRecipe:
    """Fine-tuning of a student on one task.

    Attributes:
        encoder_rate: Learning rate of the encoder as a share of the head's; 0 freezes the encoder: the head
            alone is then fitted, at once, and the other settings do not matter.
        embedding_rate: That of the encoder's token embeddings, token weights and heads, likewise; 0 leaves them as they
            are, and the task's bundle shares its student's table, which is most of an encoder.
        dropout: On the sentence vector, in training only.
        licence: Of the rows, or of those without labels, where it is not known already; for the model card.
    """

    name: str
    optimisation: Optimisation
    encoder_rate: Share = 1.0
    embedding_rate: Share = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_tokens: Annotated[int, Field(ge=3)] = 128
    seed: Seed = 1
    precision: Precision = "bfloat16"
    distillation: SoftTargets = SoftTargets()
    licence: str | None = None
    int8: Int8 = Int8()


@dataclass(frozen=True, config=STRICT)
class TeacherTaskRecipe:
    """Fine-tuning of a teacher on one task.

    Attributes:
        pairs: `apart`: each text of a pair by itself, in the vectors that a sentence encoder was trained for, which
            students approximate; `joined`: both in one row, as BERT takes them.
        pooling: `own` is what the checkpoint's files say.
        dropout: On the sentence vector, in training only; BERT's own is as its checkpoint says.
        max_tokens: Of a training row; a joined pair is one row.
    """

    name: str
    optimisation: Optimisation
    pairs: Literal["apart", "joined"] = "apart"
    pooling: Literal["own", "cls", "mean"] = "own"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_tokens: Annotated[int, Field(ge=5)] = 256
    seed: Seed = 1
    precision: Precision = "bfloat16"
    int8: Int8 = Int8()


def read_recipe(path: Path, kind: type[Recipe]) -> Recipe:
    """Read one TOML file as `kind`; raises RecipeError for a missing file, bad TOML, an unknown key or a bad value."""
    try:
        return TypeAdapter(kind).validate_python(tomllib.loads(path.read_text()))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        # a misspelt key explains the missing one
        first = min(error.errors(), key=lambda found: found["type"] not in UNKNOWN_KEY)
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path}: {key}: {first['msg']} (it was {first['input']!r})") from error


def recipe_from(plain: Mapping[str, Any], kind: type[Recipe]) -> Recipe:
    """Undo `as_dict`, of what a run keeps; raises RecipeError where that, say of an older version, is no recipe."""
    try:
        return TypeAdapter(kind).validate_python({key: value for key, value in plain.items() if key != "from"})
    except ValidationError as error:
        raise RecipeError(
            f"the recipe that came with the student cannot be read: {error.errors()[0]['msg']}"
        ) from error


def as_dict(recipe: Any) -> dict[str, Any]:
    """Give a recipe as plain values, for checkpoints and manifests."""
    return dataclasses.asdict(recipe)


def decisive(plain: Any) -> Any:
    """Give what of a plain recipe decides its training, so that a run goes on when only its remarks have changed."""
    if isinstance(plain, Mapping):
        return {key: decisive(value) for key, value in plain.items() if key not in REMARKS}
    return [decisive(value) for value in plain] if isinstance(plain, list | tuple) else plain
