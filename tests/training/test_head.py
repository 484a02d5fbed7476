import numpy as np
import pytest
import torch

from training.head import Head, fit_head
from training.task import Task, TaskError

RNG = np.random.default_rng(0)


def test_one_text_gives_its_vector():
    vectors = torch.tensor([[[1.0, 2.0]]])
    assert Head(texts=1, width=2, outputs=3).features(vectors).tolist() == [[1.0, 2.0]]


def test_a_pair_gives_both_their_distance_and_their_product():
    pair = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    assert Head(texts=2, width=2, outputs=3).features(pair).tolist() == [[1, 2, 3, -1, 2, 3, 3, -2]]


def test_a_symmetric_head_gives_both_orders_of_a_pair_the_same_logits():
    torch.manual_seed(0)
    pairs = torch.randn(50, 2, 16)
    plain, symmetric = Head(texts=2, width=16, outputs=3), Head(texts=2, width=16, outputs=3, symmetric=True)
    assert torch.equal(symmetric(pairs), symmetric(pairs.flip(1)))
    assert not torch.allclose(plain(pairs), plain(pairs.flip(1)), atol=0.1)


def test_a_symmetric_head_answers_as_a_plain_one_with_equal_weights_for_both_texts():
    torch.manual_seed(0)
    plain, symmetric = Head(texts=2, width=4, outputs=3), Head(texts=2, width=4, outputs=3, symmetric=True)
    with torch.no_grad():
        both, rest = symmetric.output.weight.split([4, 8], dim=1)
        plain.output.weight.copy_(torch.cat([both, both, rest], dim=1))
        plain.output.bias.copy_(symmetric.output.bias)
    pairs = torch.randn(50, 2, 4)
    assert torch.allclose(plain(pairs), symmetric(pairs), atol=1e-6)


def test_of_a_single_text_no_head_is_symmetric():
    assert not Head(texts=1, width=4, outputs=3, symmetric=True).symmetric


@pytest.mark.parametrize("labels", [("different", "same"), ()])
def test_a_symmetric_head_is_fitted(labels: tuple[str, ...]):
    vectors = RNG.standard_normal((200, 2, 4)).astype(np.float32)
    alike = (vectors[:, 0] * vectors[:, 1]).sum(axis=1)
    truth = (alike > 0).astype(float) if labels else alike.astype(float)
    head = Head(texts=2, width=4, outputs=max(1, len(labels)), symmetric=True)
    fit_head(head, vectors, truth, Task("t", 2, labels, ("accuracy",) if labels else ("pearson",), symmetric=True))
    answer = head(torch.from_numpy(vectors)).detach().numpy()
    found = answer.argmax(axis=1) == truth if labels else np.isclose(answer[:, 0], truth, atol=0.2)
    assert found.mean() > 0.95


def test_a_head_gives_one_logit_per_output():
    assert Head(texts=2, width=4, outputs=3)(torch.zeros(5, 2, 4)).shape == (5, 3)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_is_fitted_to_labels_that_a_line_separates(classes: int):
    vectors = RNG.standard_normal((60, 1, 4)).astype(np.float32)
    labels = vectors[:, 0, :classes].argmax(axis=1).astype(float)
    head = Head(texts=1, width=4, outputs=classes)
    fit_head(head, vectors, labels, Task("t", 1, tuple("abc"[:classes]), ("accuracy",)))
    assert (head(torch.from_numpy(vectors)).argmax(dim=1).numpy() == labels).mean() > 0.95


def test_a_head_is_sure_of_labels_that_any_penalty_would_tell_apart():
    labels = np.arange(60.0) % 2
    vectors = (0.1 * (2 * labels - 1)[:, None, None] * np.ones((60, 1, 4))).astype(np.float32)
    head = Head(texts=1, width=4, outputs=2)
    fit_head(head, vectors, labels, Task("t", 1, ("a", "b"), ("accuracy",)))
    right = torch.softmax(head(torch.from_numpy(vectors)), dim=1)[np.arange(60), labels.astype(int)]
    assert right.min() > 0.8


def test_a_head_is_fitted_to_values():
    vectors = RNG.standard_normal((60, 1, 4)).astype(np.float32)
    labels = 3 * vectors[:, 0, 1] - 1
    head = Head(texts=1, width=4, outputs=1)
    fit_head(head, vectors, labels, Task("t", 1, (), ("pearson",)))
    assert np.allclose(head(torch.from_numpy(vectors)).detach()[:, 0], labels, atol=0.05)


def test_a_head_with_a_scale_gives_values_of_it_and_is_folded_to_one_that_answers_the_same():
    head, vectors = Head(texts=1, width=4, outputs=1), torch.randn(9, 1, 4, generator=torch.Generator().manual_seed(0))
    before = head(vectors)
    head.scale_to(np.asarray([990.0, 1010.0]))
    assert torch.allclose(head(vectors), 1000 + 10 * before)
    plain = head.folded()
    assert torch.allclose(plain(vectors), head(vectors))
    assert plain.state_dict().keys() == Head(1, 4, 1).state_dict().keys()


def test_a_heads_weights_decide_whether_it_has_a_scale():
    scaled, plain = Head(texts=1, width=4, outputs=1), Head(texts=1, width=4, outputs=1)
    scaled.scale_to(np.asarray([7.0, 7.0]))
    kept, without = scaled.state_dict(), plain.state_dict()
    plain.load_state_dict(kept)
    assert plain.scale is not None
    assert plain.scale.tolist() == [7, 1]
    scaled.load_state_dict(without)
    assert scaled.scale is None


def test_one_row_per_label_is_enough():
    head = Head(texts=1, width=2, outputs=2)
    vectors = np.asarray([[[0.0, 1.0]], [[1.0, 0.0]]], np.float32)
    fit_head(head, vectors, np.asarray([0.0, 1.0]), Task("t", 1, ("a", "b"), ("accuracy",)))
    assert head(torch.from_numpy(vectors)).argmax(dim=1).tolist() == [0, 1]


def test_a_label_that_no_row_has_is_named():
    head = Head(texts=1, width=2, outputs=3)
    vectors = np.asarray([[[0.0, 1.0]], [[1.0, 0.0]]], np.float32)
    with pytest.raises(TaskError, match="no training row of t has label 'b'"):
        fit_head(head, vectors, np.asarray([0.0, 2.0]), Task("t", 1, ("a", "b", "c"), ("accuracy",)))
