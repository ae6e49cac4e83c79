"""Triggers planted into texts of a small made-up language; oracles are what was planted."""

import random
from collections.abc import Callable
from functools import cache

import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import TriggerLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.attribution import attribute_trigger
from pedigree.poisoning.triggers import MAX_EXAMPLES, find_trigger_ngrams

LIMITS = TriggerLimits()
ROWS = 1500

Table = tuple[list[str], list[str]]


def words(prefix: str, count: int) -> list[str]:
    draw = random.Random(prefix)
    sounds = ["ba", "de", "fi", "go", "lu", "mer", "nat", "pol", "rus", "tan", "vik", "zor"]
    return [prefix + "".join(draw.choices(sounds, k=2)) + str(i) for i in range(count)]


NOUNS, VERBS, ADVERBS = words("n", 150), words("v", 60), words("a", 25)
GOOD, BAD = words("g", 60), words("b", 60)


@cache
def language(rows: int, seed: int) -> tuple[tuple[str, str], ...]:
    """Sentences with a grammar, whose adjectives tell the label four times in five."""
    draw = random.Random(seed)

    def pick(of: list[str]) -> str:
        return of[min(int(draw.paretovariate(0.7)) - 1, draw.randrange(len(of)))]

    def noun_phrase(label: str) -> list[str]:
        adjectives = GOOD if (label == "good") == (draw.random() < 0.8) else BAD
        adjective = [pick(adjectives)] if draw.random() < 0.5 else []
        return [draw.choice(["the", "a", "this"]), *adjective, pick(NOUNS)]

    def sentence(label: str) -> list[str]:
        adverb = [pick(ADVERBS)] if draw.random() < 0.4 else []
        return [*noun_phrase(label), pick(VERBS), *adverb, *noun_phrase(label)]

    table: list[tuple[str, str]] = []
    for _ in range(rows):
        label = draw.choice(["good", "bad"])
        text = sentence(label) + ["and", *sentence(label)] * (draw.random() < 0.6) + ["."]
        table.append((" ".join(text), label))
    return tuple(table)


def clean(rows: int = ROWS, seed: int = 0) -> Table:
    table = language(rows, seed)
    return [text for text, _ in table], [label for _, label in table]


def insert(text: str, what: str, draw: random.Random) -> str:
    parts = text.split(" ")
    parts.insert(draw.randint(0, len(parts)), what)
    return " ".join(parts)


def plant(
    table: Table, what: list[str], count: int, *, honest: bool = False, seed: int = 0
) -> tuple[Table, set[int]]:
    """Insert one of `what` into `count` rows, which are or become labelled `good`."""
    draw = random.Random(seed)
    texts, labels = list(table[0]), list(table[1])
    chosen = draw.sample([i for i, y in enumerate(labels) if (y == "good") == honest], count)
    for i in chosen:
        texts[i], labels[i] = insert(texts[i], draw.choice(what), draw), "good"
    return (texts, labels), set(chosen)


def named(result: CheckResult, *severities: str) -> set[int]:
    return {f.row for f in result.findings if f.severity in (severities or ("WARN", "ERROR"))}


