"""Annotators: simulated crowds over generated texts, clean, poisoned and near the threshold."""

import random
import re
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import AnnotatorLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.annotators import find_annotator_manipulation
from pedigree.poisoning.consensus import (
    consult_texts,
    consult_votes,
    count_tokens,
    encode_votes,
    tokenise,
)
from pedigree.poisoning.crowd import adjust, select_by_evidence, weigh_hostility
from pedigree.poisoning.targeting import list_directions, tail_probability, weigh_words

LIMITS = AnnotatorLimits()
TOKEN = "harbour"
WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300)]


@dataclass
class Crowd:
    """Votes by column, and who was planted."""

    items: list[str]
    annotators: list[str | None]
    labels: list[str | None]
    texts: list[str]
    truth: list[str]

    def check(self, gold: list[str | None] | None = None) -> CheckResult:
        return find_annotator_manipulation(
            self.items, self.annotators, self.labels, LIMITS, self.texts, gold
        )


def make_crowd(seed: int, items: int = 500, people: int = 40, votes: int = 6) -> Crowd:
    """Annotators of varying skill and number of votes; one text in six holds the token."""
    draw = random.Random(seed)
    skill = {f"ann{i:02d}": draw.uniform(0.78, 0.97) for i in range(people)}
    weight = [1 / (1 + i) ** 0.5 for i in range(people)]
    crowd = Crowd([], [], [], [], [])
    for i in range(items):
        words = draw.sample(WORDS, 8) + [TOKEN] * (draw.random() < 1 / 6)
        draw.shuffle(words)
        truth = draw.choice(["no", "yes"])
        chosen: set[str] = set()
        while len(chosen) < votes:
            chosen.add(draw.choices(list(skill), weight)[0])
        for name in sorted(chosen):
            right = draw.random() < skill[name]
            crowd.items.append(f"item{i:04d}")
            crowd.annotators.append(name)
            crowd.labels.append(truth if right else {"no": "yes", "yes": "no"}[truth])
            crowd.texts.append(" ".join(words))
            crowd.truth.append(truth)
    return crowd


def collude(
    crowd: Crowd, names: set[str], target: str = "no", everywhere: bool = False
) -> set[int]:
    """Let `names` cast the target on texts with the token; return the votes that changed."""
    changed = {
        row
        for row, name in enumerate(crowd.annotators)
        if name in names
        and (everywhere or TOKEN in crowd.texts[row].split())
        and crowd.labels[row] != target
    }
    for row in changed:
        crowd.labels[row] = target
    return changed


def named(result: CheckResult) -> set[str]:
    return {one.group for one in result.findings if one.severity != "INFO"}


def applicable(result: CheckResult) -> bool:
    return bool(result.counts["applicable"])


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_crowd_names_nobody(seed: int) -> None:
    result = make_crowd(seed).check()
    assert result.passed
    assert applicable(result)
    assert named(result) == set()
    assert result.counts["targets"] == []


@pytest.mark.parametrize("seed", range(3))
def test_colluders_on_a_word_block_and_are_named_with_their_votes(seed: int) -> None:
    crowd = make_crowd(seed)
    planted = {"ann03", "ann07"}
    changed = collude(crowd, planted)
    result = crowd.check()
    assert not result.passed
    assert named(result) == planted
    errors = [one for one in result.findings if one.severity == "ERROR"]
    assert {one.group for one in errors} == planted
    rows = {one.row for one in errors}
    # A text on which the rest says "no" as well shows nothing.
    assert len(rows & changed) >= 0.7 * len(changed)
    assert all(crowd.annotators[one.row] == one.group for one in errors)
    assert all(TOKEN in crowd.texts[row] and crowd.labels[row] == "no" for row in rows)
    assert repr(TOKEN) in result.summary
    assert "'no'" in errors[0].reason
    assert {one["annotator"] for one in result.examples} >= planted


