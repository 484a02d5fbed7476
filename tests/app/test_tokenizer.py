from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bundles import MAX_TOKENS, tokenizer_json
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer

from app.bundle import BundleError
from app.tokenizer import Tokenizer


def test_padding_and_limits_that_a_checkpoint_ships_with_are_undone(tmp_path: Path) -> None:
    shipped = RustTokenizer.from_buffer(tokenizer_json())
    shipped.enable_padding(length=128)
    shipped.enable_truncation(4)
    shipped.save(str(tmp_path / "tokenizer.json"))
    (row,) = Tokenizer(tmp_path / "tokenizer.json", MAX_TOKENS).rows([("good bad film food a",)])
    assert (len(row.ids), row.truncated) == (7, False)


@pytest.mark.parametrize(("words", "length", "truncated"), [(14, 16, False), (15, 16, True), (5000, 16, True)])
def test_longer_text_is_cut_at_the_limit_and_reported(tmp_path: Path, words: int, length: int, truncated: bool) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    (row,) = Tokenizer(tmp_path / "tokenizer.json", MAX_TOKENS).rows([("good " * words,)])
    assert (len(row.ids), row.truncated) == (length, truncated)


WORD, BLANKS, UNKNOWN = "good ", " " * 5000, "x" * 5000
STRETCHES = [WORD, WORD * 9, WORD * 900, "!" * 5000, BLANKS, UNKNOWN, "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 400]


@settings(deadline=None)
@given(stretches=st.lists(st.sampled_from(STRETCHES), max_size=6).map("".join))
def test_of_a_long_text_the_same_tokens_are_kept_as_if_all_of_it_was_read(stretches: str) -> None:
    plain = RustTokenizer.from_buffer(tokenizer_json())
    plain.enable_truncation(MAX_TOKENS)
    with TemporaryDirectory() as folder:
        plain.save(f"{folder}/tokenizer.json")
        (row,) = Tokenizer(Path(folder) / "tokenizer.json", MAX_TOKENS).rows([(stretches,)])
    whole = plain.encode(stretches)
    assert (row.ids, row.truncated) == (whole.ids, bool(whole.overflowing))


def test_megabytes_that_would_be_cut_off_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", MAX_TOKENS)
    long = "good " * 1_000_000
    assert len(tokenizer._head(long)) < 1000
    (alone,), (pair,) = tokenizer.rows([(long,)]), tokenizer.rows([("good", long)])
    assert (len(alone.ids), len(pair.ids), alone.truncated, pair.truncated) == (MAX_TOKENS, MAX_TOKENS, True, True)


def test_joined_pairs_make_one_row(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    single, joined = Tokenizer(tmp_path / "tokenizer.json", MAX_TOKENS).rows([("good",), ("good", "bad")])
    assert (len(single.ids), len(joined.ids)) == (3, 5)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="is not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json", MAX_TOKENS)
