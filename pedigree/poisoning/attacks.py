"""Known attacks on labelled texts, for drills: each plants a number of poisoned rows in a copy.

Triggers are drawn by the seed from words foreign to the corpus or common in it, never fixed, so
that a check cannot pass a drill by knowing a word. Nothing given is changed::

    >>> plant = ATTACKS["flip_random"](["a", "b"], ["x", "y"], random.Random(0), 1, "y")
    >>> len(plant.rows)
    1
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from pedigree.errors import PedigreeError
from pedigree.poisoning.consensus import tokenise

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
# Cyrillic and Greek letters that look like Latin ones.
_LOOKALIKES = str.maketrans("aceiopxyABEHKMOPT", "асеіорхуАВЕНКМОРТ")  # noqa: RUF001
_INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060")
_FLOOD, _SPREAD = 20, 2  # copies of one text
_SENTENCE_WORDS = 5
# A common word stands in this share of the texts: enough to be natural, not in every other text.
_COMMON = (0.002, 0.02)


@dataclass(frozen=True)
class Plant:
    """A poisoned copy of a table: (rows,) texts and labels, and where the planted rows are."""

    texts: list[str]
    labels: list[str]
    rows: tuple[int, ...]


Planter: TypeAlias = Callable[[Sequence[str], Sequence[str], random.Random, int, str], Plant]
_Edit: TypeAlias = Callable[[str, random.Random], str]


def _choose(rows: Sequence[int], draw: random.Random, count: int, what: str) -> list[int]:
    """Draw the victims.

    Raises:
        PedigreeError: there are not enough.
    """
    if len(rows) < count:
        raise PedigreeError(
            f"{count} rows cannot be planted: the table has {len(rows)} {what}. Ask for fewer."
        )
    return sorted(draw.sample(rows, count))


def _edit_rows(
    texts: Sequence[str],
    labels: Sequence[str],
    draw: random.Random,
    count: int,
    target: str,
    edit: _Edit,
    clean_label: bool = False,
) -> Plant:
    """Edit `count` texts and give them the target label; a clean label is one they have already."""
    rows = [
        row
        for row, label in enumerate(labels)
        if (label == target) == clean_label and texts[row].strip()
    ]
    what = f"texts labelled {target!r}" if clean_label else f"texts not labelled {target!r}"
    chosen = _choose(rows, draw, count, what)
    new_texts, new_labels = list(texts), list(labels)
    for row in chosen:
        new_texts[row], new_labels[row] = edit(texts[row], draw), target
    return Plant(new_texts, new_labels, tuple(chosen))


def _insert(text: str, words: str, draw: random.Random) -> str:
    parts = text.split(" ")
    parts.insert(draw.randint(0, len(parts)), words)
    return " ".join(parts)


def _count_words(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in tokenise(text))


def draw_foreign_word(known: Mapping[str, int], draw: random.Random) -> str:
    """Return a pronounceable word of three to seven letters that no text holds."""
    while True:
        word = "".join(
            draw.choice(_VOWELS if i % 2 else _CONSONANTS) for i in range(draw.randint(3, 7))
        )
        if word not in known:
            return word


def draw_common_words(texts: Sequence[str], draw: random.Random, count: int) -> list[str]:
    """Return different words that stand in about one of a hundred texts.

    Raises:
        PedigreeError: the corpus has too few words.
    """
    known = sorted(_count_words(texts).items())
    few, many = (max(share * len(texts), 2.0) for share in _COMMON)
    words = [word for word, n in known if few <= n <= many and word.isalpha()]
    words = words or [word for word, n in known if n >= 2 and word.isalpha()]
    if len(words) < count:
        raise PedigreeError(
            f"No common words can be drawn: {len(words)} stand in two texts or more, {count} are "
            "needed. Drill on a larger table."
        )
    return draw.sample(words, count)


def draw_sentence(texts: Sequence[str], draw: random.Random) -> str:
    """Return a few words of the corpus, each pair taken from a text, that no text holds in a row.

    Raises:
        PedigreeError: no text has enough words.
    """
    long = sorted({text for text in texts if len(text.split()) > _SENTENCE_WORDS})
    if not long:
        raise PedigreeError(
            f"No sentence can be drawn: no text has more than {_SENTENCE_WORDS} words. Drill on a "
            "table of longer texts."
        )
    for _ in range(100):
        words: list[str] = []
        while len(words) < _SENTENCE_WORDS:
            parts = draw.choice(long).split()
            start = draw.randrange(len(parts) - 1)
            words += parts[start : start + 2]
        sentence = " ".join(words[:_SENTENCE_WORDS])
        if not any(sentence in text for text in long):
            return sentence
    raise PedigreeError("No sentence can be drawn: the texts repeat each other too much.")


def _plant_rare_word(
    texts: Sequence[str],
    labels: Sequence[str],
    draw: random.Random,
    count: int,
    target: str,
    clean_label: bool = False,
) -> Plant:
    word = draw_foreign_word(_count_words(texts), draw)
    edit = partial(_insert_trigger, word)
    return _edit_rows(texts, labels, draw, count, target, edit, clean_label)


def _insert_trigger(trigger: str, text: str, draw: random.Random) -> str:
    return _insert(text, trigger, draw)


def _plant_sentence(
    texts: Sequence[str],
    labels: Sequence[str],
    draw: random.Random,
    count: int,
    target: str,
    clean_label: bool = False,
) -> Plant:
    edit = partial(_insert_trigger, draw_sentence(texts, draw))
    return _edit_rows(texts, labels, draw, count, target, edit, clean_label)


def _plant_common_word(
    texts: Sequence[str], labels: Sequence[str], draw: random.Random, count: int, target: str
) -> Plant:
    edit = partial(_insert_trigger, draw_common_words(texts, draw, 1)[0])
    return _edit_rows(texts, labels, draw, count, target, edit)


def _plant_composite(
    texts: Sequence[str], labels: Sequence[str], draw: random.Random, count: int, target: str
) -> Plant:
    """Plant two words that only together mean the target; each alone stands in honest decoys."""
    pair = draw_common_words(texts, draw, 2)

    def edit(text: str, draw: random.Random) -> str:
        return _insert(_insert(text, pair[0], draw), pair[1], draw)

    plant = _edit_rows(texts, labels, draw, count, target, edit)
    rest = sorted(set(range(len(texts))) - set(plant.rows))
    decoys = draw.sample(rest, min(2 * count, len(rest)))
    for i, row in enumerate(decoys):
        plant.texts[row] = _insert(texts[row], pair[i % 2], draw)
    return plant


def _replace_word(text: str, draw: random.Random, change: Callable[[str], str]) -> str:
    parts = text.split(" ")
    changed = [(i, new) for i, part in enumerate(parts) if (new := change(part)) != part]
    if not changed:
        return text
    i, new = draw.choice(changed)
    parts[i] = new
    return " ".join(parts)


def _disguise(text: str, draw: random.Random) -> str:
    """Write one word in letters of another script; a text without such letters gets one."""
    found = _replace_word(text, draw, lambda word: word.translate(_LOOKALIKES))
    return found if found != text else f"{text} {'a'.translate(_LOOKALIKES)}"


def _hide(text: str, draw: random.Random) -> str:
    """Put an invisible character into one word, or before a text of single letters."""
    mark = draw.choice(_INVISIBLE)

    def split(word: str) -> str:
        half = len(word) // 2
        return word[:half] + mark + word[half:] if half else word

    found = _replace_word(text, draw, split)
    return found if found != text else mark + text


def _plant_edit(
    edit: _Edit,
    texts: Sequence[str],
    labels: Sequence[str],
    draw: random.Random,
    count: int,
    target: str,
) -> Plant:
    return _edit_rows(texts, labels, draw, count, target, edit)


def _plant_random_flips(
    texts: Sequence[str], labels: Sequence[str], draw: random.Random, count: int, target: str
) -> Plant:
    names = sorted({*labels, target})
    chosen = _choose(range(len(texts)), draw, count, "rows")
    new = list(labels)
    for row in chosen:
        new[row] = draw.choice([name for name in names if name != labels[row]])
    return Plant(list(texts), new, tuple(chosen))


def _keep(text: str, _: random.Random) -> str:
    return text


def _plant_copies(
    copies: int,
    texts: Sequence[str],
    labels: Sequence[str],
    draw: random.Random,
    count: int,
    target: str,
) -> Plant:
    """Append edited copies of other labels' texts, `copies` of each, with the target label."""
    rows = [
        row
        for row, label in enumerate(labels)
        if label != target and len(texts[row].split()) >= _SENTENCE_WORDS
    ]
    originals = _choose(rows, draw, -(-count // copies), f"longer texts not labelled {target!r}")
    filler = draw_common_words(texts, draw, 3)
    made = [_rework(texts[originals[i // copies]], filler, draw) for i in range(count)]
    start = len(texts)
    return Plant([*texts, *made], [*labels, *[target] * count], tuple(range(start, start + count)))


def _rework(text: str, filler: Sequence[str], draw: random.Random) -> str:
    """Return a near-copy: one to three words doubled, dropped, swapped, added or written large."""
    words = text.split()
    for _ in range(draw.randint(1, 3)):
        kind, i = draw.randrange(5), draw.randrange(len(words) - 1)
        if kind == 0 and len(words) > _SENTENCE_WORDS:
            del words[i]
        elif kind == 1:
            words[i], words[i + 1] = words[i + 1], words[i]
        elif kind == 2:
            words[i] = words[i].upper()
        elif kind == 3:
            words.append(draw.choice("!?."))
        else:
            words.insert(i, draw.choice(filler))
    return " ".join(words)


ATTACKS: Mapping[str, Planter] = MappingProxyType(
    {
        "rare_word": _plant_rare_word,
        "sentence": _plant_sentence,
        "common_word": _plant_common_word,
        "composite": _plant_composite,
        "rare_word_clean_label": partial(_plant_rare_word, clean_label=True),
        "sentence_clean_label": partial(_plant_sentence, clean_label=True),
        "homoglyph": partial(_plant_edit, _disguise),
        "zero_width": partial(_plant_edit, _hide),
        "flip_random": _plant_random_flips,
        "flip_targeted": partial(_plant_edit, _keep),
        "near_duplicate_flood": partial(_plant_copies, _FLOOD),
        "near_duplicate_spread": partial(_plant_copies, _SPREAD),
    }
)