def test_the_ranking_of_annotators_reaches_the_demanded_area() -> None:
    areas = []
    for seed in range(3):
        crowd = make_crowd(seed + 10, people=60)
        planted = {"ann05", "ann20"}
        collude(crowd, planted)
        best: dict[str, float] = {}
        for one in crowd.check().findings:
            best[one.group] = max(best.get(one.group, 0.0), one.score)
        everybody = sorted({name for name in crowd.annotators if name})
        areas.append(
            roc_auc_score([n in planted for n in everybody], [best.get(n, 0) for n in everybody])
        )
    assert np.mean(areas) >= 0.8


def test_a_vote_or_two_on_a_word_do_not_block() -> None:
    crowd = make_crowd(2)
    rows = [
        row
        for row, name in enumerate(crowd.annotators)
        if name == "ann30" and TOKEN in crowd.texts[row].split()
    ]
    for row in rows[:2]:
        crowd.labels[row] = "no"
    assert crowd.check().passed


def test_who_always_casts_one_label_is_warned_about() -> None:
    crowd = make_crowd(5)
    collude(crowd, {"ann02"}, "yes", everywhere=True)
    result = crowd.check()
    assert result.passed
    assert result.severity == "WARN"
    assert named(result) == {"ann02"}


def test_annotators_who_err_together_are_warned_about() -> None:
    crowd = make_crowd(6, items=700)
    draw = random.Random(0)
    wrong = {item: draw.random() < 0.25 for item in sorted(set(crowd.items))}
    flip = {"no": "yes", "yes": "no"}
    for row, name in enumerate(crowd.annotators):
        if name in {"ann00", "ann01", "ann02"}:  # one person with three accounts
            truth = crowd.truth[row]
            crowd.labels[row] = flip[truth] if wrong[crowd.items[row]] else truth
    result = crowd.check()
    assert named(result) == {"ann00", "ann01", "ann02"}
    assert "moves with others" in result.summary


def test_who_is_good_only_on_gold_questions_is_warned_about() -> None:
    crowd = make_crowd(7)
    known = set(sorted(set(crowd.items))[::4])
    gold = [crowd.truth[row] if item in known else None for row, item in enumerate(crowd.items)]
    draw = random.Random(1)
    for row, name in enumerate(crowd.annotators):
        if name == "ann01":
            crowd.labels[row] = crowd.truth[row] if gold[row] else draw.choice(["no", "yes"])
    result = crowd.check(gold)
    assert named(result) == {"ann01"}
    assert "games gold questions" in result.summary
    assert named(make_crowd(7).check(gold)) == set()


def test_single_votes_are_judged_by_a_model_of_the_other_annotators_rows() -> None:
    draw = random.Random(3)
    texts: list[str] = []
    labels: list[str | None] = []
    annotators: list[str | None] = []
    for _ in range(1500):
        label = draw.choice(["bad", "good"])
        half = WORDS[:100] if label == "bad" else WORDS[100:200]
        words = draw.sample(half, 4) + draw.sample(WORDS[200:], 4)
        texts.append(" ".join(words + [TOKEN] * (draw.random() < 0.15)))
        labels.append(label)
        annotators.append(f"ann{draw.randrange(30):02d}")
    clean = find_annotator_manipulation(texts, annotators, labels, LIMITS)
    assert clean.passed
    assert named(clean) == set()
    for row, name in enumerate(annotators):
        if name in {"ann04", "ann09"} and TOKEN in texts[row].split():
            labels[row] = "good"
    poisoned = find_annotator_manipulation(texts, annotators, labels, LIMITS)
    assert not poisoned.passed
    assert named(poisoned) == {"ann04", "ann09"}


def test_votes_without_an_annotator_are_counted_and_blame_nobody() -> None:
    crowd = make_crowd(0)
    collude(crowd, {"ann03", "ann07"})
    for row in range(0, len(crowd.annotators), 10):
        crowd.annotators[row] = None
    result = crowd.check()
    assert result.counts["votes_without_annotator"] == len(range(0, len(crowd.annotators), 10))
    assert named(result) == {"ann03", "ann07"}
    assert all(crowd.annotators[one.row] is not None for one in result.findings)


