from dataclasses import replace

import pytest
import torch

from training.recipe import Pooling, StudentShape
from training.student import Student
from training.widening import widened

TOKENS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 8, 9, 3]])
SHAPE = StudentShape(embedding=6, hidden=5, pooling=("attention", "embedding", "mean"))
WIDER = StudentShape(embedding=6, hidden=8, pooling=SHAPE.pooling, heads=2)


def student(shape: StudentShape = SHAPE) -> Student:
    torch.manual_seed(0)
    model = Student(shape, vocabulary=20, width=8)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # not what a new one begins with
    return model


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    ("pooling", "heads", "then"),
    [(("attention",), 0, 0), (("mean", "embedding", "max"), 0, 3), (("embedding", "mean"), 2, 3)],
)
def test_a_wider_student_gives_the_same_vectors(layers: int, pooling: tuple[Pooling, ...], heads: int, then: int):
    narrow = student(StudentShape(embedding=6, hidden=5, layers=layers, pooling=pooling, heads=heads))
    wide = widened(narrow, StudentShape(embedding=6, hidden=8, layers=layers, pooling=pooling, heads=then))
    assert wide.shape == StudentShape(embedding=6, hidden=8, layers=layers, pooling=pooling, heads=then)
    assert torch.allclose(wide(TOKENS), narrow(TOKENS), atol=1e-5)


def test_every_new_weight_can_learn():
    wide = widened(student(), WIDER)
    targets = torch.randn(2, 8)
    optimiser = torch.optim.SGD(wide.parameters(), lr=0.1)
    before = {name: weight.clone() for name, weight in wide.named_parameters()}
    for _ in range(2):  # the projection begins to read the new states, and then these learn
        optimiser.zero_grad()
        (wide(TOKENS) - targets).square().sum().backward()
        optimiser.step()
    stuck = [name for name, weight in wide.named_parameters() if bool((weight == before[name]).any())]
    assert stuck == ["embedding.weight", "token_weight.weight"]  # of tokens that no row has


def test_what_was_given_stays_as_it_is():
    narrow = student()
    wide = widened(narrow, SHAPE)
    torch.nn.init.zeros_(wide.embedding.weight)
    assert bool(narrow.embedding.weight.any())


@pytest.mark.parametrize(
    "shape",
    [
        StudentShape(embedding=6, hidden=4, pooling=SHAPE.pooling),
        StudentShape(embedding=7, hidden=8, pooling=SHAPE.pooling),
        StudentShape(embedding=6, hidden=8, layers=2, pooling=SHAPE.pooling),
        StudentShape(embedding=6, hidden=8),
    ],
)
def test_a_student_grows_in_states_and_heads_alone(shape: StudentShape):
    with pytest.raises(ValueError, match=r"hidden=5.* does not widen to .*"):
        widened(student(), shape)


def test_no_head_is_lost():
    with pytest.raises(ValueError, match=r"heads=3.* does not widen to .*heads=2"):
        widened(student(replace(SHAPE, heads=3)), replace(SHAPE, heads=2))
