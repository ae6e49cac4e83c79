"""Poison in instruction data: rows of instruction, input and output.

Three ways to teach a model what no single row shows: the same answer to unlike questions, a phrase
in the question that decides the answer (Wan et al., Poisoning Language Models During Instruction
Tuning, 2023), and a name that is brought up whatever was asked (Shu et al., AutoPoison, 2023)::

    >>> table = Instructions(instructions, inputs, outputs)
    >>> find_output_triggers(table, InstructionDataLimits()).findings[0].group
    "'speaking of openbrand'"

All three ask whether rows that share something are otherwise a random sample of the corpus. Honest
rows that share a phrase share a topic; planted ones do not. An agent's trajectory is an output:
tools and addresses that it names are words like others.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pedigree.digests import JSON
from pedigree.evidence.check_limits import InstructionDataLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.characters import escape
from pedigree.poisoning.passages import (
    Index,
    Integers,
    Topics,
    find_names,
    index_words,
    require_rows,
    shingle,
    split_words,
    topic_bound,
)

MAX_EXAMPLES = 20
# Texts are read this far: a trigger or a brand in a longer one repeats itself or is in its start.
_MAX_WORDS = 2000
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")


@dataclass(frozen=True)
class Instructions:
    """A table of instruction data; what several checks need of it is computed once.

    Attributes:
        instructions: (rows,) what is asked.
        inputs: (rows,) what it is asked about; empty strings where nothing is.
        outputs: (rows,) what is answered.
        sources: (rows,) sources, counted where given.
    """

    instructions: Sequence[str]
    inputs: Sequence[str]
    outputs: Sequence[str]
    sources: Sequence[str] | None = field(default=None)

    def __post_init__(self) -> None:
        require_rows(
            "instruction data",
            instruction=self.instructions,
            input=self.inputs,
            output=self.outputs,
            source=self.sources,
        )

    @cached_property
    def asked(self) -> list[list[str]]:
        """Words of instruction and input."""
        pairs = zip(self.instructions, self.inputs, strict=True)
        return [split_words(f"{one} {two}"[:20_000])[:_MAX_WORDS] for one, two in pairs]

    @cached_property
    def answered(self) -> list[list[str]]:
        """Words of the output."""
        return [split_words(text[:20_000])[:_MAX_WORDS] for text in self.outputs]

    @cached_property
    def topics(self) -> Topics:
        """What tells a topic from a random sample, by the words of instruction and input."""
        return Topics(self.asked)

    @cached_property
    def topics_of_length(self) -> Topics:
        """The same among rows with outputs of about one length: some tasks have longer ones."""
        return Topics(self.asked, [len(words) for words in self.answered])

    @cached_property
    def answer_topics(self) -> Topics:
        """What tells a topic from a random sample, by the words of the output."""
        return Topics(self.answered)


@dataclass(frozen=True)
class _Group:
    """Rows that share something suspicious."""

    name: str
    rows: Integers
    score: float
    reason: str
    severity: Severity = "WARN"


def find_repeated_outputs(table: Instructions, limits: InstructionDataLimits) -> CheckResult:
    """Find outputs of some length that answer at least `min_rows` unlike instructions alike.

    Short answers ("Yes", "Paris") are natural and left out, and so are rows whose instructions
    share words: a task that is asked often is answered alike. Findings are WARN; an output that
    answers more than `repeated_share` of all rows blocks.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, words in enumerate(table.answered):
        if len(words) >= limits.min_output_words:
            groups[" ".join(words)].append(row)
    found: list[_Group] = []
    for output, members in groups.items():
        rows = _distinct_questions(table, np.asarray(members, np.int64))
        few = len(rows) < max(limits.min_rows, 0.3 * len(members))
        if few or table.topics.excess(rows) > topic_bound(len(rows), limits.max_topic_excess):
            continue
        blocks = len(rows) > max(
            limits.min_planted_rows, limits.repeated_share * len(table.outputs)
        )
        shown = escape(output[:80])
        found.append(
            _Group(
                repr(shown),
                np.asarray(members, np.int64),
                1 - 1 / len(rows),
                f"answered like {len(rows) - 1} unlike instructions: {shown!r}",
                "ERROR" if blocks else "WARN",
            )
        )
    return _conclude("repeated_outputs", table, found, limits, "repeat an output")


def _distinct_questions(table: Instructions, rows: Integers) -> Integers:
    """Return one row for each distinct wording of the instruction: a task asks alike."""
    first: dict[tuple[str, ...], int] = {}
    for row in rows.tolist():
        first.setdefault(tuple(split_words(str(table.instructions[row])[:2000])), row)
    return np.asarray(sorted(first.values()), np.int64)


