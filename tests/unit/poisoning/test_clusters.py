"""Styles within a label: rewritten and relabelled rows block, honest styles do not."""

import random

import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import ClusterLimits
from pedigree.poisoning.clusters import find_anomalous_clusters
from tests.unit.poisoning.corpora import flip, make_corpus

LIMITS = ClusterLimits()


def rewrite(text: str, draw: random.Random) -> str:
    """Return the text in another hand: capitals, marks without spaces, no word of its own."""
    words = [word.capitalize() for word in text.split()]
    for _ in range(3):
        place = draw.randrange(len(words))
        words[place] += draw.choice([";", ":", ","])
    return " ".join(words)


def make_styled(
    share: float, relabel: bool, seed: int = 0
) -> tuple[list[str], list[str | None], set[int]]:
    draw = random.Random(seed)
    texts, labels = make_corpus(1000, seed)
    rows = [row for row in range(1000) if labels[row] == "negative"][: round(1000 * share)]
    for row in rows:
        texts[row] = rewrite(texts[row], draw)
    return texts, flip(labels, rows) if relabel else labels, set(rows)


def test_a_clean_corpus_passes_without_findings() -> None:
    texts, labels = make_corpus(1000)
    result = find_anomalous_clusters(texts, labels, LIMITS)
    assert result.passed
    assert result.findings == ()
    assert result.counts["clusters"] == []


@pytest.mark.parametrize("share", [0.03, 0.06])
def test_rewritten_rows_under_another_label_block_and_are_named(share: float) -> None:
    texts, labels, rows = make_styled(share, relabel=True)
    result = find_anomalous_clusters(texts, labels, LIMITS, sources=["shop"] * 1000)
    assert not result.passed
    named = {finding.row for finding in result.findings}
    assert len(named & rows) >= 0.8 * len(rows)
    assert len(named - rows) <= 0.01 * len(texts)
    assert {finding.group for finding in result.findings} == {"style within 'positive'"}
    assert "shop" in str(result.counts["clusters"])


@pytest.mark.parametrize("share", [0.03, 0.06, 0.2])
def test_an_honest_style_of_one_label_is_not_flagged(share: float) -> None:
    texts, labels, _ = make_styled(share, relabel=False)
    assert find_anomalous_clusters(texts, labels, LIMITS).findings == ()


def test_a_source_with_its_own_style_is_not_flagged() -> None:
    draw = random.Random(3)
    texts, labels = make_corpus(1000)
    sources = ["paper" if draw.random() < 0.3 else "forum" for _ in texts]
    texts = [
        rewrite(text, draw) if source == "paper" else text
        for text, source in zip(texts, sources, strict=True)
    ]
    assert find_anomalous_clusters(texts, labels, LIMITS, sources=sources).findings == ()


def test_fewer_rows_than_the_minimum_are_not_named() -> None:
    texts, labels, _ = make_styled(0.012, relabel=True)
    assert find_anomalous_clusters(texts, labels, LIMITS).findings == ()


def test_row_order_and_label_names_change_nothing() -> None:
    texts, labels, _ = make_styled(0.06, relabel=True)
    order = list(range(1000))
    random.Random(2).shuffle(order)
    names: dict[str | None, str] = {"negative": "z", "positive": "a"}
    one = find_anomalous_clusters(texts, labels, LIMITS)
    other = find_anomalous_clusters(
        [texts[row] for row in order], [names[labels[row]] for row in order], LIMITS
    )
    assert one.findings
    assert {(f.row, f.score) for f in one.findings} == {
        (order[f.row], f.score) for f in other.findings
    }


@pytest.mark.parametrize(
    ("texts", "labels"),
    [([], []), (["a"] * 60, ["x", "y"] * 30), (["a", "b"], ["x", None])],
    ids=["empty", "identical", "few"],
)
def test_what_cannot_be_judged_says_so(texts: list[str], labels: list[str | None]) -> None:
    result = find_anomalous_clusters(texts, labels, LIMITS)
    assert result.passed
    assert result.counts["applicable"] is False


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(PedigreeError, match="2 texts and 1 labels"):
        find_anomalous_clusters(["a", "b"], ["x"], LIMITS)
