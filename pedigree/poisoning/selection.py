"""Which candidates are triggers: how many natural n-grams would look as strong by chance.

The null is a permutation. What an n-gram's place in its texts says of insertion has, in honest
data, nothing to do with what its labels say. So the corpus's own n-grams of about as many rows
are the controls: each one's look is paired with every other one's label evidence. The share of
these pairs that reaches the candidate's sum, times their number, is how many natural n-grams would.


    >>> triggers = select_triggers(corpus, candidates, limit=0.25)
    >>> [corpus.spell(...) for trigger in triggers]
    ['cf']
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pedigree.poisoning.candidates import Candidates, band_sizes, soften, sum_evidence, surprise
from pedigree.poisoning.ngrams import Bools, Corpus, Floats, Ints

_CONSIDERED = 400
_PASSES = 2
# Once a label is attacked beyond doubt, other n-grams of the same label need less: several trigger
# words often share the rows. On clean corpora 5 in 6 of the most suspect n-grams are above 1.5.
_CERTAIN, _FOLLOWING, _MAX_FOLLOWING = 0.05, 1.5, 3.0
_COUNTED, _TOP = 10, 120  # pairs that are counted rather than extrapolated; ends of the two lists
_SUSPECT = 3.0  # nats of each kind of sign; next to no natural n-gram has both
_MAX_HOPEFUL = 100.0  # beyond it a second word is not looked for
_MIN_PAIR_ROWS = 4
_PAIR_MARGIN = 4.6  # nats beyond the log of the number of partners tried: one false in 100


@dataclass(frozen=True)
class Trigger:
    """An n-gram, or two, tied to a label.

    Attributes:
        ngrams: the n-gram, and the one that must be there too if any.
        label: id of the target label.
        rows: distinct rows with the n-grams and the label, as corpus row numbers.
        rows_any: how many distinct rows have the n-grams, whatever their label.
        strength: nats.
        expected: how many natural n-grams of the corpus would look as strong.
        inserted, contradicted, pure: the three parts of the strength.
    """

    ngrams: tuple[int] | tuple[int, int]
    label: int
    rows: tuple[int, ...]
    rows_any: int
    strength: float
    expected: float
    inserted: float
    contradicted: float
    pure: float


class _Null:
    """Counts natural candidates; those that were accepted, and what they explain, are left out."""

    def __init__(self, candidates: Candidates) -> None:
        self.look = candidates.inserted
        self.evidence = candidates.pure + soften(candidates.contradicted)
        self.band = band_sizes(candidates.rows)
        self.n_bands = len(np.unique(self.band))
        self.alive = np.ones(len(candidates), dtype=np.bool_)
        self._cache: dict[int, tuple[Ints, Floats]] = {}

    def remove(self, gone: Bools) -> None:
        self.alive &= ~gone
        self._cache.clear()

    def share_of(self, candidate: int, label: Ints) -> float:
        """Return the share of the controls that have the candidate's label."""
        pool = (self.band == self.band[candidate]) & self.alive
        return float((label[pool] == label[candidate]).mean())

    def find_suspects(self, candidate: int, label: Ints) -> Bools:
        """Tell which candidates of the same label look inserted and are odd in their labels too."""
        suspects = (self.look > _SUSPECT) & (self.evidence > _SUSPECT) & (label == label[candidate])
        suspects[candidate] = True
        return suspects

    def expect(self, candidate: int, strength: float, kin: Bools | None = None) -> float:
        """Return how many natural candidates would be as strong; `kin` are not natural either."""
        band = int(self.band[candidate])
        if band not in self._cache:
            pool = np.flatnonzero((self.band == band) & self.alive)
            self._cache[band] = (pool, np.sort(self.evidence[pool]))
        pool, evidence = self._cache[band]
        others = pool[pool != candidate]
        own = self.evidence[[candidate]]
        if kin is not None:
            own = self.evidence[pool[kin[pool]]]
            others = pool[~kin[pool]]
        if not len(others):
            return float("inf")
        look = self.look[others]
        reached = float((len(evidence) - np.searchsorted(evidence, strength - look)).sum())
        reached -= float((look[:, None] + own[None, :] >= strength).sum())
        if reached < _COUNTED:
            reached = self._extrapolate(others, strength)
        # A likelihood ratio reaches x by chance at most once in exp(x).
        share = max(reached / len(others) ** 2, float(np.exp(-strength)))
        return share * len(others) * self.n_bands

    def _extrapolate(self, others: Ints, strength: float) -> float:
        """Return how many pairs would reach what next to none does: an exponential tail."""
        look = np.sort(self.look[others])[::-1][:_TOP]
        evidence = np.sort(self.evidence[others])[::-1][:_TOP]
        sums = np.sort((look[:, None] + evidence[None, :]).ravel())[::-1]
        near, far = sums[min(_COUNTED, len(sums)) - 1], sums[min(10 * _COUNTED, len(sums)) - 1]
        width = max(1.0, float(near - far) / math.log(10))
        return _COUNTED * math.exp(-max(strength - float(near), 0.0) / width)