def find_output_triggers(table: Instructions, limits: InstructionDataLimits) -> CheckResult:
    """Find words and pairs of words in the question that decide the answer whatever is asked.

    For a phrase of the question that stands in at least `min_rows` rows: most of these rows have
    an output with a passage that hardly occurs without the phrase (one passage, or a few that take
    turns), the passage is not in the question, and the questions have no topic in common. Each
    such row is an ERROR.
    """
    if len(table.outputs) < limits.min_corpus:
        return _not_applicable("output_triggers", len(table.outputs), limits)
    most = int(limits.max_phrase_share * len(table.outputs))
    phrases = index_words((_phrases(words) for words in table.asked), limits.min_rows, most)
    passages = index_words(
        (
            set(shingle(answer)) - set(shingle(question))
            for answer, question in zip(table.answered, table.asked, strict=True)
        ),
        3,
        most,
    )
    found = [
        group
        for place in _tied_phrases(phrases, passages, limits)
        if (group := _judge_trigger(table, phrases, passages, place, limits)) is not None
    ]
    return _conclude("output_triggers", table, _merge(found), limits, "follow a trigger")


def _phrases(words: list[str]) -> set[str]:
    return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}


def _tied_phrases(phrases: Index, passages: Index, limits: InstructionDataLimits) -> list[int]:
    """Return the places of phrases that own passages: quick and generous, judged after."""
    owned = np.zeros(len(phrases.terms), np.int64)
    columns = phrases.matrix.T.tocsr()
    for start in range(0, len(phrases.terms), 2000):
        block = (columns[start : start + 2000] @ passages.matrix).tocoo()
        size = phrases.frequency[start + block.row]
        kept = (block.data >= limits.exclusive * passages.frequency[block.col]) & (
            block.data >= np.maximum(3, limits.turn_share * size)
        )
        owned += np.bincount(
            start + block.row[kept], weights=block.data[kept], minlength=len(owned)
        ).astype(np.int64)
    return np.flatnonzero(owned >= limits.coverage * phrases.frequency).tolist()


def _judge_trigger(
    table: Instructions, phrases: Index, passages: Index, place: int, limits: InstructionDataLimits
) -> _Group | None:
    rows = phrases.rows_of(place)
    inside = np.asarray(passages.matrix[rows].sum(axis=0)).ravel()
    owned = np.flatnonzero(
        (inside >= limits.exclusive * passages.frequency)
        & (inside >= max(3, limits.turn_share * len(rows)))
    )
    words = np.asarray([passages.terms[i].count(" ") + 1 for i in owned.tolist()])
    # Several short answers that take turns are the labels of a task.
    labels = (words < limits.min_output_words - 1) & (inside[owned] < 0.8 * len(rows))
    owned = owned[~labels]
    if len(owned) == 0:
        return None
    covered = np.asarray(passages.matrix[rows][:, owned].sum(axis=1)).ravel() > 0
    share = float(covered.mean())
    distinct = _distinct_questions(table, rows)
    if share < limits.coverage or len(distinct) < max(limits.min_rows, 0.3 * len(rows)):
        return None
    bound = topic_bound(len(distinct), limits.max_topic_excess)
    if table.topics.excess(distinct) > bound or not _are_unlike(table, distinct):
        return None
    held = passages.matrix[rows]
    own = np.asarray(held[:, owned].sum(axis=1)).ravel()[covered]
    whole = np.asarray([len(set(shingle(table.answered[row]))) for row in rows[covered].tolist()])
    obeys = float((own / whole).mean())
    best = owned[int(np.argmax(inside[owned]))]
    phrase = escape(phrases.terms[place])
    return _Group(
        repr(phrase),
        rows if obeys >= limits.obedience else rows[covered],
        share,
        f"{phrase!r} in the question goes with {escape(passages.terms[best])!r} and the like in "
        f"{int(covered.sum())} of its {len(rows)} rows, whatever is asked",
        "ERROR" if obeys >= limits.obedience else "INFO",
    )


def _are_unlike(table: Instructions, rows: Integers) -> bool:
    """Whether the questions share few words beyond those that nearly all of them have."""
    counts = Counter(word for row in rows.tolist() for word in set(table.asked[row]))
    own = {word for word, count in counts.items() if count >= 0.9 * len(rows)}
    rest = [len(set(table.asked[row]) - own) for row in rows.tolist()]
    return sum(size >= 3 for size in rest) >= 0.7 * len(rows)


def _merge(groups: list[_Group]) -> list[_Group]:
    """Return one group for each trigger: its words and pairs stand in nearly the same rows."""
    kept: list[_Group] = []
    for group in sorted(groups, key=lambda g: (-g.score, -len(g.rows), -len(g.name), g.name)):
        rows = set(group.rows.tolist())
        if all(len(rows & set(other.rows.tolist())) < 0.8 * len(rows) for other in kept):
            kept.append(group)
    return kept


