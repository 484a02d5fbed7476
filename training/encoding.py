"""Texts to token ids, and token ids to vectors, rows of one length at a time so that nothing is padded."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

BATCH_TOKENS = 4096

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]  # texts to (texts, width)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], max_tokens: int) -> list[list[int]]:
    """Give the token ids of every text or joined pair, special tokens included, at most `max_tokens` each.

    What is too long is cut at its end; of a pair, the longer text first.
    """
    bounded = Tokenizer.from_str(tokenizer.to_str())  # a shared tokenizer's settings are never changed
    bounded.enable_truncation(max_tokens)
    return [encoding.ids for encoding in bounded.encode_batch_fast(list(texts))]


def batches_of_one_length(lengths: NDArray[np.int64], batch_tokens: int = BATCH_TOKENS) -> Iterator[NDArray[np.int64]]:
    """Cut rows sorted by length into runs of equal length, each of at most `batch_tokens` tokens.

    Args:
        lengths: int64 (rows), ascending.
        batch_tokens: A single row may exceed it.

    Yields:
        Row numbers, int64.
    """
    cuts = np.flatnonzero(np.diff(lengths)) + 1
    for start, stop in pairwise([0, *cuts.tolist(), len(lengths)]):
        step = max(1, batch_tokens // int(lengths[start]))
        for low in range(start, stop, step):
            yield np.arange(low, min(low + step, stop))


def device_of(module: nn.Module) -> torch.device:
    """Say where a module's weights are; on the CPU, if it has none."""
    weight = next(module.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


@torch.inference_mode()
def encode(encoder: nn.Module, rows: Sequence[Sequence[int]]) -> Vectors:
    """Encode rows of token ids with a teacher or a student in float32: (rows, width), in the order given."""
    if not len(rows):
        raise ValueError("there are no rows to encode")
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    order = np.argsort(lengths, kind="stable")
    device = device_of(encoder)
    vectors = np.empty((len(rows), 0), dtype=np.float32)
    for batch in batches_of_one_length(lengths[order]):
        chosen = order[batch]
        answer = encoder(torch.from_numpy(np.asarray([rows[row] for row in chosen], dtype=np.int64)).to(device))
        if not vectors.shape[1]:
            vectors = np.empty((len(rows), answer.shape[1]), dtype=np.float32)
        vectors[chosen] = answer.float().cpu().numpy()
    return vectors


def text_encoder(encoder: nn.Module, tokenizer: Tokenizer, max_tokens: int) -> Encode:
    """Give a teacher or a student, in float32, as a function of texts."""

    def encode_texts(texts: Sequence[str]) -> Vectors:
        return encode(encoder, tokenize(tokenizer, texts, max_tokens))

    return encode_texts
