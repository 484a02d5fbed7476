"""A larger student that answers as before: where a smaller one has arrived, a larger one begins."""

from dataclasses import replace

import torch
from torch import Tensor

from training.recipe import StudentShape
from training.student import Student

GATES = 4


def widens_to(own: StudentShape, shape: StudentShape) -> bool:
    """Tell whether a shape has more states per direction or more heads than another, or as many, and all else alike."""
    alike = replace(own, hidden=shape.hidden, heads=shape.heads) == shape
    return alike and own.hidden <= shape.hidden and own.heads <= shape.heads


@torch.no_grad()
def widened(student: Student, shape: StudentShape) -> Student:
    """Give a student of a larger shape, and the same vectors (after Chen et al. 2016, arXiv 1511.05641).

    What there is keeps its weights, and reads nothing of the new states and heads. These begin at random, as PyTorch
    has it: copies, as in the paper, would learn alike.

    Args:
        student: Stays as it is.
        shape: One that the student's widens to.

    Raises:
        ValueError: it does not.
    """
    if not widens_to(student.shape, shape):
        raise ValueError(f"a student of shape {student.shape} does not widen to {shape}")
    old, new = student.shape.hidden, shape.hidden
    wide = Student(shape, student.embedding.num_embeddings, student.projection.out_features)
    gates = torch.cat([torch.arange(old) + gate * new for gate in range(GATES)])
    for name, weight in student.state_dict().items():
        target = wide.get_parameter(name)
        rows = gates if name.startswith("lstm") else torch.arange(len(weight))
        target[rows] = 0
        if weight.dim() == 1:
            target[rows] = weight
        else:
            target[rows.unsqueeze(1), _columns(name, student, wide)] = weight
    return wide


def _columns(name: str, student: Student, wide: Student) -> Tensor:
    """Give the places, in the wide student's matrix of this name, of the other's columns."""
    old, new = student.shape.hidden, wide.shape.hidden
    states = torch.cat([torch.arange(old), torch.arange(old) + new])  # of both directions
    if name.startswith("lstm.weight_hh"):
        return torch.arange(old)
    if name in ("attention.weight", "heads.weight") or (name.startswith("lstm.weight_ih") and "_l0" not in name):
        return states
    if name == "projection.weight":
        firsts = torch.tensor([0, *wide.widths]).cumsum(0).tolist()
        embedded = torch.arange(student.shape.embedding * (1 + student.shape.heads))
        parts = [embedded if kind == "embedding" else states for kind in wide.shape.pooling]
        return torch.cat([part + first for part, first in zip(parts, firsts, strict=False)])
    return torch.arange(student.get_parameter(name).shape[1])