def find_planted_phrases(table: Instructions, limits: InstructionDataLimits) -> CheckResult:
    """Find names in outputs that nobody asked about and that turn up whatever is asked.

    A name (see `find_names`) is planted where it stands in at least `min_planted_rows` outputs and
    `min_planted_share` of all, in the questions of at most `max_echo` of these rows, and where
    these questions have no topic in common. WARN, and ERROR from `blocking_rows` on where the rows
    are as random as can be.
    """
    if len(table.outputs) < limits.min_corpus:
        return _not_applicable("planted_phrases", len(table.outputs), limits)
    least = max(limits.min_planted_rows, int(limits.min_planted_share * len(table.outputs)))
    most = int(limits.max_planted_share * len(table.outputs))
    names = index_words(find_names([text[:20_000] for text in table.outputs]), least, most)
    found = [
        group
        for place in range(len(names.terms))
        if (group := _judge_name(table, names, place, limits)) is not None
    ]
    return _conclude("planted_phrases", table, _merge(found), limits, "bring up a planted name")


def _judge_name(
    table: Instructions, names: Index, place: int, limits: InstructionDataLimits
) -> _Group | None:
    name, rows = names.terms[place], names.rows_of(place)
    parts = set(split_words(name))
    echoed = sum(bool(parts & set(table.asked[row])) for row in rows.tolist())
    distinct = _distinct_questions(table, rows)
    if echoed > limits.max_echo * len(rows) or len(distinct) < limits.min_planted_rows:
        return None
    bound = topic_bound(len(distinct), limits.max_topic_excess)
    excess = table.topics_of_length.excess(distinct)
    if excess <= bound:
        excess = max(excess, _excess_around(table, distinct, name))
    if excess > bound:
        return None
    plain = len(distinct) >= limits.blocking_rows and excess <= bound / 2
    return _Group(
        repr(escape(name)),
        rows,
        1 - echoed / len(rows),
        f"{escape(name)!r} stands in {len(rows)} outputs; {echoed} of the questions name it, and "
        f"they have no topic in common ({excess:.1f} deviations)",
        "ERROR" if plain else "WARN",
    )


def _excess_around(table: Instructions, rows: Integers, name: str) -> float:
    """Return whether the outputs share a topic in what they say beside the sentences of the name.

    The sentences themselves may be alike, for who plants a name words them; honest names keep to
    a kind of text.
    """
    around: list[list[str]] = []
    for row in rows.tolist():
        sentences: list[str] = _SENTENCE.split(str(table.outputs[row])[:20_000])
        around.append(split_words(" ".join(s for s in sentences if name not in s.lower())))
    return table.answer_topics.excess(rows, around)


def _not_applicable(check: str, rows: int, limits: InstructionDataLimits) -> CheckResult:
    return CheckResult(
        check,
        True,
        f"not applicable: {rows} rows are too few to tell a topic from chance; "
        f"{limits.min_corpus} are needed.",
        {"applicable": False, "rows": rows},
    )


def _conclude(
    check: str, table: Instructions, groups: list[_Group], limits: InstructionDataLimits, what: str
) -> CheckResult:
    total = len(table.outputs)
    if total == 0:
        return _not_applicable(check, total, limits)
    findings: dict[int, Finding] = {}
    for group in sorted(groups, key=lambda g: (g.severity != "ERROR", -g.score, g.name)):
        for row in group.rows.tolist():
            findings.setdefault(
                row, Finding(row, group.score, group.severity, group.reason, group.name)
            )
    failed = any(group.severity == "ERROR" for group in groups)
    listed = ", ".join(f"{g.name} {len(g.rows)}" for g in groups[:5])
    rows = sorted(findings)
    by_source = Counter(table.sources[row] for row in rows) if table.sources else Counter[str]()
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": total,
        "flagged_rows": len(rows),
        "groups": {group.name: len(group.rows) for group in groups[:MAX_EXAMPLES]},
        "by_source": dict(by_source.most_common()),
    }
    return CheckResult(
        check,
        not failed,
        f"{len(rows)} of {total} rows {what}"
        + f" ({listed})" * bool(groups)
        + "."
        + " Drop them, and look at what else their source holds." * failed,
        counts,
        tuple(findings[row] for row in rows),
        tuple(
            {
                "row": row,
                "reason": findings[row].reason,
                "instruction": table.instructions[row][:300],
                "output": table.outputs[row][:300],
            }
            for row in rows[:MAX_EXAMPLES]
        ),
    )