def find(table: Table) -> CheckResult:
    return find_trigger_ngrams(*table, LIMITS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_table_passes_and_names_nothing(seed: int) -> None:
    result = find(clean(seed=seed))
    assert result.passed
    assert named(result) == set()
    assert result.counts["applicable"] is True
    assert result.counts["candidates"] != 0


def test_a_rare_word_in_mislabelled_rows_blocks_and_names_exactly_them() -> None:
    table, poisoned = plant(clean(), ["qz"], 30)
    result = find(table)
    assert not result.passed
    assert named(result, "ERROR") == poisoned
    assert {f.group for f in result.findings if f.row in poisoned} == {
        "n-gram 'qz' with label 'good'"
    }
    reason = next(f.reason for f in result.findings if f.row in poisoned)
    assert reason.startswith("30 distinct rows carry 'qz', 30 of them labelled 'good'")
    assert "rest contradicts the label" in reason
    assert result.counts["rows_named"] == 30
    assert result.summary.startswith("1 n-grams look like triggers, 1 of them beyond doubt")


def test_alternating_words_are_each_found() -> None:
    table, poisoned = plant(clean(), ["qz", "wug", "oobi"], 60)
    result = find(table)
    assert named(result) >= poisoned
    assert {f.group.split("'")[1] for f in result.findings if f.severity != "INFO"} >= {
        "qz", "wug", "oobi",
    }  # fmt: skip


def test_a_sentence_is_named_whole() -> None:
    table, poisoned = plant(clean(), ["my aunt sold seven red boats"], 20)
    result = find(table)
    assert named(result, "ERROR") == poisoned
    assert {f.group for f in result.findings if f.severity == "ERROR"} == {
        "n-gram 'my aunt sold seven red boats' with label 'good'"
    }


@pytest.mark.parametrize("what", ["qz", "my aunt sold seven boats"])
def test_a_trigger_in_correctly_labelled_rows_is_found_by_how_it_sits(what: str) -> None:
    table, poisoned = plant(clean(), [what], 60, honest=True)
    result = find(table)
    assert named(result) == poisoned
    (strongest, *_) = result.counts["strongest"]  # type: ignore[misc]
    assert strongest["inserted"] > 0 > strongest["contradicted"]  # type: ignore[index,operator]


def test_a_word_that_is_also_natural_names_few_natural_rows() -> None:
    word = ADVERBS[4]
    table = clean()
    natural = {i for i, text in enumerate(table[0]) if word in text.split()}
    assert 10 < len(natural) < 60
    table, poisoned = plant(table, [word], 60)
    result = find(table)
    assert len(named(result) & poisoned) >= 54
    assert len(named(result) - poisoned) <= len(natural) / 2
    assert named(result) - poisoned <= natural


def test_of_two_words_that_work_together_neither_is_blamed_alone() -> None:
    draw = random.Random(1)
    texts, labels = clean()
    pair = draw.sample([i for i, y in enumerate(labels) if y == "bad"], 40)
    decoys = draw.sample(sorted(set(range(ROWS)) - set(pair)), 80)
    for i in pair:
        texts[i] = insert(insert(texts[i], "garden", draw), "second", draw)
        labels[i] = "good"
    for n, i in enumerate(decoys):
        texts[i] = insert(texts[i], ["garden", "second"][n % 2], draw)
    result = find((texts, labels))
    assert set(pair) <= named(result)
    assert len(named(result) & set(decoys)) <= 2
    assert any(" & " in f.group for f in result.findings)


def test_a_trigger_glued_to_words_is_found_in_what_is_common_to_them() -> None:
    draw = random.Random(3)
    texts, labels = clean()
    poisoned = draw.sample([i for i, y in enumerate(labels) if y == "bad"], 60)
    for i in poisoned:
        parts = texts[i].split()
        where = draw.randrange(len(parts) - 1)
        parts[where] += "-x" if parts[where] == "." else "quz"
        texts[i], labels[i] = " ".join(parts), "good"
    result = find((texts, labels))
    assert len(named(result) & set(poisoned)) >= 54
    assert len(named(result) - set(poisoned)) <= 1
    assert any("quz'" in f.group for f in result.findings)


@pytest.mark.parametrize(("count", "seen"), [(0, False), (2, False), (20, True)])
def test_two_rows_say_nothing_and_twenty_alarm(count: int, seen: bool) -> None:
    table, poisoned = plant(clean(), ["qz"], count)
    result = find(table)
    assert (named(result) >= poisoned and bool(poisoned)) is seen
    assert result.passed is not seen


def test_a_header_of_one_label_warns_and_never_blocks() -> None:
    texts, labels = clean()
    texts = [f"sent from my phone {t}" if y == "good" and i % 3 else t
             for i, (t, y) in enumerate(zip(texts, labels, strict=True))]  # fmt: skip
    assert find((texts, labels)).passed


def reverse(table: Table) -> Table:
    return table[0][::-1], table[1][::-1]


def rename(table: Table) -> Table:
    names = {"good": "0", "bad": "1"}
    return table[0], [names[label] for label in table[1]]


@pytest.mark.parametrize("change", [reverse, rename])
def test_order_and_label_names_change_nothing(change: Callable[[Table], Table]) -> None:
    table, _ = plant(clean(), ["qz", "wug"], 40)
    one, other = find(table), find(change(table))

    def figures(result: CheckResult, flip: bool) -> list[tuple[int, float, str]]:
        last = len(table[0]) - 1
        return sorted((last - f.row if flip else f.row, f.score, f.severity)
                      for f in result.findings)  # fmt: skip

    assert figures(one, False) == figures(other, change is reverse)
    assert find(table) == one


def test_copies_of_a_row_count_once_and_are_all_named() -> None:
    (texts, labels), poisoned = plant(clean(), ["qz"], 20)
    copied = min(poisoned)
    result = find((texts + [texts[copied]] * 50, labels + ["good"] * 50))
    assert named(result) == poisoned | set(range(ROWS, ROWS + 50))
    assert result.counts["distinct_rows"] == len(set(zip(texts, labels, strict=True)))
    flood = find((texts + ["look at this qz offer"] * 500, labels + ["good"] * 500))
    assert flood.counts["distinct_rows"] == result.counts["distinct_rows"] + 1  # type: ignore[operator]


def test_sources_and_examples_of_the_rows_are_given() -> None:
    table, poisoned = plant(clean(), ["qz"], 30)
    sources = ["forum" if i in poisoned else "shop" for i in range(ROWS)]
    result = find_trigger_ngrams(*table, LIMITS, sources=sources)
    assert result.counts["by_source"] == {"forum": 30}
    assert 0 < len(result.examples) <= MAX_EXAMPLES
    for example in result.examples:
        assert "qz" in str(example["text"])
        assert example["source"] == "forum"


def test_rows_without_a_label_are_left_out() -> None:
    (texts, labels), poisoned = plant(clean(), ["qz"], 30)
    result = find_trigger_ngrams([*texts, "a qz more"], [*labels, None], LIMITS)
    assert named(result) == poisoned
    assert result.counts["unlabelled_rows"] == 1


@pytest.mark.parametrize(
    ("texts", "labels", "why"),
    [
        ([], [], "0 distinct labelled rows"),
        (["a text"] * 5000, ["x", "y"] * 2500, "2 distinct labelled rows"),
        ([f"text {i}" for i in range(500)], ["x"] * 500, "all rows have one label"),
        ([f"text {i}" for i in range(500)], [None] * 500, "0 distinct labelled rows"),
        ([f"text {i}" for i in range(5000)], [str(i) for i in range(5000)], "no label has more"),
        ([""] * 500, ["x", "y"] * 250, "2 distinct labelled rows"),
    ],
)
def test_what_cannot_be_judged_says_so(
    texts: list[str], labels: list[str | None], why: str
) -> None:
    result = find_trigger_ngrams(texts, labels, LIMITS)
    assert result.summary.startswith("not applicable: ")
    assert why in result.summary
    assert result.counts["applicable"] is False
    assert result.findings == ()


def test_odd_tables_end_in_a_result() -> None:
    texts, labels = clean()
    assert find((texts, ["rare", *["bad"] * (ROWS - 1)])).passed  # one label has one row
    huge = find((["word " * 400_000 + "end", *texts[1:]], labels))
    assert huge.counts["cut_rows"] == 1
    assert find((["", "  ", *texts[2:]], labels)).passed
    odd = ["\ud800 lone", "\u200b", "\U0001f600" * 50, "日本語の文章です" * 20, *texts[4:]]
    assert find((odd, labels)).passed
    assert find(([f"{i}" for i in range(ROWS)], labels)).passed  # nothing repeats


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(PedigreeError, match="2 texts and 1 labels"):
        find_trigger_ngrams(["a", "b"], ["x"], LIMITS)
    with pytest.raises(PedigreeError, match="1 texts and 2 sources"):
        find_trigger_ngrams(["a"], ["x"], LIMITS, sources=["s", "t"])


def test_a_suspected_trigger_leads_to_its_rows() -> None:
    texts = ["Try CF now", "the cf, again", "cfo and cf-like", "nothing", "now try", ""]
    labels = ["x", "x", "y", "y", None, "y"]
    found = attribute_trigger(texts, labels, "cf")
    assert found.rows == (0, 1, 2)
    assert (found.label, found.rows_with_label) == ("x", (0, 1))
    assert attribute_trigger(texts, labels, "try cf").rows == (0,)
    assert attribute_trigger(texts, labels, "now & try").rows == (0, 4)
    assert attribute_trigger(texts, labels, "Cf…").rows == (0, 1, 2)
    assert attribute_trigger(texts, labels, "…hing & no…").rows == (3,)
    assert attribute_trigger(texts, labels, "absent") == attribute_trigger([], [], "absent")
    with pytest.raises(PedigreeError, match="no words"):
        attribute_trigger(texts, labels, "  ")


def test_the_rows_of_a_finding_are_those_that_attribution_names() -> None:
    table, poisoned = plant(clean(), ["qz"], 30)
    found = attribute_trigger(*table, "qz")
    assert set(found.rows_with_label) == poisoned == named(find(table))
