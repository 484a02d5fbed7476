import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from app.bundle import EMBEDDING, MODEL
from app.session import EncoderSession, HeadSession
from export.graph import Scores, encoder_graph, head_graph, quantise, split, with_table_of
from training.encoding import encode
from training.head import Head
from training.recipe import StudentShape
from training.student import Student
from training.teacher import TeacherEncoder, load_teacher

ROWS = [[2, 7, 8, 9, 3], [2, 3], [2, 5, 6, 5, 6, 5, 3], [2, 9, 3]]


PLAIN = StudentShape(embedding=16, hidden=16)
WITH_HEADS = StudentShape(embedding=16, hidden=16, pooling=("attention", "embedding"), heads=2)


def student(shape: StudentShape = PLAIN) -> Student:
    torch.manual_seed(0)
    return Student(shape, vocabulary=30, width=12).eval()


def session(folder: Path, graph: bytes) -> EncoderSession:
    (folder / "model.onnx").write_bytes(graph)
    return EncoderSession(folder / "model.onnx")


def test_real_lengths_reach_the_lstm():
    nodes = onnx.load_model_from_string(encoder_graph(student())).graph.node
    lstm = next(node for node in nodes if node.op_type == "LSTM")
    assert lstm.input[4], "without sequence_lens the reverse pass reads padding"


@pytest.mark.parametrize("make", [student, partial(student, WITH_HEADS)])
def test_a_row_gets_the_same_vector_alone_and_in_any_order_among_any_neighbours(
    tmp_path: Path, make: Callable[[], Student]
):
    model = make()
    served = session(tmp_path, encoder_graph(model))
    expected = encode(model, ROWS)
    assert np.allclose(served.run(ROWS), expected, atol=1e-6)
    assert np.allclose(served.run(ROWS[::-1])[::-1], expected, atol=1e-6)
    assert np.allclose(np.concatenate([served.run([row]) for row in ROWS]), expected, atol=1e-6)


def test_a_graph_without_its_embeddings_finds_them_beside_it_and_answers_the_same(tmp_path: Path):
    whole = quantise(encoder_graph(student()))
    rest, table = split(whole)
    expected = session(tmp_path, whole).run(ROWS)
    assert np.load(io.BytesIO(table)).shape == (30, 16)
    (tmp_path / EMBEDDING).write_bytes(table)
    assert np.array_equal(session(tmp_path, rest).run(ROWS), expected)


def test_a_graph_takes_over_the_embeddings_of_another(tmp_path: Path):
    other = student()
    whole = quantise(encoder_graph(other))
    (tmp_path / MODEL).write_bytes(whole)
    with torch.no_grad():
        other.embedding.weight.add_(0.01 * torch.randn_like(other.embedding.weight))
    nudged = quantise(encoder_graph(other))
    assert split(nudged)[1] != split(whole)[1]
    taken = with_table_of(nudged, tmp_path / MODEL)
    assert split(taken)[1] == split(whole)[1]
    assert np.allclose(session(tmp_path, taken).run(ROWS), encode(student(), ROWS), atol=0.02)


@pytest.mark.parametrize(
    ("pooling", "heads"), [(("attention", "mean", "embedding"), 0), (("attention", "embedding"), 2), (("max",), 0)]
)
def test_a_student_with_one_dimension_of_large_embeddings_loses_little_in_int8(
    tmp_path: Path, pooling: tuple, heads: int
):
    model = student(StudentShape(embedding=16, hidden=16, pooling=pooling, heads=heads))
    expected = encode(model, ROWS)
    with torch.no_grad():  # the same student, were it not for int8
        model.embedding.weight[:, 3] *= 300
        readers = [model.lstm.weight_ih_l0, model.lstm.weight_ih_l0_reverse]
        for weights in [*readers, *([model.weights_of("embedding")] if "embedding" in pooling else [])]:
            weights[:, 3::16] /= 300
    assert np.allclose(session(tmp_path, encoder_graph(model)).run(ROWS), expected, atol=1e-6)
    answers = np.concatenate([session(tmp_path, quantise(encoder_graph(model))).run([row]) for row in ROWS])
    assert (answers * expected).sum(axis=1).min() > 0.995


def test_the_weights_of_tokens_keep_their_precision_in_int8():
    model = Student(StudentShape(embedding=16, hidden=16, pooling=("mean", "embedding")), vocabulary=30, width=12)
    torch.nn.init.uniform_(model.token_weight.weight)
    graph = onnx.load_model_from_string(quantise(encoder_graph(model))).graph
    found = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
    assert [one.dtype.itemsize for one in found if one.shape == (30, 16)] == [1]
    assert [one.tolist() for one in found if one.shape == (30, 1)] == [model.token_weight.weight.tolist()]


def test_heads_keep_their_precision_in_int8_so_that_states_are_read_as_they_are():
    graph = onnx.load_model_from_string(quantise(encoder_graph(student(WITH_HEADS)))).graph
    assert [one.data_type for one in graph.initializer if list(one.dims) == [32, 2]] == [onnx.TensorProto.FLOAT]
    (states,) = [node.output[0] for node in graph.node if node.op_type == "Reshape"]
    assert [node.op_type for node in graph.node if states in node.input and "Quantize" in node.op_type] == []


