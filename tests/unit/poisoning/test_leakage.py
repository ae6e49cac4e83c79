"""Evaluation rows that repeat training rows: clean, leaking and near-threshold sides."""

import random

import pyarrow as pa
import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import LeakageLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult
from pedigree.neighbours.kernel import list_digests
from pedigree.neighbours.normalisation import normalise_texts
from pedigree.poisoning.leakage import find_leakage
from tests.unit.neighbours import oracle

LIMITS = LeakageLimits()


def make_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(oracle.LETTERS, k=draw.randint(4, 8))) for _ in range(3000)]
    return [" ".join(draw.sample(words, draw.randint(12, 40))) for _ in range(count)]


def edit(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words))] += "x"
    return " ".join(words).upper()


def similarity(one: str, other: str) -> float:
    common, union = oracle.overlap(*(oracle.views(oracle.normalise(t)) for t in (one, other)))
    return common / union


def rows_of(result: CheckResult) -> list[int]:
    return [finding.row for finding in result.findings]


def test_sides_without_a_common_text_do_not_leak() -> None:
    texts = make_texts(600, 0)
    result = find_leakage(texts[:400], texts[400:], LIMITS)
    assert result.passed
    assert result.severity == "INFO"
    assert (result.findings, result.examples) == ((), ())
    assert result.counts == {"evaluation_rows": 200, "leaked_rows": 0, "cut_buckets": 0}


def test_near_copies_within_a_side_do_not_leak() -> None:
    draw = random.Random(0)
    training, evaluation = make_texts(100, 1), make_texts(100, 2)
    training += [edit(text, draw) for text in training[:50]] + training[:10]
    evaluation += [edit(text, draw) for text in evaluation[:50]] + evaluation[:10]
    assert find_leakage(training, evaluation, LIMITS).passed


def test_leaked_rows_are_named_by_their_position_in_the_evaluation() -> None:
    draw = random.Random(0)
    training, evaluation = make_texts(300, 1), make_texts(100, 2)
    planted = {3: 250, 40: 7, 99: 120}
    for row, source in planted.items():
        evaluation[row] = training[source] if row == 40 else edit(training[source], draw)
    result = find_leakage(training, evaluation, LIMITS)
    assert not result.passed
    assert result.severity == "ERROR"
    assert rows_of(result) == sorted(planted)
    for finding in result.findings:
        source = planted[finding.row]
        assert finding.group == f"training row {source}"
        assert finding.severity == "ERROR"
        assert finding.score == similarity(training[source], evaluation[finding.row])
        assert finding.reason == f"{finding.score:.2f} alike to training row {source}"
    assert result.summary.startswith("3 of 100 evaluation rows")
    assert "drop the rows from one side" in result.summary
    assert result.examples[0]["evaluation_text"] == evaluation[40][:300]
    assert {one["evaluation_text"] for one in result.examples} == {
        evaluation[row][:300] for row in planted
    }


def test_every_leaked_row_of_brute_force_is_found_and_no_other() -> None:
    texts = list(dict.fromkeys(oracle.make_texts(500, 4)))
    random.Random(1).shuffle(texts)
    training, evaluation = texts[:300], texts[300:]
    near = oracle.similar_pairs(texts, LIMITS.similarity)
    closest: dict[int, float] = {}
    for (i, j), (common, union) in near.items():
        if i < 300 <= j:
            closest[j - 300] = max(closest.get(j - 300, 0), common / union)
    expected = set(closest)
    assert 30 < len(expected) < 150
    result = find_leakage(training, evaluation, LIMITS)
    assert set(rows_of(result)) <= expected
    assert len(rows_of(result)) >= 0.99 * len(expected)
    for finding in result.findings:
        assert finding.score == closest[finding.row]
        origin = int(finding.group.removeprefix("training row "))
        assert similarity(training[origin], evaluation[finding.row]) == finding.score


@pytest.mark.parametrize(("max_rows", "passed"), [(0, False), (1, False), (2, True)])
def test_as_many_leaked_rows_as_the_policy_allows_pass(max_rows: int, passed: bool) -> None:
    training, evaluation = make_texts(50, 1), make_texts(50, 2)
    evaluation[:2] = training[:2]
    result = find_leakage(training, evaluation, LeakageLimits(max_rows=max_rows))
    assert result.passed is passed
    assert result.counts["leaked_rows"] == 2
    assert len(result.examples) == 2
    assert bool(result.findings) is not passed


def test_a_copy_less_alike_than_the_limit_does_not_leak() -> None:
    (base,) = make_texts(1, 3)
    copy = base + " and some quite different words"
    value = similarity(base, copy)
    assert 0.6 < value < 0.95
    assert find_leakage([base], [copy], LeakageLimits(similarity=value + 0.001)).passed
    assert not find_leakage([base], [copy], LeakageLimits(similarity=value)).passed


