from itertools import islice
from pathlib import Path

import pytest

from training.corpus import SHIPPED_GRAMMARS
from training.grammar import GrammarError, compose, read_grammar


def grammar(folder: Path, content: str) -> Path:
    path = folder / "own.toml"
    path.write_text(content)
    return path


def texts(folder: Path, content: str, seed: int = 1) -> list[str]:
    return list(compose(read_grammar(grammar(folder, content)), seed))


SMALL = """
text = "{who} is {doing} {where?}. | nobody {doing}"
who = "a man | a old woman"
doing = "reading | looking at {who}"
where = "in a park"
"""


def test_every_text_that_a_small_grammar_can_make_comes_once(tmp_path: Path):
    found = texts(tmp_path, SMALL)
    assert len(found) == len(set(found)) == 2 * 3 * 2 + 3
    assert {"A man is reading.", "A man is reading in a park.", "Nobody looking at an old woman"} < set(found)
    assert all(text == " ".join(text.split()) and " ." not in text and text[0].isupper() for text in found)


def test_a_seed_gives_the_same_texts_in_the_same_order_and_another_seed_others(tmp_path: Path):
    assert texts(tmp_path, SMALL) == texts(tmp_path, SMALL)
    assert texts(tmp_path, SMALL) != texts(tmp_path, SMALL, seed=2)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("a apple", "An apple"),
        ("a hour", "An hour"),
        ("eat a egg", "Eat an egg"),
        ("a Asian man", "An Asian man"),
        ("a unicycle", "A unicycle"),
        ("a used car", "A used car"),
        ("a one-eyed cat", "A one-eyed cat"),
    ],
)
def test_the_article_fits_the_sound_that_follows(tmp_path: Path, made: str, said: str):
    assert texts(tmp_path, f'text = "{made}"') == [said]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('who = "a man"', "no symbol `text`"),
        ('text = "{who} runs"', "text names who, which the grammar lacks"),
        ('text = "{who}"\nwho = "a man | {text}"', "symbols lead back to themselves: .*text"),
        ('text = "a man | "', "text has an empty alternative"),
        ('text = ["a man"]', "text is \\['a man'\\], expected a string"),
        ("text = a man", "not a grammar in TOML"),
        ('text = "{who runs"', "text has a brace that is no symbol's: {who runs"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_symbol(tmp_path: Path, content: str, said: str):
    with pytest.raises(GrammarError, match=said):
        read_grammar(grammar(tmp_path, content))


@pytest.mark.parametrize("path", sorted(SHIPPED_GRAMMARS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_grammar_uses_every_symbol_and_makes_thousands_of_sentences(path: Path):
    grammar = read_grammar(path)
    named = " ".join(one for made in grammar.values() for one in made)
    assert [name for name in grammar if name != "text" and f"{{{name}" not in named] == []
    made = list(islice(compose(grammar, 1), 5000))
    assert len(made) == 5000
    assert not [text for text in made if "{" in text or "  " in text or len(text.split()) > 80]
