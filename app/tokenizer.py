"""Text to token ids, exactly as the bundle's encoder was trained on them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Batches are already spread over worker threads; a second pool inside the library would fight them for the cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer as RustTokenizer

from app.bundle import BundleError, Texts

# What is read of a text at first, in characters for each token that fits: natural text has about five.
GLANCE = 16
LONGEST_WORD = 100  # WordPiece takes a longer one for a single unknown token


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
        self._glance = GLANCE * max_tokens

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
        heads = [tuple(map(self._head, texts)) for texts in inputs]
        batch = [texts[0] if len(texts) == 1 else texts for texts in heads]
        encodings = self._tokenizer.encode_batch_fast(batch)
        return [Row(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    def _head(self, text: str) -> str:
        """Leave off what no row can hold, and what does not change those tokens that one can.

        Tokenising megabytes, only to cut them off, would take seconds and hundreds of megabytes. Of a joined pair in
        which both are far too long, the odd token may go to the other text than it would otherwise.
        """
        read = self._glance
        while read < len(text):
            head = text[:read]
            (encoding,) = self._tokenizer.encode_batch([head])  # encode() would hold Python's lock all the while
            if encoding.overflowing and max(end for _, end in encoding.offsets) <= read - LONGEST_WORD:
                return head  # the word at the cut is none of those that are kept
            read *= 2
        return text