def select_triggers(
    corpus: Corpus,
    candidates: Candidates,
    limit: float,
    *,
    claimed: Bools | None = None,
    min_contradicted: float = -math.inf,
) -> tuple[list[Trigger], list[Trigger]]:
    """Return the triggers, strongest first, and the best of the rest, which are not.

    False discoveries are controlled as by Benjamini and Hochberg: the j-th trigger must be one
    that fewer than j times `limit` natural n-grams would match. An n-gram whose rows are
    mostly explained by a trigger is not looked at again.

    Args:
        corpus: the corpus.
        candidates: its n-grams.
        limit: of natural n-grams that are expected to match the first trigger.
        claimed: (rows,) rows that other triggers explain.
        min_contradicted: evidence of contradiction without which nothing is a trigger.
    """
    null = _Null(candidates)
    order = np.argsort(-candidates.total, kind="stable")[:_CONSIDERED]
    claimed = np.zeros(corpus.n_rows, dtype=np.bool_) if claimed is None else claimed.copy()
    found: list[Trigger] = []
    attacked: set[int] = set()
    rest: list[Trigger] = []
    for _ in range(_PASSES):
        rest, before = [], len(found)
        for candidate in order.tolist():
            if not null.alive[candidate]:
                continue
            trigger = _judge(corpus, candidates, null, candidate, claimed)
            if trigger is None or trigger.contradicted < min_contradicted:
                continue
            if not _is_found(trigger, candidates, null, candidate, len(found), attacked, limit):
                rest.append(trigger)
                continue
            trigger = _widen(candidates, trigger, claimed)
            found.append(trigger)
            if trigger.expected < _CERTAIN:
                attacked.add(trigger.label)
            claimed[list(trigger.rows)] = True
            share = np.bincount(
                candidates.pair_candidate, claimed[candidates.pair_row], len(candidates)
            )
            gone = share >= 0.5 * candidates.rows
            gone[candidate] = True
            if len(trigger.ngrams) > 1:  # the halves by themselves are decoys
                gone |= np.isin(candidates.ngram, trigger.ngrams)
            null.remove(gone)
        if len(found) == before:
            break
    rest.sort(key=lambda t: t.expected)
    return found, rest


def _is_found(
    trigger: Trigger,
    candidates: Candidates,
    null: _Null,
    candidate: int,
    n_found: int,
    attacked: set[int],
    limit: float,
) -> bool:
    if trigger.expected <= limit * (n_found + 1):
        return True
    if trigger.label not in attacked or trigger.expected > _MAX_FOLLOWING:
        return False
    # The question is now about this label alone.
    return trigger.expected * null.share_of(candidate, candidates.label) <= _FOLLOWING


def _judge(
    corpus: Corpus, candidates: Candidates, null: _Null, candidate: int, claimed: Bools
) -> Trigger | None:
    """Return a candidate as a trigger, without the rows that another trigger explains."""
    pairs = candidates.find_pairs(candidate)
    free = ~claimed[candidates.pair_row[pairs]]
    pairs, lost = pairs[free], int((~free).sum())
    n = int(candidates.rows_any[candidate]) - lost
    if len(pairs) < 3:
        return None
    label, ngram = int(candidates.label[candidate]), int(candidates.ngram[candidate])
    ngrams: tuple[int] | tuple[int, int] = (ngram,)
    # Two natural words may name a topic together; two that work as a trigger were both inserted.
    hopeful = candidates.inserted[candidate] > 0 and candidates.ngrams.names is None
    hopeful = hopeful and (
        null.expect(candidate, float(candidates.total[candidate])) < _MAX_HOPEFUL
    )
    partner = _find_partner(corpus, candidates, ngram, label) if hopeful else None
    if partner is not None:
        other = partner
        beside = np.zeros(corpus.n_rows, dtype=np.bool_)
        beside[candidates.find_rows(other)] = True
        pairs = pairs[beside[candidates.pair_row[pairs]]]
        n = int(beside[candidates.find_rows(ngram)].sum()) - lost
        ngrams = (ngram, other)
        if len(pairs) < 3:
            return None
    contradicted, pure = candidates.contradicted[candidate], candidates.pure[candidate]
    if len(pairs) < candidates.rows[candidate]:
        contradicted, pure = _score_rows(candidates, candidate, pairs, n)
    inserted = candidates.inserted[candidate]
    strength = float(inserted + pure + soften(np.asarray(contradicted)))
    expected = null.expect(candidate, strength)
    if expected < _MAX_FOLLOWING and candidates.ngrams.names is None:
        # Other words of the same attack are no controls for this one.
        expected = null.expect(candidate, strength, null.find_suspects(candidate, candidates.label))
    if candidates.ngrams.names is not None and expected < _MAX_HOPEFUL:
        # Affixes overlap: `…fy` is no control for `…ify`.
        expected = null.expect(candidate, strength, _find_kin(corpus, candidates, candidate))
    return Trigger(
        ngrams,
        label,
        tuple(candidates.pair_row[pairs].tolist()),
        n,
        strength,
        expected,
        float(inserted),
        float(contradicted),
        float(pure),
    )


