"""From a trigger to its rows: which carry it, and which of these were written with it anyway.

A common word is natural in some of the rows that it was inserted into others of. For each row
with the word and the target label, two things are weighed: whether the rest of the row contradicts
the label, and whether the word's neighbours are those that it has elsewhere or those of a gap.

    >>> attribute_trigger(["a cf film", "a film"], ["x", "y"], "cf").rows
    (0,)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pedigree.errors import PedigreeError
from pedigree.poisoning.candidates import Candidates
from pedigree.poisoning.insertion import Contexts, find_gaps, fit_logistic, score_places
from pedigree.poisoning.ngrams import AFFIX_MARK, Bools, Corpus, Floats, Ints, tokenise
from pedigree.poisoning.selection import Trigger

# Measured on common words at 1% of SST-2: this names 93% to 99% of the poisoned rows and half of
# those in which the word is natural.
_MIN_POSTERIOR = 0.5
_MIN_NATURAL = 2.0  # below, what is usual of the word is not known well enough to part rows
_TRAINING = 20_000
_PRIOR_ROWS = 5.0


@dataclass(frozen=True)
class Attribution:
    """Rows that carry an n-gram.

    Attributes:
        rows: 0-based positions of all of them.
        label: the label that they have more often than the table does; None if none has one.
        rows_with_label: those of the rows that have it.
    """

    rows: tuple[int, ...]
    label: str | None
    rows_with_label: tuple[int, ...]


def attribute_trigger(
    texts: Sequence[str], labels: Sequence[str | None], ngram: str
) -> Attribution:
    """Return every row that carries a suspected trigger, however it is cased and spaced.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels.
        ngram: words as they stand in the texts; several n-grams with ` & ` between them must all
            be in the row. `…ing` and `un…` are the end and the beginning of a word.

    Raises:
        PedigreeError: the n-gram has no words.
    """
    parts = [part.strip() for part in ngram.split(" & ")]
    if not all(tokenise(part.strip(AFFIX_MARK)) for part in parts):
        raise PedigreeError(
            f"The n-gram {ngram!r} has no words to look for: give it as it stands in the texts."
        )
    rows = [row for row, text in enumerate(texts) if _carries(tokenise(text or ""), parts)]
    counts = Counter(label for label in labels if label is not None)
    found = Counter(label for row in rows if (label := labels[row]) is not None)
    # Ties go to the label that comes first in the rows, not to a name.
    target = max(found, key=lambda label: found[label] ** 2 / counts[label], default=None)
    return Attribution(
        tuple(rows), target, tuple(r for r in rows if target is not None and labels[r] == target)
    )


def _carries(words: list[str], parts: list[str]) -> bool:
    line = "\0".join(["", *words, ""])
    for part in parts:
        folded = part.lower()
        if folded.startswith(AFFIX_MARK):
            found = any(word.endswith(folded[1:]) for word in words)
        elif folded.endswith(AFFIX_MARK):
            found = any(word.startswith(folded[:-1]) for word in words)
        else:
            found = "\0".join(["", *tokenise(part), ""]) in line
        if not found:
            return False
    return True


def weigh_rows(
    corpus: Corpus,
    candidates: Candidates,
    trigger: Trigger,
    rng: np.random.Generator,
) -> Floats:
    """Return for each row of a trigger how probably it was poisoned, given that the trigger is one.

    Where all rows with the n-gram have the label there is nothing to part, and all are certain.
    """
    certain = np.ones(len(trigger.rows))
    share = float(candidates.label_share[trigger.label])
    honest = trigger.rows_any - len(trigger.rows)  # these are not of the target label
    natural = honest * share / (1 - share)
    if natural < _MIN_NATURAL:
        return certain
    prior = max(1 - natural / len(trigger.rows), 0.05)
    odds = np.full(len(trigger.rows), np.log(prior / (1 - prior)))
    if trigger.contradicted > 0:
        mine = (candidates.ngram == trigger.ngrams[0]) & (candidates.label == trigger.label)
        pairs = candidates.find_pairs(int(np.flatnonzero(mine)[0]))
        by_row = dict(
            zip(candidates.pair_row[pairs].tolist(), candidates.pair_odds[pairs], strict=True)
        )
        odds += np.array([by_row[row] for row in trigger.rows])
    odds += _judge_places(corpus, candidates.contexts, candidates, trigger, rng)
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))


def is_poisoned(posterior: Floats) -> Bools:
    """Tell which rows are more probably poisoned than not."""
    return posterior >= _MIN_POSTERIOR


def _judge_places(
    corpus: Corpus,
    contexts: Contexts,
    candidates: Candidates,
    trigger: Trigger,
    rng: np.random.Generator,
) -> Floats:
    """Return the log odds that the n-gram was inserted where it stands in each row."""
    ngrams = candidates.ngrams
    where = np.flatnonzero(ngrams.ngram == trigger.ngrams[0])
    position = ngrams.position[where]
    length = np.full(len(position), ngrams.length[trigger.ngrams[0]])
    row = corpus.row_of[position]
    elsewhere = corpus.label[row] != trigger.label
    home = find_gaps(corpus, position[elsewhere], length[elsewhere], row[elsewhere])
    usual = [_mean(contexts.left, home.left), _mean(contexts.right, home.right)]
    here = find_gaps(corpus, position[~elsewhere], length[~elsewhere], row[~elsewhere])
    own = score_places(contexts, here, usual[0], usual[1], 0)
    model = _learn_places(corpus, contexts, candidates, rng)
    odds = np.concatenate([own, np.ones((len(own), 1))], axis=1) @ model
    best = np.full(corpus.n_rows, -np.inf)
    np.maximum.at(best, row[~elsewhere], odds)
    return best[list(trigger.rows)]


def _mean(vectors: Floats, tokens: Ints) -> Floats:
    """Return the mean vector, drawn to 0 where there are few."""
    return vectors[tokens].sum(axis=0) / (len(tokens) + _PRIOR_ROWS)


def _learn_places(
    corpus: Corpus, contexts: Contexts, candidates: Candidates, rng: np.random.Generator
) -> Floats:
    """Fit a logistic model of places of natural n-grams against random gaps."""
    ngrams = candidates.ngrams
    counts = np.bincount(ngrams.ngram, minlength=len(ngrams))
    often = np.flatnonzero((counts >= 10)[ngrams.ngram])
    chosen = often[rng.integers(0, len(often), min(_TRAINING, len(often)))]
    owner = ngrams.ngram[chosen]
    sums: list[Floats] = []
    for vectors, side in ((contexts.left, "left"), (contexts.right, "right")):
        every = find_gaps(
            corpus, ngrams.position, ngrams.length[ngrams.ngram], corpus.row_of[ngrams.position]
        )
        tokens = every.left if side == "left" else every.right
        total = np.stack(
            [
                np.bincount(ngrams.ngram, vectors[tokens, i], len(ngrams))
                for i in range(vectors.shape[1])
            ],
            axis=1,
        )
        rest = total[owner] - vectors[tokens[chosen]]  # without the place itself
        sums.append(rest / (counts[owner] - 1 + _PRIOR_ROWS)[:, None])
    position = ngrams.position[chosen]
    gaps = find_gaps(corpus, position, ngrams.length[owner], corpus.row_of[position])
    natural = score_places(contexts, gaps, sums[0], sums[1], 0)
    filled = np.flatnonzero(corpus.lengths)
    row = filled[rng.integers(0, len(filled), len(chosen))]
    at = corpus.starts[row] + (rng.random(len(row)) * (corpus.lengths[row] + 1)).astype(np.int64)
    random_gaps = find_gaps(corpus, at, np.zeros_like(at), row)
    planted = score_places(contexts, random_gaps, sums[0], sums[1], 1)
    both = np.concatenate([natural, planted])
    both = np.concatenate([both, np.ones((len(both), 1))], axis=1)
    target = np.concatenate([np.zeros(len(natural)), np.ones(len(planted))])
    return fit_logistic(both, target)
