from pathlib import Path

import numpy as np
import pytest

from training.store import StoreError, VectorStore, row_keys

KEYS = np.asarray([30, 10, 20], dtype=np.uint64)
VECTORS = np.arange(12, dtype=np.float16).reshape(3, 4)


def filled(folder: Path) -> VectorStore:
    store = VectorStore(folder, width=4)
    with store.writing():
        store.append(KEYS, VECTORS)
    return store


def test_a_key_depends_on_the_token_ids_and_on_where_a_row_ends():
    tokens = np.asarray([1, 2, 3, 1, 2, 3, 1, 2], dtype=np.int32)
    keys = row_keys(tokens, np.asarray([0, 3, 6, 8]))
    assert keys[0] == keys[1] != keys[2]


def test_what_was_added_is_found_by_its_key_and_nothing_else_is(tmp_path: Path):
    store = filled(tmp_path)
    assert store.places(np.asarray([10, 20, 30, 5, 15, 99], dtype=np.uint64)).tolist() == [1, 2, 0, -1, -1, -1]
    assert np.array_equal(store.vectors, VECTORS)


def test_an_empty_store_knows_nothing(tmp_path: Path):
    store = VectorStore(tmp_path, width=4)
    assert store.places(KEYS).tolist() == [-1, -1, -1]
    assert store.vectors.shape == (0, 4)


@pytest.mark.parametrize(
    ("file", "extra"), [("vectors.f16", bytes(8)), ("vectors.f16", bytes(3)), ("keys.u64", bytes(5))]
)
def test_what_a_kill_left_half_written_is_cut_off(tmp_path: Path, file: str, extra: bytes):
    filled(tmp_path)
    with (tmp_path / file).open("ab") as out:
        out.write(extra)
    store = VectorStore(tmp_path, width=4)
    assert len(store) == 3
    with store.writing():
        store.append(np.asarray([7], dtype=np.uint64), np.ones((1, 4), dtype=np.float16))
    assert store.places(np.asarray([20, 7], dtype=np.uint64)).tolist() == [2, 3]
    assert store.vectors[3].tolist() == [1, 1, 1, 1]


def test_two_processes_do_not_add_at_once(tmp_path: Path):
    store = filled(tmp_path)
    with store.writing(), pytest.raises(StoreError, match=str(tmp_path)), VectorStore(tmp_path, width=4).writing():
        pass
