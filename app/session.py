"""ONNX Runtime sessions: token ids to vectors, vectors to scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from app.bundle import BundleError

Vectors = NDArray[np.float32]
EMBEDDING_NAME = "embedding.weight_quantized"  # in the graph, of the table that lies beside it


class NonFiniteError(RuntimeError):
    """The model answered NaN or infinity; such an answer never leaves the service."""


class EncoderSession:
    """An encoder graph. Several threads may call `run` at once: each call uses its own thread's core."""

    def __init__(self, file: Path, embedding: Path | None = None) -> None:
        """Load a graph.

        Args:
            file: The graph.
            embedding: The table that it names EMBEDDING and does not hold. It is copied: to replace the file touches no
                session.

        Raises:
            BundleError: a file cannot be read, or ONNX Runtime refuses it, or the inputs are not an encoder's.
        """
        self._session = _open(file, ["input_ids", "lengths"], _table(embedding) if embedding else None)

    def run(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """Encode rows of token ids: float32 (rows, dimensions).

        Raises:
            ValueError: no rows, or a row without tokens: its vector is not defined.
            NonFiniteError: the model answered NaN or infinity.
        """
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))  # (rows,)
        if not len(rows) or not lengths.all():
            raise ValueError("an encoder needs at least one row, and at least one token in each")
        input_ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)  # (rows, tokens)
        for padded, row in zip(input_ids, rows, strict=True):
            padded[: len(row)] = row
        return _run(self._session, {"input_ids": input_ids, "lengths": lengths})


class HeadSession:
    """A task's head: the vectors of one or two texts to scores."""

    def __init__(self, file: Path) -> None:
        """Load `file`; raises BundleError when ONNX Runtime refuses it or its inputs are not a head's."""
        self._session = _open(file, ["vectors"])

    def run(self, vectors: Vectors) -> Vectors:
        """Score float32 (rows, texts, dimensions): float32 (rows, labels), or (rows, 1) for a regressor.

        Raises:
            NonFiniteError: the head answered NaN or infinity.
        """
        return _run(self._session, {"vectors": vectors})


def _table(file: Path) -> onnxruntime.OrtValue:
    try:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.load(file, allow_pickle=False))
    except Exception as error:  # numpy and ONNX Runtime raise whatever the file leads them to
        raise BundleError(f"{file} is not a table of embeddings: {error}") from error


def _open(file: Path, inputs: list[str], embedding: onnxruntime.OrtValue | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # parallelism comes from worker threads, one batch each
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it keeps a plan per shape, and shapes never repeat
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if embedding is not None:
        options.add_external_initializers([EMBEDDING_NAME], [embedding])
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has no common base class for its errors
        raise BundleError(f"{file} cannot be loaded: {error}") from error
    found = [node.name for node in session.get_inputs()]
    if found != inputs:
        raise BundleError(f"{file} takes {found}; expected {inputs}")
    return session


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[Any]]) -> Vectors:
    answer: Vectors = session.run(None, feeds)[0]
    if not np.isfinite(answer).all():
        raise NonFiniteError("the model answered NaN or infinity")
    return answer