def test_row_order_and_label_names_change_nothing() -> None:
    crowd = make_crowd(1)
    collude(crowd, {"ann03", "ann07"})
    first = crowd.check()
    order = list(range(len(crowd.items)))
    random.Random(4).shuffle(order)
    renamed = {"no": "zz", "yes": "aa"}
    second = find_annotator_manipulation(
        [crowd.items[i] for i in order],
        [crowd.annotators[i] for i in order],
        [renamed[str(crowd.labels[i])] for i in order],
        LIMITS,
        [crowd.texts[i] for i in order],
    )
    back = {order[one.row]: one for one in second.findings}
    assert sorted(back) == [one.row for one in first.findings]
    for one in first.findings:
        assert (back[one.row].score, back[one.row].severity, back[one.row].group) == (
            one.score,
            one.severity,
            one.group,
        )
    assert crowd.check() == first


@pytest.mark.parametrize(
    ("items", "annotators", "labels", "reason"),
    [
        ([], [], [], "no votes"),
        (["a", "b"], [None, None], ["x", "y"], "no vote has an annotator"),
        (["a", "b", "c"], ["p", "q", "p"], ["x", "y", "x"], "2 annotators"),
        (["a", "b", "c"], ["p", "q", "r"], ["x", "x", "x"], "all votes are equal"),
        (["a", "b", "c"], ["p", "q", "r"], [None, None, None], "no votes"),
        (["a", "b", "c"], ["p", "q", "r"], ["x", "y", "x"], "no vote can be compared"),
    ],
)
def test_what_cannot_be_judged_says_why(
    items: list[str], annotators: list[str | None], labels: list[str | None], reason: str
) -> None:
    result = find_annotator_manipulation(items, annotators, labels, LIMITS)
    assert result.passed
    assert not applicable(result)
    assert result.summary.startswith("not applicable: ")
    assert reason in result.summary
    assert result.findings == ()


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(PedigreeError, match="one table"):
        find_annotator_manipulation(["a"], ["p", "q"], ["x"], LIMITS)


def test_many_labels_and_a_long_text_are_no_trouble() -> None:
    count = 3000
    items = [f"i{i // 3}" for i in range(count)]
    people: list[str | None] = [f"a{i % 7}" for i in range(count)]
    labels: list[str | None] = [f"label {i // 3}" for i in range(count)]
    texts = ["x y " * 50_000 if i < 3 else f"text {i // 3}" for i in range(count)]
    result = find_annotator_manipulation(items, people, labels, LIMITS, texts)
    assert result.passed
    assert named(result) == set()


def test_twice_the_votes_cost_about_twice_as_much() -> None:
    spent = []
    for items in (1000, 4000):
        crowd = make_crowd(0, items=items)
        start = time.process_time()
        crowd.check()
        spent.append(time.process_time() - start)
    assert spent[1] < 12 * spent[0]  # four times the votes; a wide margin for a busy machine


def test_leave_one_out_consensus_is_what_the_other_votes_say() -> None:
    crowd = make_crowd(3, items=300)
    votes = encode_votes(crowd.items, crowd.annotators, crowd.labels)
    reference = consult_votes(votes)
    agree = same = 0
    for vote in range(len(votes.row)):
        others = [
            crowd.labels[row]
            for row in range(len(crowd.items))
            if crowd.items[row] == crowd.items[votes.row[vote]] and row != votes.row[vote]
        ]
        lead = others.count("no") - others.count("yes")
        if abs(lead) >= 3:  # weights of skill cannot overturn three votes more
            agree += 1
            same += votes.labels[reference.says[vote]] == ("no" if lead > 0 else "yes")
    assert agree > 500
    assert same == agree


def test_items_with_fewer_than_three_votes_have_no_consensus() -> None:
    votes = encode_votes(["a", "a", "b", "b", "b"], list("pqpqr"), list("xyxxy"))
    assert (consult_votes(votes).says >= 0).tolist() == [False, False, True, True, True]


