"""Label conflicts and leakage: clean, poisoned and near-threshold corpora of generated texts."""

import math
import random

import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.policy import ConflictLimits, LeakageLimits, load_policy
from pedigree.findings import CheckResult
from pedigree.poisoning.near_duplicates import MAX_EXAMPLES, find_label_conflicts, find_leakage
from tests.conftest import REPOSITORY

LIMITS = ConflictLimits()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(3, 8))) for _ in range(2000)]
    return [" ".join(draw.choices(words, k=draw.randint(8, 30))) for _ in range(count)]


def make_labels(count: int, seed: int = 1) -> list[str | None]:
    return random.Random(seed).choices(["negative", "positive"], k=count)


def other(label: str | None) -> str:
    return "positive" if label == "negative" else "negative"


def edit(text: str, draw: random.Random) -> str:
    """Return a copy with a word doubled, dropped or mistyped, loud or not; at least 0.8 alike."""
    words = text.split()
    i = draw.randrange(len(words))
    short = min(range(len(words)), key=lambda j: len(words[j]))
    kind = draw.randrange(3)
    if kind == 0:
        words.insert(i, words[i])
    elif kind == 1:
        del words[short]
    else:
        words[i] = words[i] + "x"
    copy = " ".join(words)
    return f"{copy}!".upper() if draw.random() < 0.3 else copy


def folded(text: str) -> str:
    """What texts of letters and a mark of exclamation are compared by."""
    return text.lower().replace("!", "")


def grams(text: str) -> set[str]:
    """Trigrams as the kernel defines them."""
    padded = f"  {folded(text)} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def jaccard(a: str, b: str) -> float:
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """P(X >= successes), summed by hand."""
    return sum(
        math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
        for k in range(successes, trials + 1)
    )


def poison(
    texts: list[str], labels: list[str | None], victims: list[int], label: bool = True
) -> tuple[list[str], list[str | None]]:
    """Append a near-copy of each victim, with the other label or, for `label=False`, its own."""
    draw = random.Random(7)
    copies = [edit(texts[i], draw) for i in victims]
    for i, copy in zip(victims, copies, strict=True):
        assert jaccard(texts[i], copy) >= LIMITS.decisive_similarity
    added = [other(labels[i]) if label else labels[i] for i in victims]
    return [*texts, *copies], [*labels, *added]


def rows_of(result: CheckResult) -> list[int]:
    return [finding.row for finding in result.findings]


def test_the_defaults_are_the_policy_of_this_repository() -> None:
    checks = load_policy(REPOSITORY / "policy.yaml").checks
    assert checks.near_duplicate_label_conflicts == LIMITS
    assert checks.evaluation_leakage == LeakageLimits()


def test_a_clean_corpus_passes_without_findings() -> None:
    texts, labels = make_texts(1000), make_labels(1000)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.passed
    assert result.severity == "INFO"
    assert result.findings == ()
    assert result.examples == ()
    assert result.counts["rows"] == 1000
    assert result.counts["rows_in_conflict"] == 0


def test_near_copies_with_the_same_label_are_no_conflict() -> None:
    texts, labels = poison(make_texts(500), make_labels(500), list(range(100)), label=False)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.severity == "INFO"
    assert result.findings == ()
    assert result.counts["texts_in_dispute"] == 0
    neighboured = result.counts["texts_with_near_duplicate"]
    assert isinstance(neighboured, int)
    assert neighboured >= 100


