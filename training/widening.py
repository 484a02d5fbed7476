"""A student with more states that answers as before: where a smaller one has arrived, a larger one begins."""

from dataclasses import replace

import torch
from torch import Tensor

from training.recipe import StudentShape
from training.student import Student

GATES = 4


@torch.no_grad()
def widened(student: Student, shape: StudentShape) -> Student:
    """Give a student with more states per direction, and the same vectors (after Chen et al. 2016, arXiv 1511.05641).

    The states that there are keep their weights, and read nothing of the new ones; no more does the pooling or the
    projection. New states begin at random, as PyTorch has it: copies, as in the paper, would learn alike.

    Args:
        student: Stays as it is.
        shape: As the student's, but for `hidden`.

    Raises:
        ValueError: they differ in something else, or `hidden` is smaller.
    """
    old, new = student.lstm.hidden_size, shape.hidden
    own = StudentShape(student.lstm.input_size, old, student.lstm.num_layers, student.pooling)
    if replace(own, hidden=new) != shape or new < old:
        raise ValueError(f"a student of shape {own} does not widen to {shape}")
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
    old, new = student.lstm.hidden_size, wide.lstm.hidden_size
    states = torch.cat([torch.arange(old), torch.arange(old) + new])  # of both directions
    if name.startswith("lstm.weight_hh"):
        return torch.arange(old)
    if name == "attention.weight" or (name.startswith("lstm.weight_ih") and "_l0" not in name):
        return states
    if name == "projection.weight":
        firsts = torch.tensor([0, *wide.widths]).cumsum(0).tolist()
        parts = [torch.arange(student.lstm.input_size) if kind == "embedding" else states for kind in wide.pooling]
        return torch.cat([part + first for part, first in zip(parts, firsts, strict=False)])
    return torch.arange(student.get_parameter(name).shape[1])
