"""Where a student's training starts: its linear part fitted to the teacher, in a minute, before the BiLSTM joins in.

The linear part is the path that `embedding` pooling takes past the BiLSTM: a vector per token, their mean, projected.
Alone it is a static model, as those of Tulkens and van Dongen 2024 (model2vec), but fitted to the teacher's vectors of
whole texts. What it cannot say, such as the order of words, is left to the BiLSTM. What that gains: training/LOG.md.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.batches import Rows
from training.encoding import device_of, encode
from training.losses import cosine_loss
from training.progress import Progress
from training.student import Student
from training.targets import Targets
from training.teacher import Teacher

PASSES = 2
BATCH_ROWS = 1024
LEARNING_RATE = 3e-3
SMALLEST_SHARE = 1e-4  # of the usual size of a token's vector; below it lies only noise


@dataclass(frozen=True)
class LinearStart:
    """A static model: `mean of embedding rows @ projection.T + bias` points where the teacher's vector does.

    Attributes:
        embedding: float32 (vocabulary, size).
        projection: float32 (width, size).
        bias: float32 (width).
    """

    embedding: Tensor
    projection: Tensor
    bias: Tensor


def linear_start(teacher: Teacher, targets: Targets, rows: Rows, size: int, seed: int, cache: Path) -> LinearStart:
    """Fit a static model to the teacher, or read it from the cache.

    Args:
        teacher: Whose vectors `targets` holds; on the device to train on.
        targets: The corpus.
        rows: Its rows to learn from; what stands there twice counts twice.
        size: Of a token's vector.
        seed: Decides the order of rows.
        cache: Kept below it.
    """
    digest = hashlib.sha256(np.sort(targets.tokens.keys[rows]).tobytes())
    digest.update(repr((teacher.fingerprint, size, seed, PASSES, BATCH_ROWS, LEARNING_RATE)).encode())
    file = cache / "linear" / f"{digest.hexdigest()[:16]}.safetensors"
    if not file.is_file():
        found = _fit(_token_vectors(teacher), targets, rows, size, seed, file.with_suffix(".jsonl"))
        draft = file.with_suffix(".draft")
        save_file(asdict(found), draft)
        draft.rename(file)
    return LinearStart(**load_file(file))


@torch.no_grad()
def start_from(student: Student, start: LinearStart) -> None:
    """Let a student begin as a static model: what it pools of the BiLSTM's states counts for nothing yet.

    Every token's vector is scaled to unit variance and its size becomes the token's weight: the mean is as before, and
    the BiLSTM can tell apart the words that hardly count in it, such as "not".

    Raises:
        ValueError: the student does not pool its embeddings.
    """
    weights = student.weights_of("embedding")
    scale = start.embedding.std()
    sizes = start.embedding.square().mean(dim=1, keepdim=True).sqrt().clamp(min=SMALLEST_SHARE * float(scale))
    student.embedding.weight.copy_(start.embedding / sizes)
    student.token_weight.weight.copy_(sizes / scale)
    student.projection.bias.copy_(start.bias)
    student.projection.weight.zero_()
    weights[:, : start.projection.shape[1]] = start.projection * scale


def _token_vectors(teacher: Teacher) -> Tensor:
    """Encode every token of the vocabulary as a text of its own, float32 (vocabulary, width)."""
    marks: list[int] = teacher.tokenizer.encode("").ids  # [CLS] [SEP], of most
    texts = [[*marks[:1], token, *marks[1:]] for token in range(teacher.vocabulary)]
    return torch.from_numpy(encode(teacher.encoder, texts)).to(device_of(teacher.encoder))


def _fit(tokens: Tensor, targets: Targets, rows: Rows, size: int, seed: int, log: Path) -> LinearStart:
    """Fit by the cosine loss, from the tokens' own vectors reduced by PCA to at most `size` numbers."""
    device, width = tokens.device, tokens.shape[1]
    _, axes = torch.linalg.eigh(tokens.t() @ tokens)  # columns by rising weight
    kept = axes.flip(1)[:, :size]
    embedding = nn.Parameter(torch.zeros(len(tokens), size, device=device))
    projection = nn.Parameter(torch.zeros(width, size, device=device))
    bias = nn.Parameter(torch.zeros(width, device=device))
    with torch.no_grad():
        embedding[:, : kept.shape[1]] = tokens @ kept
        projection[:, : kept.shape[1]] = kept
    optimiser = torch.optim.AdamW([embedding, projection, bias], weight_decay=0.0, fused=True)
    batches = max(1, len(rows) // BATCH_ROWS)
    steps = PASSES * batches
    rng = np.random.default_rng(seed)
    log.parent.mkdir(parents=True, exist_ok=True)
    with Progress("linear start", steps, 0, "step", log) as progress:
        for number in range(PASSES):
            for part, batch in enumerate(np.array_split(rng.permutation(rows), batches)):
                optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - (number * batches + part) / steps)
                batch.sort()  # rows lie by length, their vectors on disk
                input_ids, starts = targets.tokens.flat(batch)
                means = nn.functional.embedding_bag(input_ids.to(device), embedding, starts.to(device), mode="mean")
                expected = torch.from_numpy(targets.expected(batch)).to(device)
                loss = cosine_loss(means @ projection.t() + bias, expected)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                optimiser.zero_grad()
                progress.add(1)
    return LinearStart(*(found.detach().cpu().contiguous() for found in (embedding, projection, bias)))
