"""Texts made by a grammar, of a kind that is hard to come by: what a student is to compose, without anyone's sentences.

A grammar is a TOML file of symbols. Each is a string of alternatives between bars, of which one is drawn; a name in
braces stands for a symbol, and with a question mark it is left out half of the time. A text is what `text` becomes:

    text = "{who} is {doing} {where?}."
    who = "a man | an old woman | two children"
    doing = "reading | looking at {who}"
    where = "in a park | on a bench"

The article "a" becomes "an" where it must, and the first letter a capital.
"""

import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

START = "text"
SYMBOL = re.compile(r"\{(\w+)(\?)?\}")
ARTICLE = re.compile(r"\b([Aa]) (?=(?!uni|use|one\b|eu)[aeiou]|hour|honest)", re.IGNORECASE)
VAIN = 100  # drawings in a row that give nothing new, before a grammar counts as used up

Grammar = Mapping[str, Sequence[str]]


class GrammarError(ValueError):
    """A grammar that cannot make texts; the message names the symbol."""


def read_grammar(path: Path) -> Grammar:
    """Read a grammar: each symbol's alternatives.

    Raises:
        GrammarError: the file is no TOML, or holds something other than texts, or a symbol is missing or empty, or
            leads back to itself.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            plain = tomllib.load(file)
    except ValueError as error:
        raise GrammarError(f"not a grammar in TOML: {error}") from error
    for name, value in plain.items():
        if not isinstance(value, str):
            raise GrammarError(f"{name} is {value!r}, expected a string of alternatives between bars")
    grammar = {name: tuple(one.strip() for one in value.split("|")) for name, value in plain.items()}
    _require_whole(grammar)
    return grammar


def compose(grammar: Grammar, seed: int) -> Iterator[str]:
    """Make distinct texts, the same ones in the same order for a seed, until the grammar gives no more new ones."""
    draw = random.Random(seed)
    seen: set[str] = set()
    vain = 0
    while vain < VAIN:
        text = _text(grammar, draw)
        if not text or text in seen:
            vain += 1
            continue
        vain = 0
        seen.add(text)
        yield text


def _text(grammar: Grammar, draw: random.Random) -> str:
    text = _expand(grammar, START, draw)
    text = re.sub(r"\s+([.,;:?!])", r"\1", " ".join(text.split()))
    text = ARTICLE.sub(r"\1n ", text)
    return text[:1].upper() + text[1:]


def _expand(grammar: Grammar, symbol: str, draw: random.Random) -> str:
    def put(place: re.Match[str]) -> str:
        name, optional = place.groups()
        return "" if optional and draw.random() < 0.5 else _expand(grammar, name, draw)

    return SYMBOL.sub(put, draw.choice(grammar[symbol]))


def _require_whole(grammar: Grammar) -> None:
    named = {name: {place[1] for one in made for place in SYMBOL.finditer(one)} for name, made in grammar.items()}
    if START not in grammar:
        raise GrammarError(f"it has no symbol `{START}`, which every text begins as")
    for name, made in grammar.items():
        if not all(made):
            raise GrammarError(f"{name} has an empty alternative: `{{{name}?}}` leaves it out half of the time")
        if unclear := [one for one in made if re.search(r"[{}]", SYMBOL.sub("", one))]:
            raise GrammarError(f"{name} has a brace that is no symbol's: {unclear[0]}")
        if missing := sorted(named[name] - grammar.keys()):
            raise GrammarError(f"{name} names {', '.join(missing)}, which the grammar lacks")
    try:
        TopologicalSorter(named).prepare()
    except CycleError as error:
        raise GrammarError(f"symbols lead back to themselves: {', '.join(error.args[1])}") from error
