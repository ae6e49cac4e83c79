"""Sources over time: quarantine, changes since the last snapshot, drift of labels and words."""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import SourceShiftLimits
from pedigree.poisoning.source_shift import (
    SnapshotRows,
    _divergence,
    find_snapshot_changes,
    find_source_drift,
    find_source_shift,
    find_young_rows,
)

LIMITS = SourceShiftLimits()
NOW = datetime(2026, 5, 1, tzinfo=UTC)
TOPICS = [[f"t{t}w{i}" for i in range(60)] for t in range(4)]


def make_rows(
    count: int, seed: int, prefix: str, source: str = "shop", topic: int = 0, yes: float = 0.5
) -> SnapshotRows:
    draw = random.Random(f"{seed}{prefix}{source}")
    return SnapshotRows(
        [f"{prefix}-{source}-{i}" for i in range(count)],
        [source] * count,
        ["yes" if draw.random() < yes else "no" for _ in range(count)],
        [" ".join(draw.choices(TOPICS[topic], k=8)) for _ in range(count)],
    )


def join(*parts: SnapshotRows) -> SnapshotRows:
    return SnapshotRows(
        [x for p in parts for x in p.keys],
        [x for p in parts for x in p.sources],
        [x for p in parts for x in p.labels],
        [x for p in parts for x in p.texts or []],
    )


SOURCES = ("shop", "forum", "press", "mail")
OLD = join(*(make_rows(300, 1, "old", source) for source in SOURCES))


def test_young_rows_are_named_by_source() -> None:
    ages: list[datetime | None] = [NOW - timedelta(days=d) for d in (1, 6.9, 7, 30)]
    result = find_young_rows(["a", "b", "b", "b"], [*ages], NOW, LIMITS)
    assert [one.row for one in result.findings] == [0, 1]
    assert [one.group for one in result.findings] == ["a", "b"]
    assert result.passed
    assert result.severity == "WARN"
    assert result.counts["by_source"] == {"a": 1, "b": 1}
    assert result.findings[0].score > result.findings[1].score


def test_a_policy_can_block_young_rows_and_future_ones_count() -> None:
    times = [NOW + timedelta(days=1), NOW - timedelta(days=90), None]
    result = find_young_rows(["a"] * 3, times, NOW, SourceShiftLimits(max_young_share=0.4))
    assert not result.passed
    assert result.counts["rows_from_the_future"] == 1
    assert result.counts["rows_without_time"] == 1
    exact = SourceShiftLimits(max_young_share=0.5)
    assert find_young_rows(["a"] * 3, times, NOW, exact).passed


def test_times_without_zone_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(PedigreeError, match="time zone"):
        find_young_rows(["a"], [datetime(2026, 1, 1)], NOW, LIMITS)
    with pytest.raises(PedigreeError, match="one of each"):
        find_young_rows(["a"], [NOW, NOW], NOW, LIMITS)
    with pytest.raises(PedigreeError, match="unique"):
        SnapshotRows(["k", "k"], ["a", "a"], ["x", "x"])
    with pytest.raises(PedigreeError, match="one table"):
        SnapshotRows(["k"], ["a", "a"], ["x"])


def test_without_a_previous_snapshot_nothing_is_judged() -> None:
    results = find_source_shift(OLD, None, LIMITS)
    assert [one.check for one in results] == [
        "quarantine_window",
        "snapshot_changes",
        "source_drift",
    ]
    for one in results:
        assert one.passed
        assert one.counts["applicable"] is False
        assert one.summary.startswith("not applicable: ")


def test_an_unchanged_snapshot_and_honest_growth_are_quiet() -> None:
    same = find_snapshot_changes(OLD, OLD, LIMITS)
    assert same.passed
    assert same.findings == ()
    grown = join(OLD, *(make_rows(100, 2, "new", source) for source in SOURCES))
    for result in find_source_shift(grown, OLD, LIMITS):
        assert result.passed
        assert result.findings == ()


@pytest.mark.parametrize(("count", "passed"), [(1, True), (4, True), (5, False), (20, False)])
def test_relabelled_rows_warn_and_block_beyond_the_limit(count: int, passed: bool) -> None:
    labels = list(OLD.labels)
    rows = random.Random(0).sample(range(300), count)
    for row in rows:
        labels[row] = "yes" if labels[row] == "no" else "no"
    result = find_snapshot_changes(
        SnapshotRows(OLD.keys, OLD.sources, labels, OLD.texts), OLD, LIMITS
    )
    assert result.passed is passed
    assert [one.row for one in result.findings] == sorted(rows)
    assert {one.severity for one in result.findings} == {"WARN" if passed else "ERROR"}
    assert result.counts["relabelled"] == count
    assert ("shop" in result.summary) is not passed


