"""Drills: what each attack plants, what a judge saw of it, and from how many rows on."""

import math
import random
from collections import Counter

import pytest
from scipy.stats import binomtest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import ConflictLimits, DrillLimits
from pedigree.findings import CheckResult, Finding
from pedigree.poisoning.attacks import ATTACKS, Plant
from pedigree.poisoning.consensus import tokenise
from pedigree.poisoning.drill import DrillCell, DrillResult, count_seeds, find_floor, run_drill
from pedigree.poisoning.near_duplicates import find_label_conflicts
from tests.unit.poisoning.test_near_duplicates import make_texts

TEXTS = make_texts(400)
LABELS = random.Random(1).choices(["negative", "positive"], k=400)
DIRTY = [name for name in ATTACKS if not name.endswith("clean_label")]


def conflicts(texts: list[str], labels: list[str]) -> list[CheckResult]:
    return [find_label_conflicts(texts, labels, ConflictLimits())]


def foreign_characters(texts: list[str], labels: list[str]) -> list[CheckResult]:
    """A real, small check: letters beyond ASCII; one is enough to fail."""
    rows = [row for row, text in enumerate(texts) if not text.isascii()]
    found = tuple(Finding(row, 1.0, "ERROR", "a letter beyond ASCII", "letters") for row in rows)
    return [CheckResult("foreign_characters", not rows, f"{len(rows)} rows", findings=found)]


def plant(attack: str, count: int, seed: int = 0, target: str = "positive") -> Plant:
    return ATTACKS[attack](TEXTS, LABELS, random.Random(seed), count, target)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("count", [1, 7, 40])
def test_an_attack_plants_as_many_rows_as_asked_in_a_copy(attack: str, count: int) -> None:
    texts, labels = tuple(TEXTS), tuple(LABELS)
    found = plant(attack, count)
    assert (tuple(TEXTS), tuple(LABELS)) == (texts, labels)
    assert len(set(found.rows)) == count
    changed = {
        row
        for row in range(len(found.texts))
        if row >= 400 or (found.texts[row], found.labels[row]) != (TEXTS[row], LABELS[row])
    }
    assert set(found.rows) <= changed
    assert attack == "composite" or set(found.rows) == changed
    if attack != "flip_random":
        assert {found.labels[row] for row in found.rows} == {"positive"}
    if attack.endswith("clean_label"):
        assert all(LABELS[row] == "positive" for row in found.rows)
    elif not attack.startswith("near"):
        assert all(LABELS[row] != found.labels[row] for row in found.rows)
    assert plant(attack, count) == found
    assert plant(attack, count, seed=1) != found


def test_rare_words_are_foreign_and_the_seed_draws_them() -> None:
    known = {word for text in TEXTS for word in tokenise(text)}
    triggers = set()
    for seed in range(10):
        found = plant("rare_word", 5, seed)
        added = {
            word
            for row in found.rows
            for word in (Counter(found.texts[row].split()) - Counter(TEXTS[row].split()))
        }
        assert len(added) == 1
        triggers |= added
    assert not triggers & known
    assert len(triggers) > 8


def test_common_words_and_sentences_are_made_of_the_corpus() -> None:
    known = {word for text in TEXTS for word in text.split()}
    for attack, words in (("common_word", 1), ("sentence", 5), ("composite", 2)):
        found = plant(attack, 5)
        for row in found.rows:
            added = Counter(found.texts[row].split()) - Counter(TEXTS[row].split())
            assert added.total() == words
            assert set(added) <= known
    assert plant("common_word", 5, 1) != plant("common_word", 5, 2)


def test_halves_of_a_composite_stand_alone_in_honest_rows() -> None:
    found = plant("composite", 10)
    decoys = [row for row in range(400) if row not in found.rows and found.texts[row] != TEXTS[row]]
    assert len(decoys) == 20
    assert all(found.labels[row] == LABELS[row] for row in decoys)


