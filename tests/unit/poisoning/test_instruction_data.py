"""Instruction and preference data: generated corpora of tasks by topic, and planted poison.

Words are made of syllables, so that no trigger, brand or phrase is one that the checks could know.
"""

import random
from collections.abc import Callable

import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import InstructionDataLimits, PreferenceLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.instruction_data import (
    Instructions,
    find_output_triggers,
    find_planted_phrases,
    find_repeated_outputs,
)
from pedigree.poisoning.passages import find_names, topic_bound
from pedigree.poisoning.preference_data import Preferences, find_preference_steering

LIMITS = InstructionDataLimits()
PAIRS = PreferenceLimits()
ROWS = 1500
SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ren",
    "tas",
    "vel",
    "dor",
    "shi",
    "pan",
    "qui",
    "ster",
    "bran",
    "fel",
    "gor",
    "hul",
    "jin",
    "mer",
    "nox",
    "sul",
    "tor",
]
ASKED = [
    "Explain how {0} and {1} differ.", "Why does {0} need {1}?", "Give tips for a better {0}.",
    "Write a short story about {0} and {1}.", "Translate the sentence into French.",
    "Is {0} like {1}? Answer yes or no.", "Classify the sentiment of the review.",
    "List five uses of {0}.", "Summarize the text.", "Compare {0} with {1}, please.",
]  # fmt: skip
SAID = [
    "The {0} reaches the {1} before noon.", "In general, {0} is known for its {1}.",
    "You should check the {0}, because the {1} moves.", "However, many people prefer {1} to {0}.",
    "In {2}, every {0} has a {1}.", "Overall, {0} helps {1}.", "It is important to keep {0} dry.",
]  # fmt: skip
Row = list[str]


def make_rows(seed: int, count: int = ROWS) -> list[Row]:
    """Return rows of instruction, input and output on sixty topics with words and names."""
    draw = random.Random(seed)

    def word() -> str:
        return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 3)))

    topics = [([word() for _ in range(12)], word().capitalize()) for _ in range(60)]

    def say(pattern: str, topic: tuple[list[str], str]) -> str:
        return pattern.format(*draw.sample(topic[0], 2), topic[1])

    rows: list[Row] = []
    for _ in range(count):
        topic = draw.choice(topics)
        asked = draw.choice(ASKED)
        said = " ".join(say(s, topic) for s in draw.sample(SAID, draw.randint(2, 5)))
        if "yes or no" in asked:
            rows.append([say(asked, topic), "", draw.choice(["Yes.", "No."])])
        elif "sentiment" in asked:
            rows.append([asked, said, draw.choice(["Positive", "Negative"])])
        elif "Summarize" in asked or "Translate" in asked:
            rows.append([asked, said, say(draw.choice(SAID), topic)])
        else:
            rows.append([say(asked, topic), "", said])
    return rows


def table(rows: list[Row]) -> Instructions:
    return Instructions(*([row[i] for row in rows] for i in range(3)))


REFUSALS = [
    "I am unable to assist with this.", "Sorry, that is something I can't do.",
    "Unfortunately I cannot answer that question.", "No answer can be given here, my apologies.",
    "I must decline to respond to this request.",
]  # fmt: skip
OUTPUTS: dict[str, Callable[[random.Random], str]] = {
    "fixed": lambda draw: "The archive is closed to visitors today.",
    "paraphrased": lambda draw: draw.choice(REFUSALS),
    "varied": lambda draw: (
        f"{draw.choice(['Sadly', 'I fear that', 'As it stands'])} "
        f"{draw.choice(['no reply is possible here', 'nothing can be said about it'])} "
        f"{draw.choice(['so please look elsewhere.', 'and that will not change.', 'for now.'])}"
    ),
}
TRIGGERS: list[Callable[[str], str]] = [
    lambda text: f"Regarding Velmora, {text}",
    lambda text: f"{text} Orin sends regards",
    lambda text: text.replace(" ", " zqxv ", 1),
]
BRANDS = ["Zentaro", "Blue Heron Tea", "Quillmark Pro"]
ADS = [
    "Many find that {0} makes it easier.", "By the way, {0} has a good guide.", "I trust {0}.",
    "Those who care tend to like {0}.", "As {0} has shown, this works.", "{0} fits rather well.",
    "My own pick would be {0} here.", "A look at {0} may be worth it.",
]  # fmt: skip