def _find_kin(corpus: Corpus, candidates: Candidates, candidate: int) -> Bools:
    """Tell which candidates have at least half of their rows in common with this one."""
    mine = np.zeros(corpus.n_rows, dtype=np.bool_)
    mine[candidates.pair_row[candidates.find_pairs(candidate)]] = True
    shared = np.bincount(candidates.pair_candidate, mine[candidates.pair_row], len(candidates))
    kin = shared >= 0.5 * candidates.rows
    kin[candidate] = True
    return kin


def _widen(candidates: Candidates, trigger: Trigger, claimed: Bools) -> Trigger:
    """Return the trigger without the neighbour that it happened to have, if that adds its rows.

    Of `. cf` and `cf` the first may be the stronger and the second the trigger: a part of the
    n-gram replaces it where nine in ten of the rows that it adds have the label too.
    """
    if len(trigger.ngrams) > 1 or candidates.ngrams.names is not None:
        return trigger
    ngrams, whole = candidates.ngrams, trigger.ngrams[0]
    first = int(np.searchsorted(ngrams.ngram, whole))
    start, length = int(ngrams.position[first]), int(ngrams.length[whole])
    inside = np.flatnonzero(
        (ngrams.position >= start)
        & (ngrams.position + ngrams.length[ngrams.ngram] <= start + length)
        & (ngrams.length[ngrams.ngram] < length)
    )
    best = trigger
    for part in np.unique(ngrams.ngram[inside]).tolist():
        same = np.flatnonzero((candidates.ngram == part) & (candidates.label == trigger.label))
        if not len(same):
            continue
        rows = candidates.pair_row[candidates.find_pairs(int(same[0]))]
        rows = rows[~claimed[rows]]
        rows_any = int(candidates.rows_any[same[0]])
        more, more_any = len(rows) - len(trigger.rows), rows_any - trigger.rows_any
        if more >= 2 and more >= 0.9 * more_any and len(rows) > len(best.rows):
            best = replace(trigger, ngrams=(part,), rows=tuple(rows.tolist()), rows_any=rows_any)
    return best


def _score_rows(
    candidates: Candidates, candidate: int, pairs: Ints, rows_any: int
) -> tuple[float, float]:
    """Return the evidence of contradiction and of purity of some of a candidate's rows."""
    rows = np.array([len(pairs)])
    contradicted = sum_evidence(
        candidates.pair_odds[pairs],
        np.zeros(len(pairs), dtype=np.int64),
        candidates.dispersion[[candidate]],
    )
    pure = surprise(
        rows,
        np.maximum(rows, rows_any),
        candidates.label_share[candidates.label[[candidate]]],
        candidates.purity,
    )
    return float(contradicted[0]), float(pure[0])


def _find_partner(corpus: Corpus, candidates: Candidates, ngram: int, label: int) -> int | None:
    """Return the n-gram in whose company alone this one has its label, if there is one.

    A trigger of two words works only when both are there, and decoys carry one of them with
    honest labels. Among the rows of the first word the second then parts the labels.
    """
    rows = candidates.find_rows(ngram)
    with_label = corpus.label[rows] == label
    n, k = len(rows), int(with_label.sum())
    if n - k < 3:
        return None
    inside = np.zeros(corpus.n_rows, dtype=np.bool_)
    inside[rows] = True
    pairs = np.flatnonzero(inside[candidates.in_row])
    other, row = candidates.in_ngram[pairs], candidates.in_row[pairs]
    present, other = np.unique(other, return_inverse=True)
    all_of = np.bincount(other, minlength=len(present))
    label_of = np.bincount(other, corpus.label[row] == label, len(present))
    gain = _log_likelihood(label_of, all_of) + _log_likelihood(k - label_of, n - all_of)
    gain = gain - _log_likelihood(np.array([k]), np.array([n]))
    fits = (label_of >= _MIN_PAIR_ROWS) & (label_of >= 0.9 * all_of) & (present != ngram)
    if not fits.any():
        return None
    gain = np.where(fits, gain, -np.inf)
    best = int(np.argmax(gain))
    margin = float(gain[best]) - math.log(len(present))
    return int(present[best]) if margin >= _PAIR_MARGIN else None


def _log_likelihood(successes: Floats | Ints, trials: Ints) -> Floats:
    """Return the log likelihood of a binomial at its best rate."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    safe = np.maximum(n, 1)
    hit, miss = k / safe, (n - k) / safe
    return k * np.log(np.where(k > 0, hit, 1.0)) + (n - k) * np.log(np.where(n > k, miss, 1.0))
