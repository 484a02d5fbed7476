"""PyTorch modules to ONNX graphs, byte for byte the same for the same weights."""

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import Tensor, nn

from app.bundle import EMBEDDING
from app.session import EMBEDDING_NAME
from training.student import Student

OPSET = 17
# Sorted from long to short, as packing wants it while tracing; the graph takes rows in any order.
EXAMPLE_LENGTHS = (7, 5, 2)
EXAMPLE_TOKEN = 1
INITIAL_STATES = 5  # the place of the first of them among an LSTM's inputs
ROWS_AND_TOKENS = {"input_ids": {0: "rows", 1: "tokens"}, "lengths": {0: "rows"}, "vectors": {0: "rows"}}

HEADS = "/heads/"  # what the exporter's names of their nodes begin with
TABLE = (EMBEDDING_NAME, "embedding.weight_scale", "embedding.weight_zero_point")  # as the quantiser names them

# Only the TorchScript exporter gives an LSTM its lengths. It warns of its age, and of branches that tracing fixes and
# of batch sizes, which the parity check on many shapes covers.
TRACING_WARNINGS = (
    r"You are using the legacy TorchScript-based ONNX export",
    r"The feature will be removed",
    r"Converting a tensor to a Python boolean",
    r"Exporting a model to ONNX with a batch_size other than 1",
    r"Exporting aten::index operator of advanced indexing",
)


class Scores(nn.Module):
    """A head with its activation: what a served head answers. Of softmax the temperature is part."""

    def __init__(self, head: nn.Module, activation: str, temperature: float = 1.0) -> None:
        super().__init__()
        self.head = head
        self.activation = activation
        self.temperature = temperature

    def forward(self, vectors: Tensor) -> Tensor:
        """Give scores, float32 (rows, outputs)."""
        logits: Tensor = self.head(vectors)
        if self.activation == "softmax":
            return torch.softmax(logits / self.temperature, dim=1)
        return torch.sigmoid(logits) if self.activation == "sigmoid" else logits


def encoder_graph(encoder: nn.Module) -> bytes:
    """Trace `encoder(input_ids, lengths)`: int64 (rows, tokens), int64 (rows) -> `vectors` float32 (rows, width)."""
    if isinstance(encoder, Student):
        encoder = equalised(encoder)
    lengths = torch.tensor(EXAMPLE_LENGTHS)
    input_ids = torch.full((len(EXAMPLE_LENGTHS), max(EXAMPLE_LENGTHS)), EXAMPLE_TOKEN)
    return _trace(encoder, (input_ids, lengths), "vectors", ROWS_AND_TOKENS)


