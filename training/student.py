"""The student: embedding, BiLSTM, pooling, projection to the teacher's width, unit length."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.recipe import Pooling, StudentShape


class Student(nn.Module):
    """A BiLSTM sentence encoder that stands in for a teacher (Wu et al. 2020, arXiv 2004.03097, section 3).

    `forward(input_ids, lengths)` takes int64 (rows, tokens) and int64 (rows) and gives float32 (rows, width), each of
    unit length. Without `lengths` every row is taken as full: in training the rows of a batch have one length, since
    packing falls off the fused LSTM kernel. With `lengths`, PyTorch's packing wants the rows sorted from long to short;
    the exported graph takes them in any order.
    """

    def __init__(self, shape: StudentShape, vocabulary: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        states = 2 * shape.hidden
        self.embedding = nn.Embedding(vocabulary, shape.embedding)
        if "embedding" in shape.pooling:
            self.token_weight = nn.Embedding(vocabulary, 1)
            nn.init.ones_(self.token_weight.weight)
        if shape.heads:
            self.heads = nn.Linear(states, shape.heads)
        self.lstm = nn.LSTM(shape.embedding, shape.hidden, shape.layers, bidirectional=True)
        self.attention = nn.Linear(states, 1, bias=False)
        embedded = shape.embedding * (1 + shape.heads)
        self.widths = [embedded if kind == "embedding" else states for kind in shape.pooling]
        self.projection = nn.Linear(sum(self.widths), width)

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give one unit vector per row."""
        embedded = self.embedding(input_ids.t())  # (tokens, rows, embedding): time first spares the LSTM a transpose
        if lengths is None:
            states, _ = self.lstm(embedded)  # (tokens, rows, states)
            pooled = pool(self.shape.pooling, embedded, self._weights(input_ids, states), states, self.attention.weight)
        else:
            packed, _ = self.lstm(pack_padded_sequence(embedded, lengths))
            states, _ = pad_packed_sequence(packed, total_length=input_ids.shape[1])
            if lengths.device != input_ids.device:  # packing wants them on the CPU, all else beside the tokens
                lengths = lengths.to(input_ids.device)
            padding = torch.arange(input_ids.shape[1], device=input_ids.device) >= lengths.unsqueeze(1)
            weights = self._weights(input_ids, states)
            pooled = pool(self.shape.pooling, embedded, weights, states, self.attention.weight, padding, lengths)
        # each apart, so that int8 gives each a scale of its own: means of embeddings are not as large as states
        parts = [nn.functional.linear(one, self.weights_of(kind)) for kind, one in pooled.items()]
        return nn.functional.normalize((sum(parts) + self.projection.bias).float(), dim=1)

    def _weights(self, input_ids: Tensor, states: Tensor) -> Tensor | None:
        """Give what tokens count for in the means of embeddings, (rows, tokens, 1 + heads), where these are pooled."""
        if "embedding" not in self.shape.pooling:
            return None
        weights: Tensor = self.token_weight(input_ids)
        if not self.shape.heads:
            return weights
        return torch.cat([weights, weights * self.heads(states.transpose(0, 1))], dim=2)

    def weights_of(self, kind: Pooling) -> Tensor:
        """Give the part of the projection's weights that a pooling meets, (width, states or (1 + heads) x embedding).

        Raises:
            ValueError: the student does not pool so.
        """
        if kind not in self.shape.pooling:
            raise ValueError(f"this student pools {', '.join(self.shape.pooling)}, and not {kind}")
        place = self.shape.pooling.index(kind)
        first = sum(self.widths[:place])
        return self.projection.weight[:, first : first + self.widths[place]]


def pool(
    kinds: Sequence[Pooling],
    embedded: Tensor,
    weights: Tensor | None,
    states: Tensor,
    query: Tensor,
    padding: Tensor | None = None,
    lengths: Tensor | None = None,
) -> dict[Pooling, Tensor]:
    """Pool states by attention, maximum or mean, and embeddings by means in which each token has its weight.

    The maximum is at least zero, so that padding, whose states are zero, never decides it and needs no mask.

    Args:
        kinds: Which.
        embedded: (tokens, rows, embedding); anything finite where padded.
        weights: Of tokens, (rows, tokens, means); none where embeddings are not pooled.
        states: (tokens, rows, states); zero where padded.
        query: The attention's, (1, states).
        padding: bool (rows, tokens), true beyond a row's length; none where every row is full.
        lengths: int64 (rows), given together with `padding`.

    Returns:
        By kind, in the order given: (rows, states), or (rows, means x embedding).
    """
    states, embedded = states.transpose(0, 1), embedded.transpose(0, 1)  # ONNX Runtime pools fastest so
    counts = states.shape[1] if lengths is None else lengths.unsqueeze(1).to(states.dtype)

    def weighted(shares: Tensor, over: Tensor) -> Tensor:
        """(rows, means, tokens), (rows, tokens, any) -> (rows, means x any)."""
        return (shares.to(over.dtype) @ over).flatten(1)

    def attention() -> Tensor:
        logits = (states @ query.t().unsqueeze(0)).flatten(1).float()  # (rows, tokens)
        if padding is not None:
            logits = logits.masked_fill(padding, float("-inf"))
        return weighted(torch.softmax(logits, dim=1).unsqueeze(1), states)

    def maximum() -> Tensor:
        return states.max(dim=1).values.relu()

    def mean() -> Tensor:
        return states.sum(dim=1) / counts

    def mean_embedding() -> Tensor:
        assert weights is not None
        kept = weights if padding is None else weights.masked_fill(padding.unsqueeze(2), 0)
        return (weighted(kept.transpose(1, 2), embedded) / counts).to(states.dtype)

    poolings = {"attention": attention, "max": maximum, "mean": mean, "embedding": mean_embedding}
    return {kind: poolings[kind]() for kind in kinds}


@torch.no_grad()
def build_student(shape: StudentShape, word_embeddings: Tensor, width: int) -> Student:
    """Build a student whose embedding starts as the teacher's, reduced by PCA.

    The table is scaled to unit variance, which LSTM's default initialisation expects of its input; it also keeps Adam's
    first steps on a rare token small beside the token's own vector.

    Args:
        shape: Sizes.
        word_embeddings: The teacher's, float32 (vocabulary, teacher width).
        width: Length of the sentence vector to approximate.
    """
    student = Student(shape, len(word_embeddings), width)
    centred = word_embeddings - word_embeddings.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.t() @ centred)  # columns by rising variance
    kept = vectors.flip(1)[:, : shape.embedding]
    reduced = centred @ kept  # (vocabulary, min(embedding, teacher width))
    student.embedding.weight[:, : reduced.shape[1]] = reduced / reduced.std()
    return student


def load_student(shape: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Student:
    """Rebuild a student, ready for inference, from a recipe's sizes and its weights (any floating type)."""
    width = len(weights["projection.bias"])
    student = Student(StudentShape(**shape), len(weights["embedding.weight"]), width)
    student.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return student.eval()
