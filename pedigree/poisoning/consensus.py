"""What the others say: for each vote, a reference that does not depend on its annotator.

Annotator checks ask how often somebody disagrees with the rest, and how often anybody would have,
there. The rest is a leave-one-out consensus of Dawid and Skene (1979, Applied Statistics 28(1))
where an item has enough other votes, and a text model that never saw the annotator's rows where it
has not::

    >>> votes = encode_votes(["i", "i", "i"], ["ann", "ben", "cat"], ["1", "1", "0"])
    >>> consult_votes(votes).says.tolist()     # label codes: what the other two say
    [-1, -1, 0]
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

MIN_OTHERS = 2  # fewer other votes are no consensus
_FOLDS = 5
_ITERATIONS = 50
# Confusion counts that each annotator starts with, spread as the whole crowd's: with few votes of
# his own an annotator is taken for an average one.
_PRIOR_VOTES = 4.0
# Beyond so many cells (annotators x labels^2) confusion matrices are not estimated, and the
# consensus is the plain share of votes.
_MAX_CELLS = 20_000_000
_MAX_CLASSES = 150  # nor beyond so many labels
# Votes whose reference is about as sure share one expected disagreement. Edges are the log odds of
# the best label against the second for a consensus; a text model's are cut at its own quantiles.
_ODDS_EDGES = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0, 8.0])
_MODEL_BINS = 10
_WORD = re.compile(r"\w+")
# Scripts without spaces: each pair of characters stands for a word.
_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{2,}")


@dataclass(frozen=True)
class Votes:
    """Votes in canonical order: by item, annotator and label, wherever they lay in the table.

    Attributes:
        row: (votes,) int64, position in the table.
        item: (votes,) int64, ascending codes.
        annotator: (votes,) int64, codes; the last code, `len(names)`, stands for nobody known.
        label: (votes,) int64, codes; the most frequent label first.
        names: annotators by code.
        labels: labels by code.
        texts: one text an item; empty where none were given.
    """

    row: Integers
    item: Integers
    annotator: Integers
    label: Integers
    names: tuple[str, ...]
    labels: tuple[str, ...]
    items: int
    texts: tuple[str, ...]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(votes,) whether the annotator is known."""
        return self.annotator < len(self.names)


@dataclass(frozen=True)
class Reference:
    """What the rest says about each vote.

    Attributes:
        says: (votes,) int64, label code, or -1 where there is no other evidence.
        odds: (votes,) float64, how sure it is: log odds of its best label against the second.
        level: (votes,) int64, votes of one level have references about as sure.
        by_text: (votes,) bool, a text model spoke and not the other annotators.
        evidence: (votes, labels) float64, what each vote adds to the log odds of its item's labels;
            (votes, 0) where no confusion matrices were estimated.
        prior: (labels,) float64, log shares of the labels.
    """

    says: Integers
    odds: Floats
    level: Integers
    by_text: npt.NDArray[np.bool_]
    evidence: Floats
    prior: Floats


def encode_votes(
    items: Sequence[str],
    annotators: Sequence[str | None],
    labels: Sequence[str | None],
    texts: Sequence[str] | None = None,
) -> Votes:
    """Return the votes in an order that does not depend on the table's; null labels are no votes.

    Raises:
        PedigreeError: the columns have different lengths.
    """
    lengths = {len(items), len(annotators), len(labels), len(items if texts is None else texts)}
    if len(lengths) > 1:
        raise PedigreeError(
            f"Votes need one item, annotator, label and text a row: found {sorted(lengths)} rows. "
            "Give columns of one table."
        )
    rows = [row for row, label in enumerate(labels) if label is not None]
    item_names, item = _encode([items[row] for row in rows])
    names, annotator = _encode([annotators[row] for row in rows])
    label_names, label = _encode([labels[row] for row in rows])
    label_names, label = _by_frequency(label_names, label, item)
    order = np.lexsort((label, annotator, item))
    first = np.unique(item[order], return_index=True)[1]
    chosen: tuple[str, ...] = ()
    if texts is not None:
        # An item whose rows differ in text is read by the smallest: no row order decides.
        smallest: dict[int, str] = {}
        for code, row in zip(item.tolist(), rows, strict=True):
            smallest[code] = min(smallest.get(code, texts[row]), texts[row])
        chosen = tuple(smallest[code] for code in range(len(first)))
    return Votes(
        np.array(rows, np.int64)[order],
        item[order],
        annotator[order],
        label[order],
        names,
        label_names,
        len(item_names),
        chosen,
    )


def _encode(values: Sequence[str | None]) -> tuple[tuple[str, ...], Integers]:
    """Return sorted distinct values and codes; null gets the code after the last."""
    names = sorted({value for value in values if value is not None})
    code: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    code[None] = len(names)
    return tuple(names), np.array([code[value] for value in values], np.int64)


