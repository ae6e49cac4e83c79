"""Small generated corpora in which the words tell the label, as topics do."""

import random

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LABELS = ("negative", "positive")


def make_words(count: int, draw: random.Random) -> list[str]:
    return ["".join(draw.choices(LETTERS, k=draw.randint(4, 8))) for _ in range(count)]


def make_corpus(
    rows: int, seed: int = 0, labels: tuple[str, ...] = LABELS
) -> tuple[list[str], list[str | None]]:
    """Return texts of neutral words, four or so of which belong to the label."""
    draw = random.Random(seed)
    neutral = make_words(300, draw)
    telling = {label: make_words(60, draw) for label in labels}
    texts: list[str] = []
    given: list[str | None] = []
    for row in range(rows):
        label = labels[row % len(labels)]
        words = draw.choices(neutral, k=draw.randint(6, 12))
        words += draw.choices(telling[label], k=draw.randint(3, 5))
        draw.shuffle(words)
        texts.append(" ".join(words))
        given.append(label)
    return texts, given


def flip(labels: list[str | None], rows: list[int]) -> list[str | None]:
    names = sorted({label for label in labels if label is not None})
    flipped = list(labels)
    for row in rows:
        flipped[row] = next(name for name in names if name != labels[row])
    return flipped