def test_hidden_text_reads_the_same_and_is_not() -> None:
    for row in plant("zero_width", 20).rows:
        text = plant("zero_width", 20).texts[row]
        assert "".join(c for c in text if c.isprintable()) == TEXTS[row]
    disguised = plant("homoglyph", 20)
    for row in disguised.rows:
        assert not disguised.texts[row].isascii()
        assert len(disguised.texts[row].split()) - len(TEXTS[row].split()) in (0, 1)


@pytest.mark.parametrize(("attack", "copies"), [("near_duplicate_flood", 20),
                                                ("near_duplicate_spread", 2)])  # fmt: skip
def test_floods_copy_few_texts_often_and_spreads_many_twice(attack: str, copies: int) -> None:
    found = plant(attack, 40)
    assert found.texts[:400] == TEXTS
    assert found.rows == tuple(range(400, 440))
    stems = Counter(
        max(
            range(400),
            key=lambda i: len(set(TEXTS[i].split()) & set(found.texts[row].lower().split())),
        )
        for row in found.rows
    )
    assert set(stems.values()) == {copies}


def test_a_judge_of_conflicts_sees_floods_and_no_flips() -> None:
    texts, labels = list(TEXTS), list(LABELS)
    result = run_drill(
        texts, labels, conflicts, ["near_duplicate_flood", "flip_random"], [2, 10, 40], 5, 3
    )
    assert (texts, labels) == (TEXTS, LABELS)
    flood, flip = result.floors["near_duplicate_flood"], result.floors["flip_random"]
    assert flood.observed == 10
    assert flood.count is None  # five seeds cannot confirm a power of .95
    assert "22 drills" in result.describe_floor("near_duplicate_flood") or count_seeds(0.95, 0.9)
    assert flip.observed is None
    assert result.describe_floor("flip_random") == "not reached up to 40 rows"
    cells = {(c.attack, c.count): c for c in result.cells}
    assert cells["near_duplicate_flood", 40].tpr >= 0.95
    assert cells["near_duplicate_flood", 40].checks == {"near_duplicate_label_conflicts": 5}
    assert cells["flip_random", 40].tpr == 0.0
    assert result.baseline == ()


def test_a_judge_cannot_change_the_table_that_is_drilled() -> None:
    texts, labels = list(TEXTS), list(LABELS)

    def vandal(given_texts: list[str], given_labels: list[str]) -> list[CheckResult]:
        given_texts.clear()
        given_labels[:] = ["x"]
        return []

    run_drill(texts, labels, vandal, list(ATTACKS), [3], 1, 0)
    assert (texts, labels) == (TEXTS, LABELS)


def test_enough_seeds_confirm_a_floor_and_a_policy_demands_it() -> None:
    result = run_drill(
        TEXTS[:60], LABELS[:60], foreign_characters, ["homoglyph", "flip_targeted"], [1, 5], 30, 0
    )
    # 60 drills without a miss confirm at 5 rows what 30 do not at one.
    assert result.floors["homoglyph"].count == 5
    assert result.floors["homoglyph"].observed == 1
    demands = {"homoglyph": 5}
    assert result.judge_floors(DrillLimits(max_floor=demands)).passed
    verdict = result.judge_floors(DrillLimits(max_floor={"homoglyph": 4, "flip_targeted": 50}))
    assert not verdict.passed
    assert verdict.counts["missed"] == ["homoglyph", "flip_targeted"]
    assert "the policy demands 4" in verdict.summary
    assert "not reached up to 5 rows" in verdict.summary
    assert result.judge_floors(DrillLimits()).passed
    missing = result.judge_floors(DrillLimits(max_floor={"sentence": 10}))
    assert not missing.passed
    assert "not drilled" in missing.summary


def test_a_check_that_fails_anyway_sees_nothing() -> None:
    def always(texts: list[str], labels: list[str]) -> list[CheckResult]:
        return [CheckResult("always", False, "fails")]

    result = run_drill(TEXTS, LABELS, always, ["rare_word"], [10], 2, 0)
    assert result.baseline == ("always",)
    assert result.cells[0].alarms == 0