def _by_frequency(
    names: tuple[str, ...], label: Integers, item: Integers
) -> tuple[tuple[str, ...], Integers]:
    """Number labels by frequency, ties by the items they stand at: never by name."""
    counts = np.bincount(label, minlength=len(names))
    first = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(first, label, item)
    order = np.lexsort((first, -counts))
    position = np.argsort(order)
    return tuple(names[i] for i in order), position[label] if len(label) else label


def consult_votes(votes: Votes, ignored: frozenset[int] = frozenset()) -> Reference:
    """Return for each vote what the item's other votes say, by Dawid and Skene.

    Each vote's own contribution is taken out of its item's posterior, and nobody in `ignored` has
    a say: their votes are judged, not counted.
    """
    count, classes = len(votes.item), len(votes.labels)
    weight = ~np.isin(votes.annotator, list(ignored))
    others = np.bincount(votes.item, weight, votes.items)[votes.item] - weight
    if count == 0 or classes < 2:
        return no_reference(count)
    cells = max((len(votes.names) + 1) * classes, len(votes.item)) * classes
    if cells > _MAX_CELLS or classes > _MAX_CLASSES:
        says, odds = _plurality(votes, weight)
        evidence, prior = np.zeros((count, 0)), np.zeros(0)
    else:
        evidence, prior = _dawid_skene(votes, weight)
        evidence *= weight[:, None]
        says, odds = decide(sum_by_item(votes, evidence)[votes.item] - evidence + prior)
    says = np.where(others >= MIN_OTHERS, says, -1)
    return Reference(says, odds, level_of(odds), np.zeros(count, bool), evidence, prior)


def decide(scores: Floats) -> tuple[Integers, Floats]:
    """Return the best label of each row of log odds, and its lead over the second."""
    top = np.partition(scores, -2, axis=1)[:, -2:]
    return scores.argmax(1).astype(np.int64), top[:, 1] - top[:, 0]


def level_of(odds: Floats) -> Integers:
    """Return the class of about equally sure consensuses that each belongs to."""
    return np.searchsorted(_ODDS_EDGES, odds).astype(np.int64)


def sum_by_item(votes: Votes, evidence: Floats) -> Floats:
    """Return (items, labels) float64: the evidence of all votes of each item."""
    totals = np.zeros((votes.items, evidence.shape[1]))
    np.add.at(totals, votes.item, evidence)
    return totals


def no_reference(count: int) -> Reference:
    """Return a reference that says nothing about any vote."""
    nothing = np.zeros(count)
    return Reference(
        np.full(count, -1, np.int64),
        nothing,
        nothing.astype(np.int64),
        nothing.astype(bool),
        np.zeros((count, 0)),
        np.zeros(0),
    )


