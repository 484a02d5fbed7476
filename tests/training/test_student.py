import numpy as np
import pytest
import torch

from training.encoding import encode
from training.recipe import Pooling, StudentShape
from training.student import Student, build_student, load_student, pool

SHAPE = StudentShape(embedding=6, hidden=5, layers=2)


def student() -> Student:
    torch.manual_seed(0)
    return Student(SHAPE, vocabulary=20, width=8).eval()


def test_vectors_have_the_teachers_width_and_unit_length():
    vectors = encode(student(), [[2, 5, 3], [2, 3], [2, 7, 7, 7, 3]])
    assert vectors.shape == (3, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_packed_row_equals_the_row_alone():
    rows = [[2, 7, 7, 7, 3], [2, 5, 3], [2, 3]]
    padded = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    model = student()
    with torch.inference_mode():
        together = model(padded, torch.tensor([5, 3, 2]))
    assert np.allclose(together, encode(model, rows), atol=1e-6)


def test_a_vector_depends_on_the_order_of_tokens():
    forwards, backwards = encode(student(), [[2, 5, 6, 3], [2, 6, 5, 3]])
    assert not np.allclose(forwards, backwards, atol=1e-3)


def test_each_pooling_is_what_its_name_says():
    embedded = torch.tensor([[[7.0]], [[8.0]]])  # two tokens, one row, one number
    weights = torch.tensor([[[2.0], [0.5]]])
    states = torch.tensor([[[1.0, -1.0]], [[3.0, -5.0]]])  # two tokens, one row, two states
    query = torch.tensor([[100.0, 0.0]])  # attends to the second token alone
    found = pool(("attention", "max", "embedding", "mean"), embedded, weights, states, query)
    assert {kind: pooled.tolist() for kind, pooled in found.items()} == {
        "attention": [[3.0, -5.0]],
        "max": [[3.0, 0.0]],
        "embedding": [[9.0]],
        "mean": [[2.0, -3.0]],
    }


@pytest.mark.parametrize(
    ("pooling", "width"), [(("attention",), 10), (("max",), 10), (("mean", "max"), 20), (("mean", "embedding"), 16)]
)
def test_a_student_pools_what_it_is_told_to(pooling: tuple[Pooling, ...], width: int):
    torch.manual_seed(0)
    model = Student(StudentShape(embedding=6, hidden=5, pooling=pooling), vocabulary=20, width=8).eval()
    assert model.projection.in_features == width
    padded = torch.tensor([[2, 7, 7, 3], [2, 3, 0, 0]])
    with torch.inference_mode():
        together = model(padded, torch.tensor([4, 2]))
    assert np.allclose(together, encode(model, [[2, 7, 7, 3], [2, 3]]), atol=1e-6)


def test_heads_weigh_embeddings_by_token_and_state():
    torch.manual_seed(0)
    model = Student(StudentShape(embedding=6, hidden=5, pooling=("embedding",), heads=2), vocabulary=20, width=8).eval()
    torch.nn.init.uniform_(model.token_weight.weight)
    rows = [[2, 7, 7, 3], [2, 3]]
    with torch.inference_mode():
        embedded = model.embedding(torch.tensor(rows[0]))  # (tokens, embedding)
        weights = model.token_weight(torch.tensor(rows[0]))
        changed = weights * model.heads(model.lstm(embedded)[0])  # (tokens, heads)
        means = [(share.unsqueeze(1) * embedded).mean(dim=0) for share in (weights[:, 0], *changed.t())]
        expected = torch.nn.functional.normalize(model.projection(torch.cat(means)), dim=0)
        padded = torch.tensor([[2, 7, 7, 3], [2, 3, 0, 0]])
        together = model(padded, torch.tensor([4, 2]))
    assert np.allclose(together[0], expected, atol=1e-6)
    assert np.allclose(together, encode(model, rows), atol=1e-6)


def test_the_embedding_starts_as_the_teachers_reduced_by_pca():
    table = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.tensor([9.0, 3, 1, 0.1]))
    weights = build_student(StudentShape(embedding=2, hidden=3), table, width=4).embedding.weight.detach()
    centred = table - table.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].t()
    expected /= expected.std()
    assert torch.allclose(weights.abs(), expected.abs(), atol=1e-4)  # an axis may point either way


def test_an_embedding_wider_than_the_teachers_keeps_its_own_start_beyond_it():
    weights = build_student(StudentShape(embedding=6, hidden=3), torch.randn(50, 4), width=4).embedding.weight
    assert weights.shape == (50, 6)
    assert float(weights[:, 4:].detach().std()) > 0


def test_a_student_is_rebuilt_from_half_precision_weights():
    model = student()
    again = load_student(
        {"embedding": 6, "hidden": 5, "layers": 2}, {name: weight.half() for name, weight in model.state_dict().items()}
    )
    rows = [[2, 5, 6, 3]]
    assert np.allclose(encode(again, rows), encode(model, rows), atol=1e-2)
    assert not again.training
