"""A bundle: a folder that can be served, with everything needed to load it, check it and know where it came from.

    manifest.json        what it is (Manifest, below)
    model.onnx           the encoder: `input_ids` int64 (rows, tokens), `lengths` int64 (rows)
                         -> `vectors` float32 (rows, dimensions)
    embedding.npy        students only: the graph's table of token embeddings, uint8 (vocabulary, embedding)
    tokenizer.json       the encoder's tokenizer (Rust `tokenizers` format)
    head.onnx            tasks only: `vectors` float32 (rows, texts, dimensions)
                         -> `scores` float32 (rows, labels), activation inside
    canary.json          sentences with the answers this bundle gave when it was made
    weights.safetensors  students only: float16 weights, for fine-tuning; never read in serving
    README.md            the model card

An encoder bundle has a graph and a tokenizer. A task bundle has a head, and either these of its own or a `base`: the
space id of the encoder bundle beside it that it grew from, and that has what it lacks. That is the whole encoder of a
task whose head alone was trained; of one with a graph of its own it is the table of embeddings and the tokenizer.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MANIFEST, MODEL, HEAD, EMBEDDING = "manifest.json", "model.onnx", "head.onnx", "embedding.npy"
TOKENIZER, CANARY, WEIGHTS, CARD = "tokenizer.json", "canary.json", "weights.safetensors", "README.md"
ENCODER = {MODEL, EMBEDDING, TOKENIZER}

Role = Literal["student", "teacher"]
Inputs = Literal["text", "pair_apart", "pair_joined"]
Texts = tuple[str, ...]


class BundleError(RuntimeError):
    """A bundle that cannot be served; the message names the folder, the file and what is wrong with it."""


class Baseline(BaseModel):
    """What rows look like that the bundle was made for: what traffic is held against, to see it drift.

    Attributes:
        rows: Texts that it was taken from.
        unknown_ratio: Share of their tokens that the vocabulary lacks.
        mean_tokens: Tokens in a row, special tokens included.
        length_bounds: Longest row of each class of lengths but the last, which is open.
        length_shares: Share of the rows in each class.
        mean_vector: Mean of the rows' vectors; it is not of unit length.
        label_shares: For a classifier: how often it answers each label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=1)]
    unknown_ratio: Annotated[float, Field(ge=0, le=1)]
    mean_tokens: Annotated[float, Field(gt=0)]
    length_bounds: tuple[int, ...]
    length_shares: tuple[float, ...]
    mean_vector: tuple[float, ...]
    label_shares: dict[str, float] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Baseline":
        if len(self.length_shares) != len(self.length_bounds) + 1:
            raise ValueError("a baseline has one share more than bounds: the last class of lengths is open")
        return self


class Calibration(BaseModel):
    """How far a classifier's scores may be read as probabilities; its head answers softmax(logits / temperature).

    Attributes:
        temperature: Fitted on the dev rows; 1 where that mends nothing.
        ece_before: Expected calibration error on them at a temperature of 1.
        ece_after: The same, each half of them at the temperature that the other half gives.
        rows: How many there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(gt=0)]
    ece_before: Annotated[float, Field(ge=0, le=1)]
    ece_after: Annotated[float, Field(ge=0, le=1)]
    rows: Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Some of the dev rows: how many, and what the bundle scores on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=1)]
    score: float


class Slices(BaseModel):
    """Where a bundle is weaker: a task's deciding metric on parts of its dev rows, `all rows` among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    parts: dict[str, Part]