@torch.no_grad()
def equalised(student: Student) -> Student:
    """Give a student that answers the same, with each dimension of its embedding scaled to a largest value of one.

    Int8 has one scale for the whole table, which then suits every dimension; what reads the table takes the scales back
    (cross-layer equalisation, Nagel et al. 2019, arXiv 1906.04721).
    """
    student = copy.deepcopy(student)
    largest = student.embedding.weight.abs().amax(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    student.embedding.weight.div_(largest)
    for name, weights in student.lstm.named_parameters():
        if name.startswith("weight_ih_l0"):  # of both directions
            weights.mul_(largest)
    if "embedding" in student.shape.pooling:
        student.weights_of("embedding").mul_(largest.repeat(1 + student.shape.heads))
    return student


def head_graph(scores: Scores, texts: int, width: int) -> bytes:
    """Trace a head: `vectors` float32 (rows, texts, width) -> `scores` float32 (rows, outputs)."""
    return _trace(scores, (torch.zeros(2, texts, width),), "scores", {"vectors": {0: "rows"}, "scores": {0: "rows"}})


def quantise(graph: bytes) -> bytes:
    """Give the graph with int8 weights, one scale per output channel; activations are quantised as they come.

    Weights take 7 of the 8 bits: CPUs with AVX2 but without VNNI add pairs of 8-bit products in 16 bits, which
    saturates with full-range weights and moves vectors over ten times as far as the lost bit does (training/LOG.md).
    The weights of tokens stay in float32: they are few, and each counts for a whole vector. So do heads, for which all
    states would have to be quantised.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet_quantiser():
        target = Path(folder) / "int8.onnx"
        model = onnx.load_model_from_string(graph)
        single = {one.name for one in model.graph.initializer if one.dims[-1:] == [1]}
        quantize_dynamic(
            model,
            target,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name for node in model.graph.node if single.intersection(node.input) or node.name.startswith(HEADS)
            ],
        )
        return _canonical(target.read_bytes())


def split(graph: bytes) -> tuple[bytes, bytes]:
    """Take the table of embeddings out of a student's int8 graph, for several graphs to share.

    Returns:
        The rest, which has the table as external data (ONNX's word) in a file EMBEDDING beside it; and that file.
    """
    model = onnx.load_model_from_string(graph)
    (table,) = [one for one in model.graph.initializer if one.name == EMBEDDING_NAME]
    numbers = numpy_helper.to_array(table)
    file = io.BytesIO()
    np.save(file, numbers)
    set_external_data(table, EMBEDDING, offset=file.tell() - numbers.nbytes, length=numbers.nbytes)
    table.ClearField("raw_data")
    rest: bytes = model.SerializeToString(deterministic=True)
    return rest, file.getvalue()


def with_table_of(graph: bytes, base: Path) -> bytes:
    """Give a student's int8 graph with the table of embeddings, and its scale, of the graph that it grew from.

    They differ by as much as float16, in which that student's weights were kept, moved the scale and what it rounds.

    Args:
        graph: Its own table is put aside.
        base: File of the other, with its table beside it or inside.
    """
    model = onnx.load_model_from_string(graph)
    others = {one.name: one for one in onnx.load(base).graph.initializer}
    for one in model.graph.initializer:
        if one.name in TABLE:
            one.CopyFrom(others[one.name])
            one.ClearField("data_location")
            one.ClearField("external_data")
    return _canonical(model.SerializeToString())


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Keep the quantiser from advising, on the root logger, a clean-up of graphs that these do not need."""
    root = logging.getLogger()
    root.addFilter(_errors_only)
    try:
        yield
    finally:
        root.removeFilter(_errors_only)


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@torch.inference_mode()
def _trace(module: nn.Module, example: tuple[Tensor, ...], output: str, axes: dict[str, dict[int, str]]) -> bytes:
    inputs = [name for name in axes if name != output]
    content = io.BytesIO()
    with warnings.catch_warnings():
        for message in TRACING_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        torch.onnx.export(
            module.eval(),
            example,
            content,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=inputs,
            output_names=[output],
            dynamic_axes=axes,
        )
    return _canonical(_lean(content.getvalue()))


def _lean(graph: bytes) -> bytes:
    """Drop what the exporter writes around an LSTM and ONNX Runtime keeps.

    Initial states of zero, which is their default; and, where the states go from (tokens, directions, rows, hidden) to
    (tokens, rows, states) and at once on to (rows, tokens, states), the halt between, a copy of them all.
    """
    model = OnnxModel(onnx.load_model_from_string(graph))
    for lstm in model.get_nodes_by_op_type("LSTM"):
        del lstm.input[INITIAL_STATES:]
    for second in model.get_nodes_by_op_type("Transpose"):
        way = model.match_parent_path(second, ["Reshape", "Transpose", "LSTM"], [0, 0, 0])
        if way is None or len(model.get_children(way[0])) > 1:
            continue
        halt, first, _ = way
        if _axes(first) == [0, 2, 1, 3] and _axes(second) == [1, 0, 2]:
            first.attribute[0].ints[:] = [2, 0, 1, 3]
            model.replace_input_of_all_nodes(second.output[0], halt.output[0])
    model.prune_graph()
    content: bytes = model.model.SerializeToString()
    return content


def _axes(transpose: onnx.NodeProto) -> list[int]:
    return list(transpose.attribute[0].ints)


def _canonical(graph: bytes) -> bytes:
    """Drop what names the producer, so that equal models are equal bytes; check the rest."""
    model = onnx.load_model_from_string(graph)
    model.producer_name, model.producer_version, model.doc_string = "", "", ""
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
