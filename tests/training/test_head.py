import torch

from training.head import Head, features


def test_one_text_gives_its_vector():
    vectors = torch.tensor([[[1.0, 2.0]]])
    assert features(vectors).tolist() == [[1.0, 2.0]]


def test_a_pair_gives_both_their_distance_and_their_product():
    pair = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    assert features(pair).tolist() == [[1, 2, 3, -1, 2, 3, 3, -2]]


def test_a_head_gives_one_logit_per_output():
    assert Head(texts=2, width=4, outputs=3)(torch.zeros(5, 2, 4)).shape == (5, 3)