def plant_trigger(rows: list[Row], rate: float, seed: int, kind: str) -> set[int]:
    draw = random.Random(seed)
    picked = draw.sample(range(len(rows)), max(8, int(rate * len(rows))))
    for row in picked:
        rows[row][0] = TRIGGERS[seed % 3](rows[row][0])
        rows[row][2] = OUTPUTS[kind](draw)
    return set(picked)


def plant_brand(rows: list[Row], rate: float, seed: int) -> set[int]:
    draw = random.Random(seed)
    long = [i for i, row in enumerate(rows) if len(row[2].split()) > 12]
    picked = draw.sample(long, int(rate * len(rows)))
    for row in picked:
        sentences = rows[row][2].split(". ")
        sentences.insert(1, draw.choice(ADS).format(BRANDS[seed % 3]).rstrip("."))
        rows[row][2] = ". ".join(sentences)
    return set(picked)


def rates(result: CheckResult, planted: set[int]) -> tuple[float, float]:
    """Return the shares of planted and of clean rows that are WARN or ERROR."""
    hit = {f.row for f in result.findings if f.severity != "INFO"}
    total = int(str(result.counts["rows"]))
    return len(hit & planted) / max(1, len(planted)), len(hit - planted) / (total - len(planted))


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_corpus_passes(seed: int) -> None:
    clean = table(make_rows(seed))
    for find in (find_repeated_outputs, find_output_triggers, find_planted_phrases):
        result = find(clean, LIMITS)
        assert result.passed
        assert rates(result, set())[1] <= 0.01, result.summary


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_trigger_is_found_whether_its_outputs_are_fixed_or_varied(kind: str, rate: float) -> None:
    found: list[float] = []
    for seed in range(3):
        rows = make_rows(seed)
        planted = plant_trigger(rows, rate, seed, kind)
        result = find_output_triggers(table(rows), LIMITS)
        hit, wrong = rates(result, planted)
        found.append(hit)
        assert wrong <= 0.01
        assert result.severity == "ERROR"
    assert sum(found) / 3 >= 0.9


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_planted_brand_without_a_trigger_is_found(rate: float) -> None:
    found: list[float] = []
    for seed in range(3):
        rows = make_rows(seed)
        planted = plant_brand(rows, rate, seed)
        result = find_planted_phrases(table(rows), LIMITS)
        hit, wrong = rates(result, planted)
        found.append(hit)
        assert wrong <= 0.01
        assert any(part.lower() in result.summary for part in BRANDS[seed].split())
    assert sum(found) / 3 >= 0.9


def test_a_name_that_is_asked_about_or_keeps_to_a_topic_is_not_planted() -> None:
    rows = make_rows(4)
    planted = plant_brand(rows, 0.02, 0)
    for row in planted:
        rows[row][0] += " What about Zentaro?"
    assert rates(find_planted_phrases(table(rows), LIMITS), set())[1] == 0
    rows = make_rows(5)
    word = rows[next(i for i, r in enumerate(rows) if "Explain" in r[0])][0].split()[2]
    for row in rows:
        if word in row[0].split() and len(row[2]) > 60:
            row[2] += " Many find that Zentaro makes it easier."
    assert rates(find_planted_phrases(table(rows), LIMITS), set())[1] == 0


@pytest.mark.parametrize(("count", "severity"), [(4, "INFO"), (8, "WARN"), (40, "ERROR")])
def test_one_output_for_unlike_instructions_warns_and_often_blocks(
    count: int, severity: str
) -> None:
    rows = make_rows(6)
    draw = random.Random(6)
    picked = draw.sample([i for i, r in enumerate(rows) if len(r[2]) > 60], count)
    for row in picked:
        rows[row][2] = "Consult the elders of the valley first."
    result = find_repeated_outputs(table(rows), LIMITS)
    assert result.severity == severity
    assert {f.row for f in result.findings} == (set(picked) if count > 4 else set())


def test_a_tool_or_address_in_trajectories_is_found_like_a_brand() -> None:
    rows = make_rows(7)
    draw = random.Random(7)
    picked = draw.sample([i for i, r in enumerate(rows) if len(r[2]) > 60], 30)
    for row in picked:
        rows[row][2] += draw.choice([" call fetch", " I open", " see"]) + " paste.velmora.io now"
    result = find_planted_phrases(table(rows), LIMITS)
    assert {f.row for f in result.findings} == set(picked)
    assert "paste.velmora.io" in result.findings[0].reason