def test_each_of_several_equal_rows_leaks_and_the_first_training_row_is_named() -> None:
    training = ["something else", "the very same line", "The very same line!", "another one"]
    result = find_leakage(training, ["new", "the very  same line", "THE VERY SAME LINE"], LIMITS)
    assert [(f.row, f.score, f.group) for f in result.findings] == [
        (1, 1.0, "training row 1"),
        (2, 1.0, "training row 1"),
    ]


def test_of_equally_close_training_rows_the_same_is_named_in_any_order() -> None:
    words = make_texts(1, 8)[0].split()[:10]
    target = " ".join(words)
    # Each has one more word: all are equally alike.
    training = [f"{target} {word}" for word in ("alpha", "bravo", "delta", "gamma", "kappa")]
    alike = {similarity(target, text) for text in training}
    assert len(alike) == 1
    digests = list_digests(normalise_texts(training))
    first = training[digests.index(min(digests))]
    for seed in range(5):
        order = random.Random(seed).sample(training, len(training))
        (finding,) = find_leakage(order, [target], LeakageLimits(similarity=0.7)).findings
        assert order[int(finding.group.removeprefix("training row "))] == first


def test_an_equal_row_is_named_before_one_that_is_as_alike() -> None:
    # The same words in another order: similarity 1, and still another text.
    one, other = "alpha bravo charlie delta", "delta charlie bravo alpha"
    (finding,) = find_leakage([other, one], [one], LIMITS).findings
    assert (finding.score, finding.group) == (1.0, "training row 1")


def test_order_within_the_sides_changes_no_finding() -> None:
    draw = random.Random(0)
    training, evaluation = make_texts(200, 1), make_texts(80, 2)
    evaluation[:30] = [edit(text, draw) for text in training[:30]]

    def told(left: list[str], right: list[str]) -> list[tuple[str, float, str]]:
        return sorted(
            (right[f.row], f.score, left[int(f.group.removeprefix("training row "))])
            for f in find_leakage(left, right, LIMITS).findings
        )

    expected = told(training, evaluation)
    assert len(expected) == 30
    for seed in range(3):
        shuffle = random.Random(seed)
        left, right = shuffle.sample(training, 200), shuffle.sample(evaluation, 80)
        assert told(left, right) == expected


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text.replace(" ", ""),
        lambda text: "\u200b".join(text),
        lambda text: text.upper().replace("A", "\u0410").replace("O", "\u039f"),
    ],
    ids=["run together", "invisible", "look-alike"],
)
def test_a_disguised_copy_leaks(disguise: object) -> None:
    training, evaluation = make_texts(50, 1), make_texts(50, 2)
    evaluation[7] = disguise(training[30])  # type: ignore[operator]
    (finding,) = find_leakage(training, evaluation, LIMITS).findings
    assert (finding.row, finding.score, finding.group) == (7, 1.0, "training row 30")


def test_examples_are_the_most_alike_and_at_most_twenty() -> None:
    draw = random.Random(0)
    training, evaluation = make_texts(60, 1), make_texts(60, 2)
    evaluation[:40] = [edit(text, draw) for text in training[:40]]
    evaluation[25] = training[25]
    result = find_leakage(training, evaluation, LIMITS)
    assert result.counts["leaked_rows"] == 40
    assert len(result.examples) == MAX_EXAMPLES
    assert result.examples[0]["evaluation_text"] == evaluation[25][:300]


def test_a_flood_on_both_sides_is_counted_where_it_is_cut() -> None:
    (base,) = make_texts(1, 1)
    flood = [f"{base} {number:04}" for number in range(300)]
    result = find_leakage(flood[:150], flood[150:], LIMITS)
    assert not result.passed
    cut = result.counts["cut_buckets"]
    assert isinstance(cut, int)
    assert cut > 0
    # Every one of them meets a training row among its neighbours in the bucket.
    assert result.counts["leaked_rows"] == 150


@pytest.mark.parametrize(("training", "evaluation"), [([], []), (["a"], []), ([], ["a", "a"])])
def test_an_empty_side_leaks_nothing(training: list[str], evaluation: list[str]) -> None:
    result = find_leakage(training, evaluation, LIMITS)
    assert result.passed
    assert result.counts["evaluation_rows"] == len(evaluation)


def test_arrow_columns_are_looked_at_as_lists_are() -> None:
    training, evaluation = make_texts(30, 1), make_texts(30, 2)
    evaluation[4] = training[9]
    expected = find_leakage(training, evaluation, LIMITS)
    chunks = pa.chunked_array([evaluation[:3], evaluation[3:]])
    assert find_leakage(pa.array(training, pa.large_string()), chunks, LIMITS) == expected


@pytest.mark.parametrize("bad", [["a", None], [1], pa.array([b"a"])])
def test_what_is_no_text_is_refused_on_either_side(bad: list[str]) -> None:
    for training, evaluation in ((bad, ["a"]), (["a"], bad)):
        with pytest.raises(PedigreeError):
            find_leakage(training, evaluation, LIMITS)