def test_a_source_that_grows_alone_is_named_and_others_are_not() -> None:
    flood = join(
        OLD, make_rows(500, 3, "new", "mail"), *(make_rows(20, 3, "new", s) for s in SOURCES[:3])
    )
    result = find_snapshot_changes(flood, OLD, LIMITS)
    assert result.counts["grown_sources"] == ["mail"]
    assert {one.group for one in result.findings} == {"mail"}
    assert len(result.findings) == 500
    assert result.passed
    assert result.counts["added"] == 560
    fresh = join(OLD, make_rows(500, 3, "new", "blog"))
    assert find_snapshot_changes(fresh, OLD, LIMITS).counts["new_sources"] == ["blog"]


def test_removed_rows_are_counted_by_source_and_label() -> None:
    kept = [i for i in range(1200) if not (300 <= i < 600 and OLD.labels[i] == "no")]
    less = SnapshotRows(
        [OLD.keys[i] for i in kept], [OLD.sources[i] for i in kept], [OLD.labels[i] for i in kept]
    )
    result = find_snapshot_changes(less, OLD, LIMITS)
    assert result.counts["removed"] == 1200 - len(kept)
    assert result.counts["by_source_and_label"] == [
        {"source": "forum", "label": "no", "added": 0, "removed": 1200 - len(kept), "relabelled": 0}
    ]


@pytest.mark.parametrize("what", ["labels", "words"])
def test_a_source_that_moves_is_named_with_where_it_goes(what: str) -> None:
    moved = make_rows(
        120,
        4,
        "new",
        "press",
        topic=1 if what == "words" else 0,
        yes=0.9 if what == "labels" else 0.5,
    )
    current = join(OLD, moved, *(make_rows(120, 4, "new", s) for s in ("shop", "forum", "mail")))
    result = find_source_drift(current, OLD, LIMITS)
    assert result.counts["sources_moved"] == ["press"]
    assert result.passed
    assert result.severity == "WARN"
    assert {one.group for one in result.findings} == {"press"}
    assert all(1200 <= one.row < 1320 for one in result.findings)
    if what == "labels":
        assert {current.labels[one.row] for one in result.findings} == {"yes"}


def test_where_all_sources_move_together_none_is_named() -> None:
    current = join(OLD, *(make_rows(120, 5, "new", source, yes=0.75) for source in SOURCES))
    assert find_source_drift(current, OLD, LIMITS).counts["sources_moved"] == []


def test_too_few_rows_are_not_judged() -> None:
    result = find_source_drift(join(OLD, make_rows(29, 6, "new", "press")), OLD, LIMITS)
    assert result.counts["applicable"] is False
    assert "30" in result.summary


def test_honest_sources_are_rarely_named() -> None:
    alarms = 0
    for seed in range(20):
        current = join(OLD, *(make_rows(60, 100 + seed, "new", source) for source in SOURCES))
        alarms += bool(find_source_drift(current, OLD, LIMITS).findings)
    assert alarms <= 1


def test_row_order_changes_nothing() -> None:
    moved = make_rows(120, 4, "new", "press", yes=0.9)
    current = join(OLD, moved, make_rows(120, 4, "new", "shop"))
    order = list(range(len(current.keys)))
    random.Random(1).shuffle(order)
    texts = current.texts or []
    shuffled = SnapshotRows(
        [current.keys[i] for i in order],
        [current.sources[i] for i in order],
        [current.labels[i] for i in order],
        [texts[i] for i in order],
    )
    for one, other in zip(
        find_source_shift(current, OLD, LIMITS),
        find_source_shift(shuffled, OLD, LIMITS),
        strict=True,
    ):
        assert one.counts == other.counts
        assert one.summary == other.summary
        assert {(f.row, f.score) for f in one.findings} == {
            (order[f.row], f.score) for f in other.findings
        }


def test_empty_tables_are_not_judged() -> None:
    empty = SnapshotRows([], [], [], [])
    for one in find_source_shift(empty, empty, LIMITS, [], NOW):
        assert one.passed
        assert one.counts["applicable"] is False


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=8))
def test_the_divergence_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs, float).T + 1e-12 + np.eye(2, len(pairs))
    assert _divergence(left, right) == pytest.approx(jensenshannon(left, right, 2) ** 2, abs=1e-9)