@pytest.mark.parametrize("layers", [1, 2])
def test_states_are_copied_once_on_their_way_from_the_lstm_to_pooling(layers: int):
    shape = StudentShape(embedding=16, hidden=16, layers=layers, pooling=("attention", "max", "mean"))
    nodes = onnx.load_model_from_string(encoder_graph(Student(shape, vocabulary=30, width=12))).graph.node
    lstms = [node for node in nodes if node.op_type == "LSTM"]
    assert len(lstms) == layers
    after = [node for node in nodes if node.op_type == "Transpose" and node.input[0] == lstms[-1].output[0]]
    assert [list(node.attribute[0].ints) for node in after] == [[2, 0, 1, 3]]
    made = {name for node in nodes for name in node.output}
    assert not made.intersection(name for lstm in lstms for name in lstm.input[5:])  # initial states are left out
    assert [1, 0, 2] not in [list(node.attribute[0].ints) for node in nodes if node.op_type == "Transpose"]


def test_a_teacher_is_exported_with_its_pooling_and_masks(small_bert: Path, tmp_path: Path):
    teacher = load_teacher(str(small_bert))
    served = session(tmp_path, encoder_graph(teacher.encoder))
    assert np.allclose(served.run(ROWS), encode(teacher.encoder, ROWS), atol=1e-5)


def test_equal_weights_give_equal_bytes():
    first, second = encoder_graph(student()), encoder_graph(student())
    assert first == second
    assert quantise(first) == quantise(second)


def test_weights_take_seven_bits_so_that_no_cpu_saturates():
    graph = onnx.load_model_from_string(quantise(encoder_graph(student()))).graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    quantised = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim > 1]
    assert quantised
    assert max(int(np.abs(weight.astype(int)).max()) for weight in quantised) <= 64


def test_int8_stores_lstm_and_embedding_in_bytes_and_answers_alike(tmp_path: Path):
    torch.manual_seed(0)
    model = Student(StudentShape(embedding=64, hidden=64), vocabulary=300, width=12).eval()
    small = quantise(encoder_graph(model))
    graph = onnx.load_model_from_string(small).graph
    assert "DynamicQuantizeLSTM" in {node.op_type for node in graph.node}
    assert len(small) < 0.5 * len(encoder_graph(model))
    cosines = (session(tmp_path, small).run(ROWS) * encode(model, ROWS)).sum(axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize(("texts", "outputs", "activation"), [(1, 2, "softmax"), (2, 3, "sigmoid"), (2, 1, "none")])
def test_a_head_is_exported_with_its_activation(tmp_path: Path, texts: int, outputs: int, activation: str):
    torch.manual_seed(0)
    scores: nn.Module = Scores(Head(texts, 12, outputs), activation)
    (tmp_path / "head.onnx").write_bytes(head_graph(scores, texts, 12))
    vectors = np.random.default_rng(0).standard_normal((5, texts, 12)).astype(np.float32)
    answer = HeadSession(tmp_path / "head.onnx").run(vectors)
    with torch.inference_mode():
        assert np.allclose(answer, scores(torch.from_numpy(vectors)), atol=1e-6)
    assert answer.shape == (5, outputs)
    if activation == "softmax":
        assert np.allclose(answer.sum(axis=1), 1, atol=1e-6)


def wide_bert(separator: int | None) -> TeacherEncoder:
    """A BERT of one layer that takes 512 tokens."""
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=512,
        initializer_range=0.5,
    )
    bert = BertModel(sizes, add_pooling_layer=False)
    return TeacherEncoder(bert, "mean", normalise=False, separator=separator).eval()


@pytest.mark.parametrize("make", [student, partial(wide_bert, None), partial(wide_bert, 3)])
def test_rows_and_tokens_may_be_as_few_as_one_and_as_many_as_a_model_takes(
    tmp_path: Path, make: Callable[[], nn.Module]
):
    model, rng = make(), np.random.default_rng(0)
    served = session(tmp_path, encoder_graph(model))
    for rows, tokens in ((1, 1), (1, 512), (256, 1), (256, 512)):
        ids = rng.integers(3, 30, (rows, tokens)).tolist()
        ids[0] = ids[0][: max(1, tokens // 2)]  # one row is padded
        chosen = [0, rows // 2, rows - 1]
        assert np.allclose(served.run(ids)[chosen], encode(model, [ids[row] for row in chosen]), atol=1e-4)


def test_token_types_are_derived_in_the_graph_from_the_first_separator(tmp_path: Path):
    joined, plain = wide_bert(3), wide_bert(None)
    pair, single = [2, 7, 3, 8, 9, 3], [2, 7, 8, 9, 3]
    served = session(tmp_path, encoder_graph(joined))
    assert np.allclose(served.run([pair, single]), encode(joined, [pair, single]), atol=1e-5)
    assert np.allclose(encode(joined, [single]), encode(plain, [single]), atol=1e-6)
    assert not np.allclose(encode(joined, [pair]), encode(plain, [pair]), atol=1e-2)