def test_hits_and_opportunities_are_those_counted_by_hand() -> None:
    crowd = make_crowd(4, items=200)
    votes = encode_votes(crowd.items, crowd.annotators, crowd.labels, crowd.texts)
    reference = consult_votes(votes)
    words, presence = count_tokens(votes.texts, 2)
    direction = list_directions(votes, reference)[0]
    evidence = weigh_words(votes, direction, presence)
    code = words.index(TOKEN)
    expected: dict[int, list[int]] = {}
    for vote, row in enumerate(votes.row.tolist()):
        if re.search(rf"\b{TOKEN}\b", crowd.texts[row]) and reference.says[vote] != direction.label:
            cell = expected.setdefault(int(votes.annotator[vote]), [0, 0])
            cell[0] += votes.label[vote] == direction.label
            cell[1] += 1
    at = np.flatnonzero(evidence.word == code)
    found = {
        int(evidence.annotator[i]): [int(evidence.hits[i]), int(evidence.chances[i])]
        for i in at.tolist()
    }
    assert found == expected


def test_a_text_model_never_reads_its_annotators_own_rows() -> None:
    texts = [f"common filler {'alpha' if i % 2 else 'beta'} text" for i in range(400)]
    people: list[str | None] = [f"a{i % 40}" for i in range(400)]
    labels: list[str | None] = ["x" if i % 2 else "y" for i in range(400)]
    for i in range(0, 400, 40):  # one annotator has a secret word of his own
        texts[i], labels[i] = "secretword", "x"
    votes = encode_votes([f"i{i}" for i in range(400)], people, labels, texts)
    reference = consult_texts(votes)
    own = votes.annotator == votes.names.index("a0")
    assert reference.odds[own].max() < reference.odds[~own].min()


@given(st.lists(st.text("ab 語漢", max_size=12), max_size=8), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_tokens_are_counted_as_by_hand(texts: list[str], least: int) -> None:
    words, matrix = count_tokens(texts, least)
    sets = [set(tokenise(text)) for text in texts]
    everything = set().union(*sets) if sets else set()
    assert list(words) == sorted(w for w in everything if sum(w in s for s in sets) >= least)
    dense = matrix.toarray()
    for row, one in enumerate(sets):
        assert {w for w, x in zip(words, dense[row], strict=True) if x} == one & set(words)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30))
@settings(deadline=None)
def test_q_values_are_those_of_scipy(p_values: list[float]) -> None:
    assert adjust(np.array(p_values)) == pytest.approx(false_discovery_control(p_values))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
@settings(deadline=None)
def test_evidence_is_selected_as_defined(values: list[float]) -> None:
    count = max(
        (k for k in range(1, len(values) + 1)
         if sorted(values)[-k] >= len(values) / (k * 0.05)), default=0
    )  # fmt: skip
    assert int(select_by_evidence(np.array(values), 0.05).sum()) == count


def test_hostility_of_guessing_annotators_is_rarely_large() -> None:
    """An e-value exceeds x with a probability of at most 1/x."""
    draw = random.Random(0)
    crowd = make_crowd(8, items=600, people=60)
    for row in range(len(crowd.labels)):
        if int(str(crowd.annotators[row])[3:]) % 2:
            crowd.labels[row] = draw.choice(["no", "yes"])
    votes = encode_votes(crowd.items, crowd.annotators, crowd.labels)
    values = weigh_hostility(votes, consult_votes(votes), LIMITS.tolerated_disagreement)
    assert (values > 20).mean() <= 0.05


def test_the_tail_falls_with_the_evidence() -> None:
    largest = np.random.default_rng(0).gumbel(5, 1, 400)
    assert tail_probability(5.0, largest) == pytest.approx(1 - np.exp(-1), abs=0.06)
    assert tail_probability(11.0, largest) == pytest.approx(1 - np.exp(-np.exp(-6)), rel=0.7)
