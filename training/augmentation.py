"""Variants of a task's training rows for a fine-tuned teacher to answer (Tang et al. 2019, arXiv 1903.12136, 3.3).

In a variant each word stays, is masked, or gives way to a word of the same part of speech; then the text may shrink to
a few words in a row. What the label of that would be is the teacher's to say.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

from textblob.en import parser
from tokenizers import Tokenizer

from training.task import TaskError
from training.task_model import Texts

Tagger = Callable[[Sequence[str]], Sequence[str]]  # a text's words to the part of speech of each

# The paper's values, the same for all its tasks: chances for a word, then one for a text, and words at most.
MASKED = 0.1
REPLACED = 0.1
CUT = 0.25
LONGEST_CUT = 5

# Which texts of a row its variants change, in turn.
CHANGED = {1: ((0,),), 2: ((0,), (1,), (0, 1))}

# From a letter or digit to the last one before a space, so that words always stand apart: company's, 3.5, and/or.
# An apostrophe counts where a word begins with it, as in the split text of treebanks: it 's.
WORD = re.compile(r"((?:(?<!\S)['\u2019])?\w(?:\S*\w)?)")


@dataclass(frozen=True)
class Tagged:
    """A text taken apart.

    Attributes:
        pieces: The words at odd places, and between them what stands between them; joined, they are the text.
        tags: The part of speech of each word.
    """

    pieces: Sequence[str]
    tags: Sequence[str]

    @property
    def words(self) -> Sequence[str]:
        """Give the words alone."""
        return self.pieces[1::2]


def augment(
    rows: Sequence[Texts], per_row: int, seed: int, mask: str, tag: Tagger, known: Iterable[Texts] = ()
) -> list[Texts]:
    """Vary rows: distinct variants, none of them among the rows or those that are known, and no text of them empty.

    Args:
        rows: What to vary; of a pair the first text, the second and both, in turn.
        per_row: Variants to make of each; fewer are left where some are alike.
        seed: Decides all of them.
        mask: Hides a word from the teacher.
        tag: Gives parts of speech.
        known: Other rows to leave out.
    """
    rng = random.Random(seed)
    texts = {text: take_apart(text, tag) for row in rows for text in row}
    unigrams: dict[str, list[str]] = defaultdict(list)
    for text in chain.from_iterable(rows):
        for word, part in zip(texts[text].words, texts[text].tags, strict=True):
            unigrams[part].append(word)
    found: dict[Texts, None] = {}
    for row in filter(all, rows):
        for changed in islice(cycle(CHANGED[len(row)]), per_row):
            varied = (vary(texts[text], unigrams, mask, rng) if at in changed else text for at, text in enumerate(row))
            found[tuple(varied)] = None
    for row in chain(rows, known):
        found.pop(row, None)
    return list(found)


def take_apart(text: str, tag: Tagger) -> Tagged:
    """Split a text into its words, and tag them."""
    pieces = WORD.split(text)
    return Tagged(pieces, tag(pieces[1::2]))


def vary(text: Tagged, unigrams: Mapping[str, Sequence[str]], mask: str, rng: random.Random) -> str:
    """Give one variant of a text: never an empty one, unless it is empty itself.

    Args:
        text: What to vary.
        unigrams: By part of speech, words to draw from, each as often as it occurs.
        mask: Stands for a hidden word.
        rng: Decides.
    """
    pieces, words = list(text.pieces), len(text.tags)
    for place, part in enumerate(text.tags):
        drawn = rng.random()
        if drawn < MASKED:
            pieces[2 * place + 1] = mask
        elif drawn < MASKED + REPLACED:
            pieces[2 * place + 1] = rng.choice(unigrams[part])
    if words and rng.random() < CUT:
        length = rng.randint(1, min(LONGEST_CUT, words))
        first = rng.randint(0, words - length)
        pieces = pieces[2 * first + 1 : 2 * (first + length)]
    return "".join(pieces)


def mask_token(tokenizer: Tokenizer) -> str:
    """Find the special token that hides a word, [MASK] in BERT's; raises TaskError where there is none."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    for token in special:
        if token.strip("[]<>").lower() == "mask":
            return token
    raise TaskError(f"--augment hides words, and the teacher has no token for that among {', '.join(special)}")


def parts_of_speech(words: Sequence[str]) -> list[str]:
    """Tag the words of an English text with the Penn treebank's tags.

    A word gets the tag that it has most often (Brill's lexicon), or that its ending suggests; context plays no part.
    """
    return [tag for _, tag in parser.find_tags(words)]
