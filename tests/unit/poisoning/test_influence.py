"""Closed-form influence against leaving each row out, and what it lists."""

import random

import numpy as np
import pytest

from pedigree.evidence.check_limits import InfluenceLimits
from pedigree.poisoning.influence import RIDGE, find_influential_rows, measure_influence
from tests.unit.poisoning.corpora import flip, make_corpus

LIMITS = InfluenceLimits()


def test_influence_is_what_leaving_the_row_out_does() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    features, label = draw.normal(size=(40, 6)), draw.integers(0, 3, 40)
    target = np.eye(3)[label]

    def solve(rows: list[int]) -> np.ndarray:
        x = features[rows]
        return np.linalg.solve(x.T @ x + RIDGE * np.eye(6), x.T @ target[rows])

    whole = solve(list(range(40)))
    expected = [
        np.abs(features[i] @ (whole - solve([j for j in range(40) if j != i]))).sum()
        for i in range(40)
    ]
    assert measure_influence(features, label, 3) == pytest.approx(np.asarray(expected))


def test_flipped_rows_are_ten_times_as_frequent_among_those_listed() -> None:
    texts, labels = make_corpus(1500)
    rows = random.Random(1).sample(range(1500), 15)
    result = find_influential_rows(texts, flip(labels, rows), LIMITS)
    listed = {finding.row for finding in result.findings}
    assert len(listed) == 15
    assert len(listed & set(rows)) / 15 >= 10 * 0.01
    assert result.passed
    assert result.severity == "INFO"


def test_row_order_and_label_names_change_nothing() -> None:
    texts, labels = make_corpus(400)
    order = list(range(400))
    random.Random(2).shuffle(order)
    names: dict[str | None, str] = {"negative": "z", "positive": "a"}
    one = find_influential_rows(texts, labels, LIMITS)
    other = find_influential_rows(
        [texts[row] for row in order], [names[labels[row]] for row in order], LIMITS
    )
    assert {(f.row, f.score) for f in one.findings} == {
        (order[f.row], f.score) for f in other.findings
    }


@pytest.mark.parametrize(
    ("texts", "labels"),
    [([], []), (["a"] * 60, ["x", "y"] * 30), (["a", "b"], ["x", None])],
    ids=["empty", "identical", "few"],
)
def test_what_cannot_be_judged_says_so(texts: list[str], labels: list[str | None]) -> None:
    result = find_influential_rows(texts, labels, LIMITS)
    assert result.passed
    assert result.counts["applicable"] is False