def _dawid_skene(votes: Votes, weight: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return each vote's log likelihood by true label (votes, labels), and the log prior.

    Expectation maximisation from the shares of votes; confusion matrices are shrunk to the whole
    crowd's. Annotators without a name share one matrix.
    """
    classes, people = len(votes.labels), len(votes.names) + 1
    cell = votes.annotator * classes + votes.label
    posterior = np.full((votes.items, classes), 0.5)
    np.add.at(posterior, (votes.item[weight], votes.label[weight]), 1.0)
    posterior /= posterior.sum(1, keepdims=True)
    evidence, prior = np.zeros((len(votes.item), classes)), np.zeros(classes)
    for _ in range(_ITERATIONS):
        prior = np.log(posterior.sum(0) + 1) - np.log(posterior.sum() + classes)
        belief = posterior[votes.item] * weight[:, None]
        counts = np.stack(
            [np.bincount(cell, belief[:, true], people * classes) for true in range(classes)]
        ).reshape(classes, people, classes)
        crowd = counts.sum(1) + 0.5
        crowd /= crowd.sum(1, keepdims=True)
        counts += _PRIOR_VOTES * crowd[:, None, :]
        logs = np.log(counts) - np.log(counts.sum(2, keepdims=True))
        evidence = logs[:, votes.annotator, votes.label].T
        totals = np.zeros((votes.items, classes))
        np.add.at(totals, votes.item[weight], evidence[weight])
        totals += prior
        updated = np.exp(totals - totals.max(1, keepdims=True))
        updated /= updated.sum(1, keepdims=True)
        moved = float(np.abs(updated - posterior).max())
        posterior = updated
        if moved < 1e-4:
            break
    return evidence, prior


def _plurality(votes: Votes, weight: npt.NDArray[np.bool_]) -> tuple[Integers, Floats]:
    """Return for each vote the most frequent other label of its item, and log odds of its lead."""
    classes = len(votes.labels)
    keys, place = np.unique(votes.item * classes + votes.label, return_inverse=True)
    counts = np.bincount(place, weight, len(keys))
    says = np.full(len(votes.item), -1, np.int64)
    odds = np.zeros(len(votes.item))
    start = np.searchsorted(keys, np.arange(votes.items + 1) * classes)
    for vote, item in enumerate(votes.item.tolist()):
        mine = counts[start[item] : start[item + 1]].copy()
        mine[place[vote] - start[item]] -= weight[vote]
        best = int(mine.argmax())
        second = float(np.delete(mine, best).max(initial=0.0))
        says[vote] = keys[start[item] + best] % classes
        odds[vote] = np.log((mine[best] + 0.5) / (second + 0.5)) * 2
    return says, odds


def total_by(codes: Integers, values: npt.NDArray[np.generic], size: int) -> Floats:
    """Return (size,) float64: the sum of the values of each code."""
    return np.bincount(codes, values, size).astype(np.float64)


def merge_references(first: Reference, second: Reference) -> Reference:
    """Return the first where it says something, and the second elsewhere."""
    gap = first.says < 0
    levels = int(first.level.max(initial=0)) + 1
    return Reference(
        np.where(gap, second.says, first.says),
        np.where(gap, second.odds, first.odds),
        np.where(gap, second.level + levels, first.level),
        np.where(gap, second.by_text, first.by_text),
        first.evidence,
        first.prior,
    )


def tokenise(text: str) -> list[str]:
    """Return the distinct words of a text, case folded, sorted; character pairs without spaces."""
    folded = text.casefold()
    words = set(_WORD.findall(folded))
    for run in _SPACELESS.findall(folded):
        words.discard(run)
        words.update(run[i : i + 2] for i in range(len(run) - 1))
    return sorted(words)


def count_tokens(texts: Sequence[str], min_texts: int) -> tuple[tuple[str, ...], "csr_array"]:
    """Return the tokens of at least `min_texts` texts, and (texts, tokens) of 0 and 1."""
    from scipy.sparse import csr_array

    code: dict[str, int] = {}
    indices: list[int] = []
    ends = [0]
    for text in texts:
        indices.extend(code.setdefault(word, len(code)) for word in tokenise(text))
        ends.append(len(indices))
    column = np.array(indices, np.int64)
    words = list(code)
    kept = np.bincount(column, minlength=len(words)) >= min_texts
    order = sorted(np.flatnonzero(kept).tolist(), key=lambda i: words[i])
    position = np.full(len(words), -1, np.int64)
    position[order] = np.arange(len(order))
    end = np.concatenate([[0], np.cumsum(kept[column])])[ends] if len(column) else np.array(ends)
    new = position[column] if len(column) else column
    new = new[new >= 0]
    matrix = csr_array((np.ones(len(new)), new, end), shape=(len(texts), len(order)))
    return tuple(words[i] for i in order), matrix


def consult_texts(votes: Votes) -> Reference:
    """Return for each vote what a text model says that saw no row of its annotator's fold.

    Naive Bayes over words: whole counts, so no order of rows changes a sum. Folds are drawn by
    the annotator's name, or by the text where there are fewer annotators than folds, so that an
    annotator's own poison does not vouch for itself.
    """
    count, classes = len(votes.item), len(votes.labels)
    words, presence = count_tokens(votes.texts, 2)
    if classes < 2 or not words or classes * len(words) > _MAX_CELLS:
        return no_reference(count)
    presence = presence[votes.item]
    named = (
        (*votes.names, None) if len(votes.names) >= 2 * _FOLDS else [None] * (len(votes.names) + 1)
    )
    people, items = votes.annotator.tolist(), votes.item.tolist()
    keys = [named[a] or votes.texts[i] for a, i in zip(people, items, strict=True)]
    fold = np.array([hashlib.sha256(key.encode(errors="replace")).digest()[0] for key in keys])
    says, odds = np.full(count, -1, np.int64), np.zeros(count)
    for one in range(_FOLDS):
        apart = fold % _FOLDS == one
        if apart.any() and not apart.all():
            says[apart], odds[apart] = _predict(presence, votes.label, apart, classes)
    edges = np.quantile(odds, np.arange(1, _MODEL_BINS) / _MODEL_BINS)
    level = np.searchsorted(edges, odds).astype(np.int64)
    return replace(
        no_reference(count), says=says, odds=odds, level=level, by_text=np.ones(count, bool)
    )


def _predict(
    presence: "csr_array", label: Integers, apart: npt.NDArray[np.bool_], classes: int
) -> tuple[Integers, Floats]:
    """Return the label of the rows apart and how sure it is, learnt from all other rows."""
    from scipy.sparse import csr_array

    rest = np.flatnonzero(~apart)
    one_hot = csr_array(
        (np.ones(len(rest)), (label[rest], np.arange(len(rest)))), shape=(classes, len(rest))
    )
    counts = (one_hot @ presence[rest]).toarray()
    rows = np.bincount(label[rest], minlength=classes)
    present = np.log(counts + 0.5) - np.log(rows + 1.0)[:, None]
    scores = (presence[np.flatnonzero(apart)] @ present.T) + np.log(rows + 0.5)
    return decide(scores)