class Manifest(BaseModel):
    """What a bundle is. Two vectors may be mixed in one index only if their `space` is equal.

    Attributes:
        name: The bundle's name; a task's name is its route, /classify/<name>.
        inputs: One text; a pair encoded apart, (u, v) to the head; or a pair joined into one row.
        symmetric: Of pairs encoded apart: whether their order means nothing, and the head answers both alike.
        dimensions: Length of a sentence vector.
        max_tokens: Longest row that the encoder takes, special tokens included.
        vocabulary: Token ids run from 0 to this, exclusive.
        labels: A classifier's labels in the order of its scores; empty for encoders and regressors.
        activation: What the head applies; `none` for regressors and encoders.
        space: Hash over all that decides a vector: graph or weights, tokenizer, pooling, normalisation, precision.
        base: For a task that takes from another bundle what it lacks: the space of that.
        approximates: For a student: the space of its teacher.
        canary_tolerance: Largest difference to canary.json at load: 1 - cosine for vectors, absolute for scores.
        files: sha256 of every other file.
        training: The recipe and the data that made it.
        figures: Parity and quality, as the exporter measured them.
        baseline: What its rows looked like, where the exporter had any.
        calibration: For a classifier, where the exporter had dev rows enough to fit a temperature.
        slices: How it does on parts of its dev rows; an encoder by cosines, on those of STS-B.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    role: Role
    kind: Literal["encoder", "classifier", "regressor"]
    inputs: Inputs = "text"
    symmetric: bool = False
    dimensions: Annotated[int, Field(ge=1)]
    max_tokens: Annotated[int, Field(ge=3)]
    vocabulary: Annotated[int, Field(ge=1)]
    labels: tuple[str, ...] = ()
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    precision: Literal["float32", "int8"]
    space: str
    base: str | None = None
    approximates: str | None = None
    canary_tolerance: Annotated[float, Field(gt=0)]
    files: dict[str, str]
    training: dict[str, Any] = {}
    figures: dict[str, float] = {}
    baseline: Baseline | None = None
    calibration: Calibration | None = None
    slices: Slices | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if outside := [file for file in self.files if Path(file).name != file or file.startswith(".")]:
            raise ValueError(f"files are named without folders, unlike {outside[0]!r}")
        encoder = {MODEL, TOKENIZER} <= self.files.keys()
        if self.kind == "encoder" and (not encoder or self.base or HEAD in self.files):
            raise ValueError(f"an encoder bundle lists {MODEL} and {TOKENIZER}, no {HEAD}, and names no base")
        if self.kind != "encoder" and HEAD not in self.files:
            raise ValueError(f"a task bundle lists {HEAD}")
        if self.kind != "encoder" and not (encoder or self.base):
            raise ValueError(f"a task bundle has {MODEL} and {TOKENIZER} of its own, or a base")
        if self.base and not self.files.keys().isdisjoint({TOKENIZER, EMBEDDING}):
            raise ValueError(f"a task bundle with a base takes {TOKENIZER} and {EMBEDDING} from it")
        if self.symmetric and self.inputs != "pair_apart":
            raise ValueError(f"only a head on pairs encoded apart is symmetric, and inputs are {self.inputs}")
        if (self.kind == "classifier") != (len(self.labels) >= 2):
            raise ValueError("a classifier names at least two labels, and nothing else names any")
        if CANARY not in self.files:
            raise ValueError(f"a bundle lists {CANARY}")
        if self.baseline and len(self.baseline.mean_vector) != self.dimensions:
            raise ValueError(f"the baseline's mean vector has {len(self.baseline.mean_vector)} dimensions")
        if self.baseline and tuple(self.baseline.label_shares) != self.labels:
            raise ValueError("the baseline has a share for each label, in their order")
        if self.calibration and self.activation != "softmax":
            raise ValueError(f"a temperature is for scores of a softmax, not of {self.activation}")
        return self


@dataclass(frozen=True)
class Canary:
    """Inputs with the answers that the bundle gave when it was made.

    Attributes:
        inputs: Each one text or a pair.
        outputs: For each, its vector or its scores.
    """

    inputs: tuple[Texts, ...]
    outputs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there and unchanged.

    Attributes:
        folder: Where it lies.
        manifest: What it is.
        base: The bundle that its manifest names so; none where there is no such bundle beside it.
    """

    folder: Path
    manifest: Manifest
    base: "Bundle | None" = None

    @property
    def has_encoder(self) -> bool:
        """Whether the bundle brings a graph of its own."""
        return MODEL in self.manifest.files

    @property
    def embedding(self) -> Path | None:
        """Locate the table that the encoder's graph takes; none where the graph holds it.

        Raises:
            BundleError: as `path`.
        """
        holder = self._holder(MODEL)
        beside = holder.manifest.base is not None or EMBEDDING in holder.manifest.files
        return holder.path(EMBEDDING) if beside else None

    def path(self, file: str) -> Path:
        """Locate one of the bundle's files, or one of its encoder's, which may be the base's.

        Raises:
            BundleError: the base is not there, or lacks the file as well.
        """
        return self._holder(file).folder / file

    def _holder(self, file: str) -> "Bundle":
        if file in self.manifest.files or file not in ENCODER or self.manifest.base is None:
            return self
        if self.base is None or file not in self.base.manifest.files:
            raise BundleError(
                f"{self.folder} needs {file} of the encoder of space {self.manifest.base}, and no bundle beside it has "
                "it: put that bundle there, or make the task again, from a student that is there"
            )
        return self.base

    def canary(self) -> Canary:
        """Read the canary; raises BundleError when it cannot be read or has another form than Canary."""
        try:
            content = json.loads(self.path(CANARY).read_bytes())
            inputs = tuple(tuple(texts) for texts in content["inputs"])
            return Canary(inputs, tuple(tuple(output) for output in content["outputs"]))
        except OSError as error:
            raise BundleError(f"{self.path(CANARY)} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{self.path(CANARY)} is not a canary: {error}") from error


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and its base, and verify the checksum of every file.

    Raises:
        BundleError: the folder or a file is missing, a manifest is not valid, or a checksum differs.
    """
    bundle = _read(folder)
    if bundle.manifest.base is None:
        return bundle
    return replace(bundle, base=find_encoder(folder.parent, bundle.manifest.base))


def read_bundles(folders: Iterable[Path]) -> list[Bundle]:
    """Read bundles that lie beside one another, each once.

    Raises:
        BundleError: as `read_bundle`.
    """
    bundles = list(map(_read, folders))
    bases = {bundle.manifest.space: bundle for bundle in reversed(bundles) if bundle.manifest.kind == "encoder"}
    return [replace(one, base=bases.get(one.manifest.base)) if one.manifest.base else one for one in bundles]


def find_encoder(models_dir: Path, space: str) -> Bundle | None:
    """Find the bundle of an encoder by its space; none where no bundle in the folder has it.

    Raises:
        BundleError: it, or a bundle before it, cannot be read.
    """
    for file in sorted(models_dir.glob(f"[!.]*/{MANIFEST}")):
        manifest = read_manifest(file.parent)
        if manifest.kind == "encoder" and manifest.space == space:
            return _read(file.parent)
    return None


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest; raises BundleError when it is missing or not valid."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no bundle: it holds no {MANIFEST}") from error
    except OSError as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST} is not valid: {_first_problem(error)}") from error


def write_bundle(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle beside its place and rename it into place, so that no reader ever meets half of one.

    Args:
        folder: The bundle's place; an older bundle there is replaced.
        facts: The manifest's fields, without `files`, which is filled in here.
        files: Content by file name, without the manifest.

    Raises:
        BundleError: something other than a bundle is there, or the facts make no valid manifest; what was there before
            stays.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and not _is_empty(folder):
        raise BundleError(f"{folder} is no bundle, and one written there would replace all of it: name another folder")
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in sorted(files.items())}
    try:
        manifest = Manifest.model_validate({**facts, "files": checksums})
    except ValidationError as error:
        raise BundleError(f"{folder} would have a manifest that is not valid: {_first_problem(error)}") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for file, content in files.items():
            (draft / file).write_bytes(content)
        (draft / MANIFEST).write_text(json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n")
        draft.chmod(0o755)
        _replace_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return read_bundle(folder)


def space_id(*parts: bytes) -> str:
    """Identify a vector space by all that decides its vectors, such as graph and tokenizer: 16 hex digits."""
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(digests).hexdigest()[:16]


def _read(folder: Path) -> Bundle:
    manifest = read_manifest(folder)
    for file, expected in manifest.files.items():
        _verify(folder / file, expected)
    return Bundle(folder, manifest)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'manifest'}: {first['msg']}"


def _verify(file: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    if found != expected:
        raise BundleError(f"{file} is damaged: its sha256 is {found}, the manifest says {expected}")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _replace_folder(draft: Path, folder: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    if folder.exists():
        folder.rename(old / folder.name)
    draft.rename(folder)
    shutil.rmtree(old)
