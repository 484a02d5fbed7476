"""Text to token ids, exactly as the bundle's encoder was trained on them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Batches are already spread over worker threads; a second pool inside the library would fight them for the cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer as RustTokenizer

from app.bundle import BundleError, Texts


class Row(NamedTuple):
    """One row for the encoder: its token ids, special tokens included, and whether text was cut off."""

    ids: Sequence[int]
    truncated: bool


class Tokenizer:
    """A bundle's tokenizer; its settings are fixed here and never touched again, so threads may share it."""

    def __init__(self, file: Path, max_tokens: int) -> None:
        """Load `file`; raises BundleError when it is not a tokenizer."""
        try:
            self._tokenizer = RustTokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{file} is not a tokenizer: {error}") from error
        # Checkpoints ship with fixed padding and a limit of their own: either would change or slow every row.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    @property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary lacks; None where nothing does."""
        token = getattr(self._tokenizer.model, "unk_token", None)
        return None if token is None else self._tokenizer.token_to_id(token)

    def rows(self, inputs: Sequence[Texts]) -> list[Row]:
        """Tokenise single texts or joined pairs, one row each.

        Raises:
            UnicodeEncodeError: a text holds a lone surrogate.
        """
        batch = [texts[0] if len(texts) == 1 else texts for texts in inputs]
        encodings = self._tokenizer.encode_batch_fast(batch)
        return [Row(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]
