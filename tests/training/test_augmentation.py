import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from training import augmentation
from training.augmentation import augment, mask_token, parts_of_speech, take_apart, vary
from training.task import TaskError
from training.teacher import load_teacher

PARTS = {"the": "DT", "a": "DT", "cat": "NN", "dog": "NN", "mat": "NN", "sat": "VB", "ran": "VB", "on": "IN"}
UNIGRAMS = {"DT": ["a"], "NN": ["dog"], "VB": ["ran"], "IN": ["under"]}
TEXT = "The cat sat, on the mat."
SINGLE = [("the cat sat on the mat",), ("a dog ran",)]
PAIRS = [("the cat sat on the mat", "a dog ran on the mat"), ("the dog sat on a cat", "the mat ran")]


def tag(words: Sequence[str]) -> list[str]:
    return [PARTS[word.lower()] for word in words]


def one_variant(monkeypatch: pytest.MonkeyPatch, masked: float = 0, replaced: float = 0, cut: float = 0) -> str:
    for name, chance in (("MASKED", masked), ("REPLACED", replaced), ("CUT", cut)):
        monkeypatch.setattr(augmentation, name, chance)
    return vary(take_apart(TEXT, tag), UNIGRAMS, "[MASK]", random.Random(1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's 3.5% mat (red and/or small), $1,000.", "The|cat's|3.5|mat|red|and/or|small|1,000"),
        ("it 's n't -- so-so ?", "it|'s|n't|so-so"),
        ("café\tnaïve\n", "café|naïve"),
        (" ?! ", ""),
        ("", ""),
    ],
)
def test_words_stand_apart_and_what_is_between_them_is_kept(text: str, words: str):
    taken = take_apart(text, lambda words: ["X"] * len(words))
    assert "|".join(taken.words) == words
    assert "".join(taken.pieces) == text


def test_nothing_changes_where_every_chance_is_zero(monkeypatch: pytest.MonkeyPatch):
    assert one_variant(monkeypatch) == TEXT


def test_a_masked_word_leaves_its_place_to_the_mask(monkeypatch: pytest.MonkeyPatch):
    assert one_variant(monkeypatch, masked=1) == "[MASK] [MASK] [MASK], [MASK] [MASK] [MASK]."


def test_a_replaced_word_leaves_its_place_to_one_of_its_own_part_of_speech(monkeypatch: pytest.MonkeyPatch):
    assert one_variant(monkeypatch, replaced=1) == "a dog ran, under a dog."


def test_masking_and_replacing_exclude_each_other(monkeypatch: pytest.MonkeyPatch):
    assert one_variant(monkeypatch, masked=1, replaced=1) == one_variant(monkeypatch, masked=1)


def test_a_cut_keeps_one_to_five_words_in_a_row_with_what_stands_between_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(augmentation, "MASKED", 0)
    monkeypatch.setattr(augmentation, "REPLACED", 0)
    monkeypatch.setattr(augmentation, "CUT", 1)
    rng, taken = random.Random(1), take_apart(TEXT, tag)
    found = {vary(taken, UNIGRAMS, "[MASK]", rng) for _ in range(2000)}
    words = [(0, 3), (4, 7), (8, 11), (13, 15), (16, 19), (20, 23)]  # where each begins and ends
    pieces = {TEXT[words[n][0] : words[m][1]] for n in range(6) for m in range(n, min(n + 5, 6))}
    assert found == pieces


def test_words_of_a_part_of_speech_are_drawn_as_often_as_they_occur(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(augmentation, "MASKED", 0)
    monkeypatch.setattr(augmentation, "REPLACED", 1)
    monkeypatch.setattr(augmentation, "CUT", 0)
    rows = [("cat " * 30 + "ran",), ("dog " * 10 + "sat",)]
    drawn = Counter(word for (text,) in augment(rows, 500, 1, "[MASK]", tag) for word in text.split()[:-1])
    assert set(drawn) == {"cat", "dog"}
    assert drawn["cat"] / drawn.total() == pytest.approx(0.75, abs=0.02)


def test_the_chances_are_those_of_the_paper():
    rng, words = random.Random(1), 40
    taken = take_apart(" ".join(["cat"] * words), tag)
    variants = [vary(taken, UNIGRAMS, "[MASK]", rng).split() for _ in range(3000)]
    whole = [variant for variant in variants if len(variant) == words]
    counts = Counter(word for variant in whole for word in variant)
    assert len(whole) / len(variants) == pytest.approx(0.75, abs=0.03)
    assert counts["[MASK]"] / counts.total() == pytest.approx(0.1, abs=0.01)
    assert counts["dog"] / counts.total() == pytest.approx(0.1, abs=0.01)
    assert {len(variant) for variant in variants} == {1, 2, 3, 4, 5, words}


def test_of_a_pair_the_first_the_second_and_both_are_varied_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(augmentation, "MASKED", 1)
    monkeypatch.setattr(augmentation, "CUT", 0)
    first, second = "the cat", "a dog ran"
    hidden = "* *", "* * *"
    expected = [(hidden[0], second), (first, hidden[1]), hidden]
    assert augment([(first, second)], 2, 1, "*", tag) == expected[:2]
    assert augment([(first, second)], 30, 1, "*", tag) == expected


@pytest.mark.parametrize("rows", [SINGLE, PAIRS])
def test_variants_are_distinct_and_none_is_known_or_empty(rows: list[tuple[str, ...]]):
    every = augment(rows, 300, 1, "[MASK]", tag)
    assert len(set(every)) == len(every)
    assert not set(every) & set(rows)
    assert all(text.strip() for row in every for text in row)
    known = every[::2]
    assert augment(rows, 300, 1, "[MASK]", tag, known) == every[1::2]


def test_at_most_so_many_variants_are_made_of_a_row():
    assert 0 < len(augment(SINGLE, 2, 1, "[MASK]", tag)) <= 4


def test_the_seed_decides():
    made = [augment(PAIRS, 5, seed, "[MASK]", tag) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_a_text_without_words_has_no_variants_and_an_empty_one_none_beside_it():
    assert augment([("?!",), ("",)], 20, 1, "[MASK]", tag) == []
    assert augment([("the cat sat", "")], 20, 1, "[MASK]", tag) == []
    assert {second for _, second in augment([("the cat sat", "?!")], 20, 1, "[MASK]", tag)} == {"?!"}


def test_the_mask_is_the_tokenizers_own(small_bert: Path):
    tokenizer = load_teacher(str(small_bert)).tokenizer
    mask = mask_token(tokenizer)
    assert mask == "[MASK]"
    ids = tokenizer.encode(f"the {mask} sat, {mask}.", add_special_tokens=False).ids
    assert ids.count(tokenizer.token_to_id(mask)) == 2


def test_a_tokenizer_without_a_mask_is_named():
    tokenizer = Tokenizer(WordPiece({"[UNK]": 0, "mask": 1}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    with pytest.raises(TaskError, match=r"no token for that among \[CLS\], \[SEP\]"):
        mask_token(tokenizer)


def test_parts_of_speech_come_one_per_word():
    words = ["The", "small", "dogs", "quickly", "ate", "3.5", "and/or", "Zorblax's", "'s", "films"]
    found = dict(zip(words, parts_of_speech(words), strict=True))
    assert {word: found[word] for word in ("The", "small", "dogs", "quickly", "ate", "3.5", "films")} == {
        "The": "DT",
        "small": "JJ",
        "dogs": "NNS",
        "quickly": "RB",
        "ate": "VBD",
        "3.5": "CD",
        "films": "NNS",
    }
    assert parts_of_speech([]) == []