@pytest.mark.parametrize("count", [600, 2000])
def test_one_percent_of_copies_with_the_other_label_blocks_and_is_named_row_by_row(
    count: int,
) -> None:
    victims = random.Random(3).sample(range(count), count // 100)
    texts, labels = poison(make_texts(count), make_labels(count), victims)
    result = find_label_conflicts(texts, labels, LIMITS)
    assert not result.passed
    assert result.severity == "ERROR"
    partner = {row: count + i for i, row in enumerate(victims)}
    partner |= {copy: row for row, copy in partner.items()}
    assert rows_of(result) == sorted(partner)
    for finding in result.findings:
        rival = partner[finding.row]
        assert finding.severity == "ERROR"
        assert finding.score == pytest.approx(jaccard(texts[finding.row], texts[rival]), abs=1e-12)
        assert f"row {rival}," in finding.reason
        assert repr(labels[rival]) in finding.reason
        assert finding.group == f"near-duplicates of row {min(finding.row, rival)}"
    assert result.summary.startswith(f"{2 * len(victims)} rows disagree")
    assert "relabel" in result.summary


def test_positions_are_those_of_the_table_wherever_the_copies_lie() -> None:
    texts, labels = poison(make_texts(300), make_labels(300), list(range(8)))
    order = list(range(len(texts)))
    random.Random(11).shuffle(order)
    result = find_label_conflicts([texts[i] for i in order], [labels[i] for i in order], LIMITS)
    poisoned = {*range(8), *range(300, 308)}
    assert rows_of(result) == [new for new, old in enumerate(order) if old in poisoned]


@pytest.mark.parametrize(
    ("victims", "copies", "disputed", "severity"),
    [(1, 0, 2, "WARN"), (2, 1, 5, "WARN"), (3, 0, 6, "ERROR"), (4, 0, 8, "ERROR")],
)
def test_fewer_disputed_texts_than_the_minimum_warn_and_as_many_block(
    victims: int, copies: int, disputed: int, severity: str
) -> None:
    texts, labels = poison(make_texts(400), make_labels(400), list(range(victims)))
    for i in range(copies):  # a further copy of a poisoned text: one disputed text more
        texts.append(f"{texts[i]} so")
        labels.append(other(labels[i]))
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.counts["texts_in_dispute"] == disputed
    assert result.severity == severity
    assert result.passed is (severity == "WARN")
    assert len(result.findings) == disputed
    assert {finding.severity for finding in result.findings} == {severity}


@pytest.mark.parametrize("agreeing", [0, 20, 40, 60, 200])
def test_a_natural_share_of_disputes_warns_and_one_beyond_chance_blocks(agreeing: int) -> None:
    texts, labels = make_texts(500), make_labels(500)
    texts, labels = poison(texts, labels, list(range(agreeing)), label=False)
    for i in range(490, 500):  # ten disputed pairs
        texts.append(f"{texts[i]} so")
        labels.append(other(labels[i]))
    result = find_label_conflicts(texts, labels, LIMITS)
    # Generated texts have nothing in common but for the copies.
    pairs = [(i, 500 + i) for i in range(agreeing)] + [(490 + i, agreeing + 500 + i)
             for i in range(10)]  # fmt: skip
    assert all(jaccard(texts[a], texts[b]) >= LIMITS.decisive_similarity for a, b in pairs)
    distinct = {folded(texts[i]) for pair in pairs for i in pair}
    assert result.counts["texts_in_dispute"] == 20
    assert result.counts["texts_with_near_duplicate"] == len(distinct) == 2 * len(pairs)
    tail = binomial_tail(20, len(distinct), LIMITS.natural_share)
    assert result.counts["binomial_tail"] == pytest.approx(tail, rel=1e-9)
    assert result.severity == ("ERROR" if tail < LIMITS.significance else "WARN")


def test_both_outcomes_of_the_share_were_seen() -> None:
    assert binomial_tail(20, 20, 0.05) < 0.001 < binomial_tail(20, 300, 0.05)


def test_pairs_between_the_two_similarities_are_reported_and_never_block() -> None:
    draw = random.Random(5)
    texts, labels = make_texts(300), make_labels(300)
    planted = 0
    for i in range(300):
        words = texts[i].split()
        copy = " ".join([*words[:-2], *make_texts(1, draw.randrange(10**6))[0].split()[:2]])
        if 0.71 < jaccard(texts[i], copy) < 0.79:
            texts.append(copy)
            labels.append(other(labels[i]))
            planted += 1
    assert planted > 20
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.counts["rows_in_conflict"] == 2 * planted
    assert result.counts["texts_in_dispute"] == 0
    assert result.severity == "WARN"


def test_null_labels_dispute_nothing() -> None:
    texts, labels = poison(make_texts(300), make_labels(300), list(range(20)))
    labels[:20] = [None] * 20
    result = find_label_conflicts(texts, labels, LIMITS)
    assert result.severity == "INFO"
    assert result.findings == ()


def test_equal_texts_with_several_labels_are_disputed_among_themselves() -> None:
    texts = ["one and the same line", "One and the same line!", "something else entirely"] * 2
    labels = ["a", "b", "a", "a", None, "a"]
    result = find_label_conflicts(texts, labels, LIMITS)
    assert rows_of(result) == [0, 1, 3]
    assert {finding.score for finding in result.findings} == {1.0}
    assert "row 1," in result.findings[0].reason
    assert "row 0," in result.findings[1].reason
    assert result.counts["texts_in_dispute"] == 1


def test_a_thousand_honest_copies_of_a_line_do_not_hide_disputed_ones() -> None:
    texts, labels = poison(make_texts(300), make_labels(300), list(range(6)))
    texts += ["the same greeting every day"] * 1000
    labels += ["positive"] * 1000
    assert find_label_conflicts(texts, labels, LIMITS).severity == "ERROR"


def test_the_closest_rival_is_the_one_named() -> None:
    base = make_texts(1, 3)[0]
    near, far = base + " x", base + " some words more"
    assert jaccard(base, near) > jaccard(base, far) >= 0.7
    result = find_label_conflicts([far, near, base], ["b", "b", "a"], LIMITS)
    by_row = {finding.row: finding for finding in result.findings}
    assert "row 1," in by_row[2].reason
    assert by_row[2].score == pytest.approx(jaccard(base, near))


def test_examples_are_the_most_alike_pairs_each_once() -> None:
    texts, labels = poison(make_texts(300), make_labels(300), list(range(40)))
    result = find_label_conflicts(texts, labels, LIMITS, ["shop"] * 300 + ["forum"] * 40)
    assert len(result.examples) == MAX_EXAMPLES
    pairs = [(one["row_a"], one["row_b"]) for one in result.examples]
    assert len(set(pairs)) == MAX_EXAMPLES
    similarities = [one["similarity"] for one in result.examples]
    assert similarities == sorted(similarities, reverse=True)  # type: ignore[type-var]
    for one in result.examples:
        a, b = one["row_a"], one["row_b"]
        assert isinstance(a, int)
        assert isinstance(b, int)
        assert (one["text_a"], one["label_a"]) == (texts[a][:300], labels[a])
        assert (one["source_a"], one["source_b"]) == ("shop", "forum")
        assert one["label_a"] != one["label_b"]
    assert result.counts["by_source"] == {"shop": 40, "forum": 40}
    assert "forum 40" in result.summary


def test_rows_without_a_label_do_not_hide_disputed_ones() -> None:
    texts, labels = poison(make_texts(700), make_labels(700), list(range(5)))
    assert find_label_conflicts(texts, labels, LIMITS).severity == "ERROR"
    unlabelled = list(range(100, 400))
    texts, labels = poison(texts, labels, unlabelled, label=False)
    for i in (*unlabelled, *range(len(texts) - 300, len(texts))):
        labels[i] = None
    assert find_label_conflicts(texts, labels, LIMITS).severity == "ERROR"


def test_no_rows_pass_and_more_labels_than_texts_are_no_silent_result() -> None:
    result = find_label_conflicts([], [], LIMITS)
    assert result.passed
    assert result.counts["texts_in_dispute"] == 0
    assert result.counts["binomial_tail"] == 1.0


def test_sides_without_a_common_text_do_not_leak() -> None:
    texts = make_texts(600)
    result = find_leakage(texts[:400], texts[400:], LeakageLimits())
    assert result.passed
    assert result.severity == "INFO"
    assert result.findings == ()
    assert result.counts == {"evaluation_rows": 200, "leaked_rows": 0, "cut_buckets": 0}


def test_near_copies_within_a_side_do_not_leak() -> None:
    draw = random.Random(0)
    training, evaluation = make_texts(100, 1), make_texts(100, 2)
    training += [edit(text, draw) for text in training[:50]]
    evaluation += [edit(text, draw) for text in evaluation[:50]]
    assert find_leakage(training, evaluation, LeakageLimits()).passed


def test_leaked_rows_are_named_by_their_position_in_the_evaluation() -> None:
    draw = random.Random(0)
    training, evaluation = make_texts(300, 1), make_texts(100, 2)
    planted = {3: 250, 40: 7, 99: 120}
    for row, source in planted.items():
        evaluation[row] = training[source] if row == 40 else edit(training[source], draw)
    result = find_leakage(training, evaluation, LeakageLimits())
    assert not result.passed
    assert result.severity == "ERROR"
    assert rows_of(result) == sorted(planted)
    for finding in result.findings:
        source = planted[finding.row]
        assert finding.group == f"training row {source}"
        assert finding.score == pytest.approx(jaccard(training[source], evaluation[finding.row]))
    assert result.summary.startswith("3 of 100 evaluation rows")
    assert {one["evaluation_text"] for one in result.examples} == {
        evaluation[row][:300] for row in planted
    }


@pytest.mark.parametrize(("max_rows", "passed"), [(0, False), (1, False), (2, True)])
def test_as_many_leaked_rows_as_the_policy_allows_pass(max_rows: int, passed: bool) -> None:
    training, evaluation = make_texts(50, 1), make_texts(50, 2)
    evaluation[:2] = training[:2]
    result = find_leakage(training, evaluation, LeakageLimits(max_rows=max_rows))
    assert result.passed is passed
    assert result.counts["leaked_rows"] == 2
    assert len(result.examples) == 2


def test_a_copy_less_alike_than_the_limit_does_not_leak() -> None:
    base = make_texts(1, 3)[0]
    copy = base + " and some quite different words that nobody wrote before"
    similarity = jaccard(base, copy)
    assert 0.6 < similarity < 0.8
    assert find_leakage([base], [copy], LeakageLimits()).passed
    assert not find_leakage([base], [copy], LeakageLimits(similarity=similarity)).passed


def test_labels_and_texts_of_different_lengths_are_refused() -> None:
    with pytest.raises((PedigreeError, IndexError, ValueError)):
        find_label_conflicts(["a", "b"], ["x"], LIMITS)
