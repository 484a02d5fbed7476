from pathlib import Path

import numpy as np
import pytest
from bundles import EMBEDDINGS, encoder_graph, write_encoder, write_split_encoder, write_task

from app.bundle import BundleError
from app.session import EncoderSession, HeadSession, NonFiniteError


@pytest.fixture
def session(tmp_path: Path) -> EncoderSession:
    return EncoderSession(write_encoder(tmp_path).path("model.onnx"))


def test_padding_does_not_reach_a_shorter_row(session: EncoderSession) -> None:
    together = session.run([[2, 4, 3], [2, 5, 6, 7, 8, 3]])  # (rows, dimensions)
    assert together.dtype == np.float32
    assert np.allclose(together[0], session.run([[2, 4, 3]])[0], atol=1e-6)


@pytest.mark.parametrize("rows", [[], [[2, 3], []]])
def test_a_row_without_tokens_never_reaches_the_graph(session: EncoderSession, rows: list) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        session.run(rows)


def test_nan_is_an_error_and_never_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(encoder_graph(np.full_like(EMBEDDINGS, np.nan)))
    with pytest.raises(NonFiniteError):
        EncoderSession(file).run([[2, 3]])


def test_a_graph_reads_its_embeddings_once_from_beside_it(tmp_path: Path) -> None:
    split = write_split_encoder(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    file = split.path("model.onnx").rename(tmp_path / "elsewhere" / "model.onnx")
    session, whole = EncoderSession(file, split.embedding), EncoderSession(write_encoder(tmp_path).path("model.onnx"))
    split.path("embedding.npy").write_bytes(b"")
    assert np.array_equal(session.run([[2, 4, 3], [2, 5, 6, 7, 8, 3]]), whole.run([[2, 4, 3], [2, 5, 6, 7, 8, 3]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a table of embeddings: .*No such file"),
        (b"{}", "is not a table"),
        (EMBEDDINGS[1:], "cannot be loaded"),
    ],
)
def test_embeddings_that_do_not_fit_are_a_bundle_error(tmp_path: Path, content: object, message: str) -> None:
    split = write_split_encoder(tmp_path)
    table = split.path("embedding.npy")
    if content is None:
        table.unlink()
    elif isinstance(content, bytes):
        table.write_bytes(content)
    else:
        np.save(table, content)
    with pytest.raises(BundleError, match=message):
        EncoderSession(split.path("model.onnx"), table)


def test_a_head_is_no_encoder_and_an_encoder_no_head(tmp_path: Path) -> None:
    bundle = write_task(tmp_path)
    with pytest.raises(BundleError, match=r"expected \['input_ids', 'lengths'\]"):
        EncoderSession(bundle.path("head.onnx"))
    with pytest.raises(BundleError, match=r"expected \['vectors'\]"):
        HeadSession(bundle.path("model.onnx"))
