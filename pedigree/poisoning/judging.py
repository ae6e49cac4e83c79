"""What the other rows say about a row's label: scores of linear models that never saw the row.

Near-copies lie in one fold, so that a row is not judged by its own copy. Folds follow from the
digests of the texts: neither row order nor label names change them::

    >>> folds = assign_folds(corpus, seed=0)
    >>> judgement = judge(featurise(corpus.texts).matrix, corpus, folds, share=0.015)
    >>> suspect = judgement.doubt > judgement.threshold
"""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pedigree.neighbours.local import find_near_duplicates
from pedigree.poisoning.features import (
    Booleans,
    Floats,
    Integers,
    LabelledTexts,
    count_columns,
    mix,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FOLDS = 5
# Pairs of Jaccard similarity .6 or more go into one fold.
COPY_SIMILARITY = 0.6
# Out-of-fold accuracy on SST-2, SMS spam and BANKING77 is flat between .1 and .5.
REGULARISATION = 0.2
# Rows times labels that one model is trained on: beyond it a sample of the rows is learned from,
# all are scored. At 77 labels that is 26,000 rows.
MAX_TRAINING = 2_000_000
# Scores stand for log-odds once scaled; both grids span what the corpora measured needed.
SLOPES = np.geomspace(0.25, 32, 43)
MAX_CALIBRATION = 20_000
BIAS_STEPS = 4
MAX_BIAS = 0.5
# The likeliest label must be e times as likely as the given one, however clear the corpus.
MIN_DOUBT = 1.0
START_NOISE, MAX_NOISE, NOISE_STEPS = 0.02, 0.5, 5


@dataclass(frozen=True)
class HeldOut:
    """Scores of models that never saw the row.

    Attributes:
        scores: (rows, labels) float64, higher is likelier; -inf for a label that the model of
            that fold never saw.
        fold: (rows,) int64.
        weights: for each fold (labels, columns), what each column adds to each score.
    """

    scores: Floats
    fold: Integers
    weights: tuple[Floats, ...]


@dataclass(frozen=True)
class Calibration:
    """Scores as probabilities of the true label, apart from the share of wrong labels.

    A label is read from the text, or else given whatever the text says, each label with a share of
    its own. Without that term 5% of flips would make every honest row look 5% doubtful; with one
    share for all labels, an attacker who pushes one of them would look like an unclear text.

    Attributes:
        probability: (rows, labels) float64, of each label being the true one.
        bias: (labels,) float64.
        slope: what a score is multiplied with.
        noise: (labels,) share of all rows that were given the label whatever they say.
        fit: gain in log-likelihood over a model that knows the labels' frequencies only.
    """

    probability: Floats
    bias: Floats
    slope: float
    noise: Floats
    fit: float


@dataclass(frozen=True)
class Judgement:
    """What the other rows say about each row's label.

    Attributes:
        held_out: the scores and the models behind them.
        calibration: what makes them probabilities.
        scores: (rows, labels) float64, log-odds up to a constant a row.
        doubt: (rows,) float64, how far the likeliest label is ahead of the given one in log-odds;
            0 where they are the same, nan where the given label could not be judged.
        threshold: doubt beyond which a row is flagged.
        share: the share of correct rows that may be flagged, from which the threshold follows.
        expected: (rows,) float64, probability that the row, if its label is correct, is flagged.
        flaggable: (rows, labels) bool, whether the row would be flagged under that label.
    """

    held_out: HeldOut
    calibration: Calibration
    scores: Floats
    doubt: Floats
    threshold: float
    share: float
    expected: Floats
    flaggable: Booleans


def judge(
    features: "csr_array",
    corpus: LabelledTexts,
    fold: Integers,
    share: float,
    unlearned: Booleans | None = None,
) -> Judgement:
    """Score rows out of fold and set the threshold at which `share` of correct rows are flagged.

    The threshold comes from the models' own probabilities and not from the labels in doubt: if a
    row's label is k with probability q_k, a correct row is flagged with probability
    sum_k q_k [doubt of k > threshold]. So poison does not move it. On SST-2, SMS spam, BANKING77
    and four sources of Hutto and Gilbert (2014) .015 asked for gave .009 to .019.

    Args:
        features: (rows, columns) what to learn from.
        corpus: the rows.
        fold: (rows,) from `assign_folds`.
        share: share of correct rows that may be flagged.
        unlearned: (rows,) rows that are judged and never learned from.
    """
    learned = np.ones(len(fold), bool) if unlearned is None else ~unlearned
    held_out = score_out_of_fold(features, corpus.label, fold, len(corpus.names), learned)
    calibration = calibrate(held_out.scores, corpus.label, learned)
    return _judge(held_out, calibration, corpus.label, share)


def judge_scores(scores: Floats, label: Integers, share: float) -> Judgement:
    """Judge rows by scores that somebody else's model gave them; it never saw the row either."""
    calibration = calibrate(scores, label, np.ones(len(label), bool))
    held_out = HeldOut(scores, np.zeros(len(label), np.int64), ())
    return _judge(held_out, calibration, label, share)


def judge_by(
    features: "csr_array",
    corpus: LabelledTexts,
    fold: Integers,
    others: "csr_array",
    judged: LabelledTexts,
    share: float,
) -> tuple[Judgement, float]:
    """Judge other rows by a model of the corpus, calibrated out of fold on the corpus itself.

    Returns:
        The judgement of the others, and the gain in log-likelihood that the model has (`fit`).
    """
    learned = np.ones(len(fold), bool)
    labels = len(corpus.names)
    inside = score_out_of_fold(features, corpus.label, fold, labels, learned)
    calibration = calibrate(inside.scores, corpus.label, learned)
    weight, intercept = fit(features, corpus.label, np.arange(len(fold)), labels)
    scores = np.asarray(others @ weight.T + intercept)
    held_out = HeldOut(scores, np.zeros(len(judged.row), np.int64), (weight,))
    probability = _softmax(scores * calibration.slope + calibration.bias)
    applied = replace(calibration, probability=probability)
    return _judge(held_out, applied, judged.label, share), calibration.fit


def _judge(held_out: HeldOut, calibration: Calibration, label: Integers, share: float) -> Judgement:
    scores = held_out.scores * (calibration.slope or 1.0) + calibration.bias
    top = scores.max(axis=1, keepdims=True)
    known = np.isfinite(scores)
    margins = np.where(
        known, np.where(np.isfinite(top), top, 0) - np.where(known, scores, 0), np.inf
    )
    threshold = _set_threshold(margins, calibration.probability, share)
    given = margins[np.arange(len(label)), label]
    doubt = np.where(np.isfinite(given), given, np.nan)
    flaggable = margins > threshold
    expected = (calibration.probability * flaggable).sum(axis=1)
    return Judgement(held_out, calibration, scores, doubt, threshold, share, expected, flaggable)


def _set_threshold(margins: Floats, probability: Floats, share: float) -> float:
    finite = np.isfinite(margins)
    order = np.argsort(-margins[finite], kind="stable")
    mass = np.cumsum(probability[finite][order])
    place = int(np.searchsorted(mass, share * len(margins)))
    if place >= len(order):
        return MIN_DOUBT
    return max(round(float(margins[finite][order[place]]), 6), MIN_DOUBT)


def assign_folds(corpus: LabelledTexts, seed: int) -> Integers:
    """Return (rows,) the fold of each row: one for all near-copies, by digest and seed."""
    if not corpus.texts:
        return np.empty(0, np.int64)
    component = find_near_duplicates(corpus.texts, COPY_SIMILARITY).components()
    # Rows are in order of their digests, so a component's first row is its smallest digest.
    salt = np.asarray([seed], np.int64).astype(np.uint64)
    return (mix(corpus.digest[component] ^ mix(salt)) % np.uint64(FOLDS)).astype(np.int64)


def score_out_of_fold(
    features: "csr_array", label: Integers, fold: Integers, labels: int, learned: Booleans
) -> HeldOut:
    """Score each row by a linear support vector machine trained on the learned rows elsewhere.

    Squared hinge, one label against the rest (Fan et al. 2008, LIBLINEAR), in canonical row order
    and one thread, so that the same rows give the same bits.
    """
    scores = np.full((len(label), labels), -np.inf)
    weights: list[Floats] = []
    for one in range(FOLDS):
        inside = np.flatnonzero(fold == one)
        weight, intercept = fit(features, label, np.flatnonzero((fold != one) & learned), labels)
        weights.append(weight)
        if len(inside):
            scores[inside] = features[inside] @ weight.T + intercept
    return HeldOut(scores, fold, tuple(weights))


def fit(
    features: "csr_array", label: Integers, rows: Integers, labels: int
) -> tuple[Floats, Floats]:
    """Return (labels, columns) weights and (labels,) intercepts; -inf for a label without rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    weight = np.zeros((labels, count_columns(features)))
    intercept = np.full(labels, -np.inf)
    rows = _sample(rows, labels)
    present = np.unique(label[rows])
    if len(present) < 2:
        intercept[present] = 0
        return weight, intercept
    model = LinearSVC(
        C=REGULARISATION,
        dual=True,  # pyright: ignore[reportArgumentType]
        random_state=0,
        max_iter=1000,
    )
    with warnings.catch_warnings():
        # Stopping after as many steps each time is what makes the bits equal; close is enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features[rows], label[rows])
    if len(present) == 2:
        weight[present] = np.concatenate([-model.coef_, model.coef_])
        intercept[present] = np.concatenate([-model.intercept_, model.intercept_])
    else:
        weight[present], intercept[present] = model.coef_, model.intercept_
    return weight, intercept


def _sample(rows: Integers, labels: int) -> Integers:
    """Return at most as many rows as may be trained on: canonical order is random order."""
    return rows[:: max(1, -(-len(rows) * labels // MAX_TRAINING))]


def calibrate(scores: Floats, label: Integers, learned: Booleans) -> Calibration:
    """Fit what makes scores probabilities, and the share of wrong labels, by likelihood.

    P(given k) = (1 - sum of noise) softmax(slope * score + bias)_k + noise_k: labels drift, and an
    attacker pushes one of them. The biases make the expected number of rows of each label the given
    one less its noise (Platt scaling with one slope, Platt 1999); the noise follows by expectation
    and maximisation.
    """
    rows = np.flatnonzero(np.isfinite(scores[np.arange(len(label)), label]) & learned)
    rows = rows[:: max(1, len(rows) // MAX_CALIBRATION)]
    some, given = scores[rows], label[rows]
    labels = scores.shape[1]
    none = _fit_mixture(np.where(np.isfinite(some), 0.0, -np.inf), given, _Mixture.start(labels))
    best = Calibration(np.empty(0), np.zeros(labels), 0.0, np.zeros(labels), -np.inf)
    mixture = _Mixture.start(labels)
    for slope in SLOPES.tolist():
        mixture = _fit_mixture(some * slope, given, mixture)
        if mixture.fit > best.fit:
            best = Calibration(np.empty(0), mixture.bias, slope, mixture.noise, mixture.fit)
    gain = (best.fit - none.fit) * len(rows)
    return replace(best, probability=_softmax(scores * best.slope + best.bias), fit=gain)


@dataclass(frozen=True)
class _Mixture:
    """Biases, shares of wrong labels and mean log-likelihood of one slope."""

    bias: Floats
    noise: Floats
    fit: float

    @staticmethod
    def start(labels: int) -> "_Mixture":
        return _Mixture(np.zeros(labels), np.full(labels, START_NOISE / labels), -np.inf)


def _fit_mixture(scores: Floats, label: Integers, start: _Mixture) -> _Mixture:
    """Fit biases and noise in turn, from those of the slope before."""
    labels, count = scores.shape[1], max(len(label), 1)
    bias, noise = start.bias, np.maximum(start.noise, START_NOISE / labels / 10)
    frequency = np.bincount(label, minlength=labels) / count
    place = np.arange(len(label))
    # Rounded, so that the order of summation cannot show.
    for _ in range(BIAS_STEPS):
        probability = _softmax(scores + bias)
        own = probability[place, label]
        for _ in range(NOISE_STEPS):
            blame = noise[label] / ((1 - noise.sum()) * own + noise[label])
            noise = np.round(np.bincount(label, blame, labels) / count, 12)
            noise *= min(1.0, MAX_NOISE / max(noise.sum(), 1e-12))
        wanted = np.maximum(frequency - noise, 1e-9) / (1 - noise.sum())
        step = np.log(wanted / np.maximum(probability.mean(axis=0), 1e-9))
        bias = np.round(np.clip(bias + step, -MAX_BIAS, MAX_BIAS), 9)
    own = _softmax(scores + bias)[place, label]
    mixed = (1 - noise.sum()) * own + noise[label]
    return _Mixture(bias, noise, round(float(np.log(np.maximum(mixed, 1e-12)).mean()), 9))


def _softmax(values: Floats) -> Floats:
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