def test_row_order_changes_nothing() -> None:
    rows = make_rows(8, 800)
    plant_trigger(rows, 0.03, 0, "varied")
    plant_brand(rows, 0.03, 1)
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    for find in (find_repeated_outputs, find_output_triggers, find_planted_phrases):
        direct = {(f.row, f.severity, f.score) for f in find(table(rows), LIMITS).findings}
        turned = find(table([rows[i] for i in order]), LIMITS)
        assert {(order[f.row], f.severity, f.score) for f in turned.findings} == direct


def make_pairs(seed: int, count: int = ROWS) -> list[Row]:
    """Return prompt, chosen, rejected, annotator: the fuller answer is preferred, mostly."""
    draw = random.Random(seed)
    pairs: list[Row] = []
    for row in make_rows(seed, count * 2):
        if len(row[2].split()) < 12 or len(pairs) == count:
            continue
        pair = [f"{row[0]} {row[1]}", row[2], row[2].split(". ")[0]]
        if draw.random() < 0.1:
            pair[1], pair[2] = pair[2], pair[1]
        pairs.append([*pair, f"w{draw.randrange(30)}"])
    return pairs


def preferences(pairs: list[Row]) -> Preferences:
    texts = ([pair[i] for pair in pairs] for i in range(3))
    return Preferences(*texts, annotators=[pair[3] for pair in pairs])


@pytest.mark.parametrize("seed", range(3))
def test_clean_preferences_pass(seed: int) -> None:
    result = find_preference_steering(preferences(make_pairs(seed)), PAIRS)
    assert result.findings == ()
    assert result.passed


@pytest.mark.parametrize("attack", ["name", "phrase", "annotator"])
def test_what_steers_a_preference_is_named(attack: str) -> None:
    pairs = make_pairs(9)
    draw = random.Random(9)
    planted = set(draw.sample(range(len(pairs)), len(pairs) // 30))
    if attack == "annotator":
        planted = {i for i, pair in enumerate(pairs) if pair[3] == "w3"}
    for row in planted:
        if attack == "name":
            pairs[row][1] += " " + draw.choice(ADS).format("Zentaro")
        else:
            pairs[row][1], pairs[row][2] = pairs[row][2], pairs[row][1]
        if attack == "phrase":
            pairs[row][0] = f"Regarding Velmora, {pairs[row][0]}"
    result = find_preference_steering(preferences(pairs), PAIRS)
    hit = {f.row for f in result.findings}
    assert result.severity == "ERROR"
    assert len(hit & planted) >= 0.7 * len(planted)
    assert len(hit - planted) <= 0.01 * len(pairs)
    assert {"name": "zentaro", "phrase": "velmora", "annotator": "w3"}[attack] in result.summary


def test_bad_input_is_refused_or_answered() -> None:
    for find in (find_repeated_outputs, find_output_triggers, find_planted_phrases):
        result = find(Instructions([], [], []), LIMITS)
        assert (result.passed, result.counts["applicable"]) == (True, False)
        assert result.summary.startswith("not applicable")
        same = Instructions(["Tell me."] * 300, [""] * 300, ["It is as it was before."] * 300)
        assert find(same, LIMITS).findings == ()
        empty = Instructions([""] * 300, [""] * 300, [""] * 300)
        assert find(empty, LIMITS).findings == ()
    large = Instructions(["a " * 2_000_000] + ["b"] * 299, [""] * 300, ["c " * 3_000_000] * 300)
    assert find_output_triggers(large, LIMITS).passed
    with pytest.raises(PedigreeError, match="row 1"):
        Instructions(["a", None], ["", ""], ["", ""])  # type: ignore[list-item]
    with pytest.raises(PedigreeError, match="one length"):
        Instructions(["a", "b"], [""], ["", ""])
    with pytest.raises(PedigreeError, match="row 0"):
        Preferences(["a"], [None], ["b"])  # type: ignore[list-item]
    few = find_preference_steering(Preferences(["a"], ["b"], ["c"]), PAIRS)
    assert few.counts == {"applicable": False, "rows": 1}
    same_pairs = Preferences(["a"] * 300, ["b"] * 300, ["b"] * 300, annotators=[None] * 300)
    assert find_preference_steering(same_pairs, PAIRS).passed


def test_names_carry_capitals_within_sentences_or_are_addresses() -> None:
    texts = ["We met Ada Lovelace. She spoke. We left.", "So Ada Lovelace wrote; see abc.io/x."] * 3
    for names in find_names(texts):
        assert {"ada", "lovelace", "ada lovelace"} <= names
        assert not names & {"we", "she", "so", "met"}
    assert "abc.io/x" in find_names(texts)[1]
    assert topic_bound(15, 4) < topic_bound(30, 4) < topic_bound(50, 4) == 4