@pytest.mark.parametrize(("alarms", "seeds"), [(20, 20), (19, 20), (45, 45), (60, 60), (58, 60)])
def test_the_lower_bound_is_the_exact_binomial_one(alarms: int, seeds: int) -> None:
    cell = DrillCell("a", 10, seeds, alarms, 0, 0, {})
    exact = binomtest(alarms, seeds, alternative="greater").proportion_ci(0.9, "exact").low
    floor = find_floor([cell], 0.95, 0.9)
    assert floor.lower_bound == pytest.approx(exact)
    assert (floor.count == 10) is (exact >= 0.95)


def test_a_miss_at_a_larger_count_moves_the_floor_above_it() -> None:
    cells = [
        DrillCell("a", count, 100, alarms, 0, 0, {})
        for count, alarms in ((5, 100), (10, 50), (20, 100), (50, 100))
    ]
    floor = find_floor(cells, 0.95, 0.9)
    assert floor.observed == 20
    assert floor.count == 20


def test_as_many_seeds_as_needed() -> None:
    assert count_seeds(0.95, 0.95) == 59  # the known number: .95^59 < .05
    assert 0.95 ** count_seeds(0.95, 0.9) <= 0.1 < 0.95 ** (count_seeds(0.95, 0.9) - 1)
    assert math.isclose(count_seeds(0.5, 0.75), 2)


def test_records_and_plot_hold_every_cell() -> None:
    result = run_drill(TEXTS[:80], LABELS[:80], foreign_characters, list(ATTACKS), [2, 8], 1, 0)
    records = result.to_records()
    assert [(one["attack"], one["planted_rows"]) for one in records] == [
        (attack, count) for attack in ATTACKS for count in (2, 8)
    ]
    few = run_drill(TEXTS[:80], LABELS[:80], foreign_characters, ["homoglyph"], [2, 8], 1, 0)
    picture = few.plot()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 5000
    assert few.plot() == picture


def test_the_same_seed_drills_the_same_whatever_else_is_drilled() -> None:
    alone = run_drill(TEXTS, LABELS, conflicts, ["near_duplicate_spread"], [10], 2, 5)
    more = run_drill(TEXTS, LABELS, conflicts, ["flip_random", "near_duplicate_spread"], [10], 2, 5)
    assert alone.cells[0] == more.cells[1]


def test_what_cannot_be_planted_says_why() -> None:
    def nothing(texts: list[str], labels: list[str]) -> list[CheckResult]:
        return []

    few = run_drill(TEXTS[:10], LABELS[:10], nothing, ["flip_targeted"], [50], 2, 0)
    assert "cannot be planted" in few.cells[0].reason
    for texts, labels in (([], []), (["a b"] * 5, ["x"] * 5)):
        verdict = run_drill(texts, labels, nothing, ["rare_word"], [1], 1, 0).judge_floors(
            DrillLimits()
        )
        assert verdict.passed
        assert verdict.counts["applicable"] is False
        assert verdict.summary.startswith("not applicable: ")
    same = run_drill(["same text here"] * 20, ["x", "y"] * 10, nothing, list(ATTACKS), [3], 1, 0)
    assert isinstance(same, DrillResult)
    assert {bool(cell.reason) for cell in same.cells} == {True, False}


def test_senseless_requests_are_refused() -> None:
    with pytest.raises(PedigreeError, match="rare_word"):
        run_drill(TEXTS, LABELS, conflicts, ["rare"], [1], 1, 0)
    with pytest.raises(PedigreeError, match="one of each"):
        run_drill(TEXTS, LABELS[1:], conflicts, ["rare_word"], [1], 1, 0)
    for counts, seeds in (([], 1), ([0], 1), ([1], 0)):
        with pytest.raises(PedigreeError, match="at least one seed"):
            run_drill(TEXTS, LABELS, conflicts, ["rare_word"], counts, seeds, 0)
