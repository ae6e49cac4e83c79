"""Label conflicts: clean, poisoned and near-threshold corpora, and who is the copy of whom."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import ConflictLimits, LeakageLimits
from pedigree.evidence.policy import load_policy
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding
from pedigree.poisoning.near_duplicates import find_label_conflicts
from tests.conftest import REPOSITORY
from tests.unit.neighbours import oracle

LIMITS = ConflictLimits()
TWO = ["negative", "positive"]
MANY = [f"intent {number}" for number in range(12)]
Labels = list[str | None]


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of 16 to 24 words that have nothing in common but some words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(oracle.LETTERS, k=draw.randint(4, 8))) for _ in range(4000)]
    return [" ".join(draw.sample(words, draw.randint(16, 24))) for _ in range(count)]


def make_labels(count: int, names: Sequence[str] = TWO, seed: int = 1) -> Labels:
    return list(random.Random(seed).choices(names, k=count))


def edit(text: str, draw: random.Random) -> str:
    """Return a copy with a word put in, left out or exchanged, loud or not; .88 alike or more."""
    words = text.split()
    i = draw.randrange(len(words))
    new = "".join(draw.choices(oracle.LETTERS, k=6))
    kind = draw.randrange(3)
    if kind == 0:
        words.insert(i, new)
    elif kind == 1:
        del words[i]
    else:
        words[i] = new
    copy = " ".join(words)
    return f"{copy}!".upper() if draw.random() < 0.3 else copy


def similarity(one: str, other: str) -> float:
    sets = [oracle.views(oracle.normalise(text)) for text in (one, other)]
    return float(Fraction(*oracle.overlap(*sets)))


def another(label: str | None, names: Sequence[str], draw: random.Random) -> str:
    return draw.choice([name for name in names if name != label])


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """P(X >= successes), summed by hand."""
    return sum(
        math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
        for k in range(successes, trials + 1)
    )


def plant(
    texts: list[str], labels: Labels, victims: Sequence[int], copies: int, target: str | None = None
) -> tuple[list[str], Labels]:
    """Append edited copies of each victim with `target` as label, or its own where that is None."""
    draw = random.Random(7)
    added = [(edit(texts[i], draw), target or labels[i]) for i in victims for _ in range(copies)]
    return [*texts, *(text for text, _ in added)], [*labels, *(label for _, label in added)]


def victims_of(labels: Labels, target: str, count: int) -> list[int]:
    return [row for row, label in enumerate(labels) if label != target][:count]


def flagged(result: CheckResult, *severities: str) -> list[int]:
    return [f.row for f in result.findings if f.severity in (severities or ("WARN", "ERROR"))]


def grades(result: CheckResult) -> Counter[str]:
    return Counter(finding.severity for finding in result.findings)


def test_the_defaults_are_the_policy_of_this_repository() -> None:
    checks = load_policy(REPOSITORY / "policy.yaml").checks
    assert checks.near_duplicate_label_conflicts == LIMITS
    assert checks.evaluation_leakage == LeakageLimits()


@pytest.mark.parametrize("names", [TWO, MANY])
def test_a_clean_corpus_passes_without_findings(names: Sequence[str]) -> None:
    texts, labels = make_texts(1000), make_labels(1000, names)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.passed
    assert result.severity == "INFO"
    assert result.findings == ()
    assert result.examples == ()
    assert result.counts["rows"] == 1000
    for name in ("rows_in_conflict", "rows_blamed", "texts_in_dispute"):
        assert result.counts[name] == 0
    assert result.counts["labels_blamed"] == []


def test_near_copies_with_the_same_label_are_no_conflict() -> None:
    texts, labels = plant(make_texts(500), make_labels(500), range(100), 1)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.severity == "INFO"
    assert result.findings == ()
    assert result.counts["texts_in_dispute"] == 0
    neighboured = result.counts["texts_with_near_duplicate"]
    assert isinstance(neighboured, int)
    assert neighboured >= 198


@pytest.mark.parametrize("names", [TWO, MANY])
@pytest.mark.parametrize(
    ("victims", "copies"), [(1, 20), (2, 10), (10, 3), (30, 3)], ids=["flood", "two", "few", "many"]
)
def test_the_copies_of_a_flood_or_a_spread_are_named_and_no_original(
    names: Sequence[str], victims: int, copies: int
) -> None:
    texts, labels = make_texts(600), make_labels(600, names)
    target = names[-1]
    texts, labels = plant(texts, labels, victims_of(labels, target, victims), copies, target)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert not result.passed
    assert result.severity == "ERROR"
    named = flagged(result)
    assert [row for row in named if row < 600] == []
    assert len(named) >= 0.9 * victims * copies
    assert len(flagged(result, "ERROR")) >= 0.9 * len(named)
    if victims >= 10:
        # Of more than two labels the most frequent rival is left out: one victim tells nothing.
        assert result.counts["labels_blamed"] == [target]
        assert repr(target) in result.summary
    assert result.summary.startswith(f"{len(named)} rows are copies")
    assert "drop or relabel" in result.summary


def test_what_a_finding_says_is_true() -> None:
    texts, labels = make_texts(600), make_labels(600)
    texts, labels = plant(texts, labels, victims_of(labels, "positive", 10), 3, "positive")
    result = find_label_conflicts(texts, labels, LIMITS)
    origin = {600 + i: victims_of(labels, "positive", 10)[i // 3] for i in range(30)}
    assert len(result.findings) > 25
    for finding in result.findings:
        rival = origin[finding.row]
        assert finding.score == pytest.approx(similarity(texts[finding.row], texts[rival]))
        assert finding.reason.startswith(
            f"{finding.score:.2f} alike to row {rival}, which is labelled 'negative' and not "
            "'positive', "
        )
        assert finding.group == f"near-duplicates of row {rival}"


def single_pairs(count: int, rows: int = 400) -> tuple[list[str], Labels]:
    """Return a corpus with `count` disputed pairs .9 alike or more, none of them clear."""
    texts, labels = make_texts(rows), make_labels(rows)
    for i in range(count):
        texts.append(f"{texts[i]} so")
        labels.append("positive" if labels[i] == "negative" else "negative")
        assert similarity(texts[i], texts[-1]) >= LIMITS.warn_similarity
    return texts, labels


@pytest.mark.parametrize(("pairs", "passed"), [(1, True), (2, True), (3, False), (20, False)])
def test_of_a_single_pair_both_are_named_for_a_person_to_tell(pairs: int, passed: bool) -> None:
    texts, labels = single_pairs(pairs)
    result = find_label_conflicts(texts, labels, LIMITS)
    # Two texts in dispute a pair; the policy wants six.
    assert result.counts["texts_in_dispute"] == 2 * pairs
    assert result.passed is passed
    assert flagged(result) == [*range(pairs), *range(400, 400 + pairs)]
    assert grades(result) == {"WARN" if passed else "ERROR": 2 * pairs}
    assert all("do not tell" in finding.reason for finding in result.findings)
    for finding in result.findings:
        partner = finding.row + 400 if finding.row < 400 else finding.row - 400
        assert f"row {partner}," in finding.reason


@pytest.mark.parametrize("names", [TWO, MANY])
@pytest.mark.parametrize("copies", [2, 10])
@pytest.mark.parametrize("mark", ["!", " {}"], ids=["equal", "nearly equal"])
def test_many_copies_that_hardly_differ_are_named_though_they_outnumber_the_original(
    names: Sequence[str], copies: int, mark: str
) -> None:
    texts, labels = make_texts(600), make_labels(600, names)
    target = names[-1]
    for i in victims_of(labels, target, 10):
        texts += [texts[i] + mark.format(number) for number in range(copies)]
        labels += [target] * copies
    result = find_label_conflicts(texts, labels, LIMITS)
    assert not result.passed
    # Their texts do not tell who copied whom: both sides are for a person to look at.
    assert set(range(600, len(texts))) <= set(flagged(result, "ERROR"))


def test_clear_disputes_tell_which_side_of_an_unclear_one_is_the_copy() -> None:
    texts, labels = make_texts(600), make_labels(600)
    victims = victims_of(labels, "positive", 30)
    texts, labels = plant(texts, labels, victims[:10], 3, "positive")
    texts, labels = plant(texts, labels, victims[10:], 1, "positive")
    result = find_label_conflicts(texts, labels, LIMITS)
    assert [row for row in flagged(result) if row < 600] == []
    assert set(range(630, 650)) <= set(flagged(result, "ERROR"))
    reasons = [finding.reason for finding in result.findings if finding.row >= 630]
    assert all(reason.endswith("is the one that clear disputes blame") for reason in reasons)


@pytest.mark.parametrize("agreeing", [0, 20, 40, 60, 100, 200])
def test_a_natural_share_of_disputes_warns_and_one_beyond_chance_blocks(agreeing: int) -> None:
    texts, labels = make_texts(500), make_labels(500)
    texts, labels = plant(texts, labels, range(agreeing), 1)
    for i in range(490, 500):  # ten disputed pairs
        texts.append(f"{texts[i]} so")
        labels.append("positive" if labels[i] == "negative" else "negative")
    pairs = [(i, 500 + i) for i in range(agreeing)]
    pairs += [(490 + i, agreeing + 500 + i) for i in range(10)]
    close = {
        oracle.normalise(texts[i])
        for pair in pairs
        for i in pair
        if similarity(texts[pair[0]], texts[pair[1]]) >= LIMITS.decisive_similarity
    }
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.counts["texts_in_dispute"] == 20
    assert result.counts["texts_with_near_duplicate"] == len(close)
    tail = binomial_tail(20, len(close), LIMITS.natural_share)
    assert result.counts["binomial_tail"] == pytest.approx(tail, rel=1e-9)
    assert result.passed is (tail >= LIMITS.significance)
    assert f"20 of {len(close)} distinct texts" in result.summary


def test_both_outcomes_of_the_share_were_seen() -> None:
    assert binomial_tail(20, 60, 0.1) < 0.001 < binomial_tail(20, 140, 0.1)


def alike(one: str, share: float) -> str:
    """Return a text that has this share of its words in common with `one`, at the front."""
    words = one.split()
    kept = round(len(words) * 2 * share / (1 + share))
    return " ".join([*words[:kept], *(f"new{i}" for i in range(len(words) - kept))])


@pytest.mark.parametrize(
    ("share", "grade"), [(0.72, "INFO"), (0.8, "INFO"), (0.86, "INFO"), (0.95, "WARN")]
)
def test_a_pair_is_worth_a_look_from_the_similarity_of_the_policy_on(
    share: float, grade: str
) -> None:
    (base,) = make_texts(1, 3)
    base = " ".join(base.split()[:16]) + " " + " ".join(make_texts(1, 4)[0].split()[:15])
    other = alike(base, share)
    value = similarity(base, other)
    assert LIMITS.similarity <= value
    assert (value >= LIMITS.warn_similarity) == (grade == "WARN")
    result = find_label_conflicts([*make_texts(50), base, other], [*TWO * 25, *TWO], LIMITS)
    assert result.passed
    assert grades(result) == {grade: 2}
    assert result.severity == grade
    assert result.counts["rows_in_conflict"] == 2
    assert result.counts["rows_blamed"] == (2 if grade == "WARN" else 0)


def test_pairs_between_the_two_similarities_are_reported_and_never_block() -> None:
    texts, labels = make_texts(300), make_labels(300)
    planted = 0
    for i in range(300):
        copy = alike(texts[i], 0.78)
        if 0.72 < similarity(texts[i], copy) < 0.84:
            texts.append(copy)
            labels.append("positive" if labels[i] == "negative" else "negative")
            planted += 1
    assert planted > 100
    result = find_label_conflicts(texts, labels, LIMITS)
    in_conflict = result.counts["rows_in_conflict"]
    assert isinstance(in_conflict, int)
    assert 2 * planted >= in_conflict >= 2 * planted - 20  # a few share no band
    assert result.counts["texts_in_dispute"] == 0
    assert result.passed
    assert set(grades(result)) == {"INFO"}


def test_where_the_check_fails_what_is_decided_is_an_error() -> None:
    texts, labels = make_texts(600), make_labels(600)
    texts, labels = plant(texts, labels, victims_of(labels, "positive", 10), 3, "positive")
    clean = find_label_conflicts(texts[:600], labels[:600], LIMITS)
    assert grades(clean) == {}
    result = find_label_conflicts(texts, labels, LIMITS)
    assert grades(result)["ERROR"] >= 27
    lenient = LIMITS.model_copy(update={"min_texts": 1000})
    passed = find_label_conflicts(texts, labels, lenient)
    assert passed.passed
    assert passed.severity == "WARN"
    assert "ERROR" not in grades(passed)
    assert {f.row for f in passed.findings} <= {f.row for f in result.findings} | set(range(600))


def test_null_labels_dispute_nothing() -> None:
    texts, labels = make_texts(300), make_labels(300)
    victims = victims_of(labels, "positive", 20)
    texts, labels = plant(texts, labels, victims, 1, "positive")
    labels[300:] = [None] * 20
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.severity == "INFO"
    assert result.findings == ()
    nobody = find_label_conflicts(texts, [None] * 320, LIMITS)
    assert nobody.passed
    assert nobody.findings == ()


def test_rows_without_a_label_do_not_hide_disputed_ones() -> None:
    texts, labels = make_texts(700), make_labels(700)
    texts, labels = plant(texts, labels, range(400, 700), 1)
    for i in [*range(400, 700), *range(700, 1000)]:
        labels[i] = None
    victims = [row for row in victims_of(labels, "positive", 900) if row < 400][:5]
    texts, labels = plant(texts, labels, victims, 1, "positive")
    result = find_label_conflicts(texts, labels, LIMITS)
    assert not result.passed
    assert set(flagged(result)) <= {*victims, *range(1000, 1005)}


def test_equal_texts_with_several_labels_are_disputed_among_themselves() -> None:
    texts = ["one and the same line", "One and the same line!", "something else entirely"] * 2
    labels: Labels = ["a", "b", "a", "a", None, "a"]
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.counts["rows_in_conflict"] == 3
    assert result.counts["texts_in_dispute"] == 2
    # Two rows say "a" and one says "b": the lonely one is the copy.
    assert flagged(result) == [1]
    (finding,) = result.findings
    assert finding.score == 1.0
    assert finding.reason == (
        "1.00 alike to row 0, which is labelled 'a' and not 'b', and with fewer fellows than it, "
        "or many more"
    )
    even = find_label_conflicts(texts[:2], ["a", "b"], LIMITS)
    assert flagged(even) == [0, 1]


def test_a_thousand_honest_copies_of_a_line_do_not_hide_disputed_ones() -> None:
    texts, labels = single_pairs(6)
    texts += ["the same greeting every day"] * 1000
    labels += ["positive"] * 1000
    result = find_label_conflicts(texts, labels, LIMITS)
    assert not result.passed
    assert result.counts["texts_with_near_duplicate"] == 12


def test_the_closest_rival_is_the_one_named() -> None:
    (base,) = make_texts(1, 3)
    near, far = base + " x", base + " some words more"
    assert similarity(base, near) > similarity(base, far) >= 0.7
    result = find_label_conflicts([far, near, base], ["b", "b", "a"], LIMITS)
    by_row = {finding.row: finding for finding in result.findings}
    for row, rival in ((1, 2), (2, 1)):
        if row in by_row:
            assert f"row {rival}," in by_row[row].reason
            assert by_row[row].score == pytest.approx(similarity(base, near))
    assert by_row


def test_examples_are_the_most_alike_pairs_each_once_with_both_sides() -> None:
    texts, labels = single_pairs(40)
    result = find_label_conflicts(texts, labels, LIMITS, ["shop"] * 400 + ["forum"] * 40)
    assert len(result.examples) == MAX_EXAMPLES
    pairs = [frozenset((one["row_copy"], one["row_of"])) for one in result.examples]
    assert len(set(pairs)) == MAX_EXAMPLES
    similarities = [one["similarity"] for one in result.examples]
    assert similarities == sorted(similarities, reverse=True)  # type: ignore[type-var]
    for one in result.examples:
        a, b = one["row_copy"], one["row_of"]
        assert isinstance(a, int)
        assert isinstance(b, int)
        assert (one["text_copy"], one["label_copy"]) == (texts[a][:300], labels[a])
        assert (one["text_of"], one["label_of"]) == (texts[b][:300], labels[b])
        assert {one["source_copy"], one["source_of"]} == {"shop", "forum"}
        assert one["label_copy"] != one["label_of"]
        assert one["similarity"] == pytest.approx(similarity(texts[a], texts[b]))
    assert "source_copy" not in find_label_conflicts(texts, labels, LIMITS).examples[0]
    shown = find_label_conflicts([f"{text} {'z' * 900}" for text in texts], labels, LIMITS)
    assert max(len(str(one["text_copy"])) for one in shown.examples) == 300


def test_grave_examples_come_first() -> None:
    texts, labels = make_texts(600), make_labels(600)
    texts, labels = plant(texts, labels, victims_of(labels, "positive", 6), 3, "positive")
    result = find_label_conflicts(texts, labels, LIMITS)
    grave = ["ERROR", "WARN", "INFO"]
    order = [grave.index(str(one["severity"])) for one in result.examples]
    assert order == sorted(order)
    assert order[0] == 0


def test_the_source_that_floods_is_named_and_whom_it_copies() -> None:
    texts, labels = make_texts(600), make_labels(600)
    sources = ["shop" if row % 2 else "mail" for row in range(600)]
    victims = victims_of(labels, "positive", 12)
    texts, labels = plant(texts, labels, victims, 3, "positive")
    sources += ["forum"] * 36
    result = find_label_conflicts(texts, labels, LIMITS, sources)
    count = len(flagged(result))
    assert count >= 33
    assert result.counts["by_source"] == {"forum": count}
    assert f"sources: forum {count}" in result.summary
    across = result.counts["across_sources"]
    assert isinstance(across, dict)
    expected = Counter(sources[row] for row in victims)
    assert set(across) == {f"forum of {source}" for source in expected}
    for name, found in across.items():
        assert isinstance(found, int)
        assert 3 * expected[name.removeprefix("forum of ")] >= found > 0
    assert list(across.values()) == sorted(across.values(), reverse=True)  # type: ignore[type-var]
    assert "(forum against " in result.findings[0].reason
    bare = find_label_conflicts(texts, labels, LIMITS)
    assert bare.counts["by_source"] == {}
    assert bare.counts["across_sources"] == {}
    alone = find_label_conflicts(texts, labels, LIMITS, ["one"] * 636)
    assert alone.counts["across_sources"] == {}


def natural(confused: int, rivals: Sequence[str]) -> tuple[list[str], Labels, int]:
    """Return a corpus of many classes with agreeing pairs, `confused` disputes, where they begin.

    The disputed ones are two copies each under the first class, of texts of `rivals` in turn.
    """
    texts, labels = make_texts(600), make_labels(600, MANY)
    rows = {name: [row for row in range(600) if labels[row] == name] for name in MANY}
    victims = [rows[rivals[i % len(rivals)]][i // len(rivals)] for i in range(confused)]
    honest = [row for name in MANY for row in rows[name][:30] if row not in victims]
    texts, labels = plant(texts, labels, honest, 1)
    return *plant(texts, labels, victims, 2, MANY[0]), len(texts)


def test_two_close_classes_may_be_confused_and_copies_of_many_may_not() -> None:
    texts, labels, _ = natural(10, MANY[1:2])
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.passed
    assert set(grades(result)) <= {"INFO", "WARN"}
    in_dispute = result.counts["texts_in_dispute"]
    assert isinstance(in_dispute, int)
    assert in_dispute > 2 * LIMITS.min_texts
    texts, labels, begin = natural(10, MANY[1:11])
    spread = find_label_conflicts(texts, labels, LIMITS)
    assert not spread.passed
    assert spread.counts["labels_blamed"] == [MANY[0]]
    assert len(flagged(spread, "ERROR")) > 15
    assert [row for row in flagged(spread, "ERROR") if row < begin] == []


def by_text(result: CheckResult, texts: Sequence[str]) -> list[tuple[str, float, str]]:
    return sorted((texts[f.row], f.score, f.severity) for f in result.findings)


@pytest.mark.parametrize("names", [TWO, MANY])
def test_the_order_of_rows_changes_no_finding(names: Sequence[str]) -> None:
    texts, labels = make_texts(500), make_labels(500, names)
    texts, labels = plant(texts, labels, victims_of(labels, names[0], 8), 3, names[0])
    texts, labels = plant(texts, labels, victims_of(labels, names[1], 8), 1, names[1])
    texts, labels = plant(texts, labels, range(100, 130), 1)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.findings
    for seed in range(4):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        shuffled = [texts[i] for i in order]
        again = find_label_conflicts(shuffled, [labels[i] for i in order], LIMITS)
        assert by_text(again, shuffled) == by_text(result, texts)
        assert again.counts == result.counts
        assert again.passed == result.passed


@pytest.mark.parametrize("names", [TWO, MANY])
def test_other_names_of_labels_change_names_alone(names: Sequence[str]) -> None:
    texts, labels = make_texts(500), make_labels(500, names)
    texts, labels = plant(texts, labels, victims_of(labels, names[0], 8), 3, names[0])
    texts, labels = plant(texts, labels, victims_of(labels, names[-1], 8), 1, names[-1])
    renamed = {name: f"class {99 - number}" for number, name in enumerate(names)}

    def shape(findings: Sequence[Finding]) -> list[tuple[int, float, str, str]]:
        return [(f.row, f.score, f.severity, f.group) for f in findings]

    one = find_label_conflicts(texts, labels, LIMITS)
    other = find_label_conflicts(texts, [renamed[str(label)] for label in labels], LIMITS)
    assert shape(one.findings) == shape(other.findings)
    blamed = one.counts["labels_blamed"]
    assert isinstance(blamed, list)
    told = other.counts["labels_blamed"]
    assert isinstance(told, list)
    assert sorted(map(str, told)) == sorted(renamed[str(name)] for name in blamed)
    same = {"labels_blamed"}
    assert {k: v for k, v in one.counts.items() if k not in same} == {
        k: v for k, v in other.counts.items() if k not in same
    }


def test_disguised_copies_are_copies_all_the_same() -> None:
    texts, labels = make_texts(400), make_labels(400)
    victims = victims_of(labels, "positive", 8)
    disguises = (
        lambda text: text.replace(" ", ""),
        lambda text: "\u200b".join(text).upper(),
        lambda text: text.replace("a", "\u0430").replace("o", "\u03bf"),
    )
    for i in victims:
        texts += [f"{disguise(texts[i])} {n}" for n, disguise in enumerate(disguises)]
        labels += ["positive"] * 3
    result = find_label_conflicts(texts, labels, LIMITS)
    assert not result.passed
    assert result.counts["rows_in_conflict"] == 32
    assert {*victims, *range(400, 424)} >= set(flagged(result)) != set()


def test_no_rows_pass() -> None:
    result = find_label_conflicts([], [], LIMITS)
    assert result.passed
    assert result.counts["texts_in_dispute"] == 0
    assert result.counts["binomial_tail"] == 1.0


@pytest.mark.parametrize("texts", [[""], ["", "", ""], ["a", "", "b"], ["same"] * 50])
def test_empty_texts_and_identical_rows_are_judged(texts: list[str]) -> None:
    count = len(texts)
    assert find_label_conflicts(texts, ["x"] * count, LIMITS).findings == ()
    labels = [f"label {row}" for row in range(count)]
    result = find_label_conflicts(texts, labels, LIMITS)
    equal = Counter(texts)
    assert [f.row for f in result.findings] == [r for r in range(count) if equal[texts[r]] > 1]


@pytest.mark.parametrize(
    ("texts", "labels", "sources", "message"),
    [
        (["a", "b"], ["x"], None, "2 texts have 1 labels"),
        (["a"], ["x", "y"], None, "1 texts have 2 labels"),
        (["a", "b"], ["x", "y"], ["s"], "2 texts have 1 sources"),
        (["a", None], ["x", "y"], None, "1 of 2 rows have no text, the first is row 1"),
        ([1, 2], ["x", "y"], None, "no string"),
    ],
)
def test_columns_that_cannot_be_compared_are_refused(
    texts: list[str], labels: Labels, sources: list[str] | None, message: str
) -> None:
    with pytest.raises(PedigreeError, match=message):
        find_label_conflicts(texts, labels, LIMITS, sources)
