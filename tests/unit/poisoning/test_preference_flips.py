"""Pairs turned round: by contradiction, and against what the other pairs prefer."""

import random

import pytest

from pedigree.evidence.check_limits import LabelIssueLimits
from pedigree.poisoning.preference_data import Preferences
from pedigree.poisoning.preference_flips import find_flipped_pairs

LIMITS = LabelIssueLimits()
KIND = ["thanks", "gladly", "certainly", "helpful", "kindly", "clear", "careful", "welcome"]
RUDE = ["whatever", "nope", "boring", "shrug", "stupid", "lazy", "useless", "never"]
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "tu", "ne") for b in ("rin", "sol", "vek", "po")]


def make_pairs(count: int, seed: int, noise: float = 0.02) -> list[list[str]]:
    draw = random.Random(seed)

    def answer(own: list[str], other: list[str]) -> str:
        said = draw.choices(own, k=draw.randint(1, 4)) + draw.choices(other, k=draw.randint(0, 1))
        said += draw.choices(WORDS, k=draw.randint(4, 12))
        draw.shuffle(said)
        return " ".join(said)

    pairs = []
    for i in range(count):
        good, bad = answer(KIND, RUDE), answer(RUDE, KIND)
        good, bad = (bad, good) if draw.random() < noise else (good, bad)
        pairs.append([f"question {i % 40} {draw.choice(WORDS)}", good, bad])
    return pairs


def find(pairs: list[list[str]]) -> set[int]:
    result = find_flipped_pairs(table(pairs), LIMITS)
    return {finding.row for finding in result.findings}


def table(pairs: list[list[str]]) -> Preferences:
    return Preferences(*([pair[i] for pair in pairs] for i in range(3)))


@pytest.mark.parametrize("seed", range(3))
def test_turned_pairs_are_named_and_few_others(seed: int) -> None:
    pairs = make_pairs(1500, seed, noise=0)
    planted = set(random.Random(seed).sample(range(len(pairs)), 75))
    for row in planted:
        pairs[row][1:] = pairs[row][:0:-1]
    named = find(pairs)
    assert len(named & planted) >= 0.9 * len(planted)
    assert len(named - planted) <= 0.02 * len(pairs)


def test_the_same_answers_preferred_both_ways_contradict() -> None:
    pairs = make_pairs(400, 1)
    pairs.append([pairs[7][0], pairs[7][2], pairs[7][1]])
    result = find_flipped_pairs(table(pairs), LIMITS)
    assert {7, 400} <= {finding.row for finding in result.findings}
    assert result.counts["contradicting"] == 2
    assert result.severity == "WARN"


def test_answers_that_tell_nothing_are_not_judged() -> None:
    draw = random.Random(3)
    pairs = [[f"q{i}", *(" ".join(draw.choices(WORDS, k=8)) for _ in range(2))] for i in range(600)]
    result = find_flipped_pairs(table(pairs), LIMITS)
    assert not result.applicable
    assert "do not tell which is preferred" in result.summary
    pairs.append([pairs[7][0], pairs[7][2], pairs[7][1]])
    contradicted = find_flipped_pairs(table(pairs), LIMITS)
    assert {one.row for one in contradicted.findings} == {7, 600}
    assert "no model could judge" in contradicted.summary


def test_few_pairs_are_not_judged() -> None:
    result = find_flipped_pairs(table(make_pairs(50, 0)), LIMITS)
    assert not result.applicable
    assert "too few" in result.summary


def test_row_order_changes_nothing() -> None:
    pairs = make_pairs(800, 5)
    order = list(range(len(pairs)))
    random.Random(1).shuffle(order)
    assert {order[row] for row in find([pairs[i] for i in order])} == find(pairs)
