import pytest

from export.judgement import encoder_inputs, judge
from export.parity import ParityError
from training.recipe import Int8


def test_a_score_lost_in_int8_beyond_the_limit_stops_the_export():
    assert judge("accuracy", 0.905, 0.9, Int8()) == {"accuracy_float32": 0.905, "accuracy_int8": 0.9}
    with pytest.raises(ParityError, match=r"int8 costs 0\.0200 of accuracy"):
        judge("accuracy", 0.92, 0.9, Int8())
    assert judge("accuracy", 0.92, 0.9, Int8(max_loss=0.03))


def test_a_pair_encoded_apart_makes_two_inputs_and_a_joined_one_a_single():
    assert encoder_inputs("pair_apart", ("a", "b")) == ["a", "b"]
    assert encoder_inputs("pair_joined", ("a", "b")) == [("a", "b")]
    assert encoder_inputs("text", ("a",)) == [("a",)]
