"""Floods of near-copies: who sends them, whether at once, and what stays quiet."""

import random

import numpy as np
import pytest

from pedigree.evidence.check_limits import FloodLimits
from pedigree.findings import CheckResult
from pedigree.neighbours.local import find_near_duplicates
from pedigree.poisoning.floods import find_floods, order_of_arrival

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LIMITS = FloodLimits()


def make_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(3, 8))) for _ in range(2000)]
    return [" ".join(draw.choices(words, k=draw.randint(8, 30))) for _ in range(count)]


def copies_of(text: str, count: int) -> list[str]:
    """Return copies with one word put in, all different."""
    words = text.split()
    return [" ".join([*words[: i % 7], f"w{i}", *words[i % 7 :]]) for i in range(count)]


CLEAN = make_texts(1000)


def flagged(result: CheckResult) -> dict[int, str]:
    return {finding.row: finding.severity for finding in result.findings}


def test_clean_texts_have_no_flood() -> None:
    result = find_floods(CLEAN, LIMITS, sources=["a"] * 500 + ["b"] * 500)
    assert (result.passed, result.findings, result.severity) == (True, (), "INFO")
    assert result.counts["largest_flood"] == 1


def test_a_flood_names_every_copy_its_source_and_its_moment() -> None:
    texts = [*CLEAN, *copies_of(CLEAN[3], 80)]
    sources = ["shop"] * 1000 + ["web"] * 80
    labels = ["good"] * 1080
    arrival = np.concatenate([np.linspace(0, 1, 1000, endpoint=False), np.linspace(0.5, 0.52, 80)])
    result = find_floods(texts, LIMITS, sources, labels, arrival)
    assert not result.passed
    assert flagged(result) == {3: "ERROR", **dict.fromkeys(range(1000, 1080), "ERROR")}
    assert "web 80, shop 1" in result.summary
    assert "at once: 80% of them within" in result.summary
    assert "79 of 80 rows of web are near-copies (30% may)" in result.summary
    assert result.counts["near_copies_by_source"] == {"shop": 0, "web": 79}
    assert result.counts["texts_across_sources"] == {"shop and web": 1}
    (example,) = result.examples
    assert (example["rows"], example["labels"]) == (81, {"good": 81})


def test_a_flood_over_a_long_time_is_called_spread_out() -> None:
    texts = [*CLEAN, *copies_of(CLEAN[3], 80)]
    arrival = np.concatenate([np.linspace(0, 1, 1000, endpoint=False), np.linspace(0, 1, 80)])
    assert (
        "spread out: 80% of them within 79.7%"
        in find_floods(texts, LIMITS, arrival=arrival).summary
    )
    assert "in an order that is not known" in find_floods(texts, LIMITS).summary


@pytest.mark.parametrize(
    ("copies", "outcome"), [(48, "INFO"), (49, "WARN"), (100, "WARN"), (400, "ERROR")]
)
def test_the_number_of_copies_decides(copies: int, outcome: str) -> None:
    texts = [*make_texts(6000, 1), *copies_of(CLEAN[3], copies), CLEAN[3]]
    result = find_floods(texts, LIMITS)
    assert result.severity == outcome
    assert len(result.findings) == (copies + 1 if outcome != "INFO" else 0)


def test_a_source_that_is_made_of_many_small_groups_of_copies_fails() -> None:
    texts = [*make_texts(4000, 2), *(c for text in CLEAN[:40] for c in copies_of(text, 3))]
    sources = ["honest"] * 4000 + ["farm"] * 120
    result = find_floods(texts, LIMITS, sources)
    assert not result.passed
    assert result.counts["floods"] == 0
    assert set(flagged(result)) == set(range(4000, 4120))
    assert {finding.group for finding in result.findings} == {"source farm"}
    honest = find_floods(texts, LIMITS, ["honest"] * 4120)
    assert honest.passed


def test_equal_rows_are_a_flood_too() -> None:
    result = find_floods(["the same line"] * 100, LIMITS)
    assert not result.passed
    assert len(result.findings) == 100


def test_what_was_found_before_gives_the_same_result() -> None:
    texts = [*CLEAN, *copies_of(CLEAN[3], 80)]
    found = find_near_duplicates(texts, 0.7)
    assert find_floods(texts, LIMITS, found=found) == find_floods(texts, LIMITS)


def test_the_order_of_rows_changes_nothing() -> None:
    texts = [*CLEAN[:300], *copies_of(CLEAN[3], 80)]
    sources = ["a"] * 300 + ["b"] * 80
    order = list(range(380))
    random.Random(1).shuffle(order)
    one = find_floods(texts, LIMITS, sources)
    other = find_floods([texts[i] for i in order], LIMITS, [sources[i] for i in order])
    assert one.counts == other.counts
    named = {texts[row]: severity for row, severity in flagged(one).items()}
    assert named == {texts[order[row]]: severity for row, severity in flagged(other).items()}


def test_empty_tables_are_handled() -> None:
    assert find_floods([], LIMITS).passed
    assert find_floods([""], LIMITS, ["a"]).passed


def test_arrival_goes_by_key_within_each_source() -> None:
    sources = ["a", "b", "a", "a", "b", "b"]
    keys = ["10", "x2", "9", "100", "x1", None]
    assert order_of_arrival(sources, keys)[:5].tolist() == [1 / 3, 0.5, 0.0, 2 / 3, 0.0]
    assert np.isnan(order_of_arrival(sources, keys)[5])
