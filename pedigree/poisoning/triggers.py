"""Trigger n-grams: words, phrases, pairs and parts of words that a poisoner tied to a label.

The check of a labelled table. It reads the rows (`ngrams`), scores every repeated n-gram with every
label (`candidates`), picks those that no natural n-gram of the corpus matches (`selection`) and
names their rows (`attribution`). Nothing is tuned to a corpus: the corpus is its own control.

    >>> result = find_trigger_ngrams(texts, labels, TriggerLimits())
    >>> {finding.group for finding in result.findings if finding.severity == "ERROR"}
    {"n-gram 'cf' with label 'positive'"}
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import TriggerLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.attribution import is_poisoned, weigh_rows
from pedigree.poisoning.candidates import Candidates, score_affixes, score_candidates
from pedigree.poisoning.ngrams import Corpus, Floats, read_corpus
from pedigree.poisoning.selection import Trigger, select_triggers

CHECK = "trigger_ngrams"
MAX_EXAMPLES = 20
_EXAMPLES_EACH = 4
_REPORTED_REST = 3  # what is not strong enough but worth a look
_MAX_REST_EXPECTED = 2.0
# Rows up to which the smallest n-gram is that of the policy; beyond, it grows with the root, so
# that the work grows with the rows and chance matches do not.
_ROWS_OF_MINIMUM = 12_000
_MIN_LABEL_ROWS = 10
# Beginnings of rare words are often pure by nature (dialling codes in spam); only what the rest of
# the rows contradicts is suspect.
_MIN_AFFIX_CONTRADICTED = 5.0


@dataclass(frozen=True)
class _Group:
    """A trigger as it is reported."""

    trigger: Trigger
    name: str
    label: str
    severity: Severity
    posterior: Floats


def find_trigger_ngrams(
    texts: Sequence[str],
    labels: Sequence[str | None],
    limits: TriggerLimits,
    *,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> CheckResult:
    """Find n-grams that behave like backdoor triggers, and name the rows that carry them.

    Three signs are added up for each n-gram and label: it sits in its texts as if inserted, the
    rest of its rows contradicts the label, and its rows have the label more often than n-grams of
    this corpus usually do. The first finds triggers in correctly labelled rows, the second those in
    mislabelled ones. How strong is too strong is decided by a permutation null of the corpus's own
    n-grams (`selection`), with false discoveries controlled.

    The check fails when a trigger is so strong that fewer than `error_expected` natural n-grams
    would match it. Weaker ones warn. Row order, copies and label names change nothing.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels; a row without one is left out.
        limits: thresholds from the policy.
        seed: of the random gaps that show what insertion looks like.
        sources: (rows,) their sources, counted for the rows that are named.

    Raises:
        PedigreeError: the columns differ in length.
    """
    for name, column in (("labels", labels), ("sources", sources)):
        if column is not None and len(column) != len(texts):
            raise PedigreeError(
                f"There are {len(texts)} texts and {len(column)} {name}: give one for each row."
            )
    corpus = read_corpus(texts, labels)
    reason = _why_not_applicable(corpus, limits)
    if reason:
        return _not_applicable(corpus, len(texts), reason)
    growth = math.sqrt(max(1.0, corpus.n_rows / _ROWS_OF_MINIMUM))
    min_rows = round(limits.min_rows * growth)
    candidates = score_candidates(corpus, min_rows, limits.max_share, seed)
    found, rest = select_triggers(corpus, candidates, limits.warn_expected)
    rng = np.random.default_rng([seed, 1])
    groups = [_report(corpus, candidates, trigger, limits, rng) for trigger in found]
    groups += _find_affix_triggers(corpus, candidates, found, min_rows, limits)
    weaker = [
        _Group(t, _spell(corpus, candidates, t), corpus.label_names[t.label], "INFO", np.ones(0))
        for t in rest[:_REPORTED_REST]
        if t.expected <= _MAX_REST_EXPECTED
    ]
    return _conclude(corpus, candidates, groups, weaker, texts, sources)


def _find_affix_triggers(
    corpus: Corpus,
    candidates: Candidates,
    found: list[Trigger],
    min_rows: int,
    limits: TriggerLimits,
) -> list[_Group]:
    """Return triggers that are glued to words, in rows that no other trigger explains.

    Only those that block. Words of one root are a topic (`ide…` of identity and identify came to
    an expectation of 0.028 on BANKING77), and where labels are wrong honest endings look odd.
    """
    affixes = score_affixes(corpus, candidates, max(min_rows, limits.error_min_rows))
    claimed = np.zeros(corpus.n_rows, dtype=np.bool_)
    claimed[[row for trigger in found for row in trigger.rows]] = True
    glued, _ = select_triggers(
        corpus,
        affixes,
        limits.error_expected,
        claimed=claimed,
        min_contradicted=_MIN_AFFIX_CONTRADICTED,
    )
    return [
        _Group(
            trigger,
            _spell(corpus, affixes, trigger),
            corpus.label_names[trigger.label],
            "ERROR",
            np.ones(len(trigger.rows)),
        )
        for trigger in glued
    ]


def _why_not_applicable(corpus: Corpus, limits: TriggerLimits) -> str:
    if corpus.n_rows < limits.min_corpus_rows:
        return (
            f"{corpus.n_rows} distinct labelled rows are too few to tell a trigger from a word "
            f"({limits.min_corpus_rows} are needed)"
        )
    if corpus.n_labels < 2:
        return "all rows have one label, so that no n-gram can be tied to it"
    largest = int(np.bincount(corpus.label).max())
    if largest < _MIN_LABEL_ROWS:
        return (
            f"no label has more than {largest} distinct rows ({_MIN_LABEL_ROWS} are needed): is "
            "this column a label?"
        )
    return ""


def _not_applicable(corpus: Corpus, rows: int, reason: str) -> CheckResult:
    counts = _count_rows(corpus, rows)
    return CheckResult(CHECK, True, f"not applicable: {reason}.", {"applicable": False, **counts})


def _count_rows(corpus: Corpus, rows: int) -> dict[str, JSON]:
    return {
        "rows": rows,
        "distinct_rows": corpus.n_rows,
        "unlabelled_rows": corpus.unlabelled,
        "cut_rows": corpus.cut,
        "labels": corpus.n_labels,
    }


def _report(
    corpus: Corpus,
    candidates: Candidates,
    trigger: Trigger,
    limits: TriggerLimits,
    rng: np.random.Generator,
) -> _Group:
    posterior = weigh_rows(corpus, candidates, trigger, rng)
    severity: Severity = "WARN"
    enough = int(is_poisoned(posterior).sum()) >= limits.error_min_rows
    if enough and trigger.expected <= limits.error_expected:
        severity = "WARN" if _is_boilerplate(corpus, candidates, trigger) else "ERROR"
    name = _spell(corpus, candidates, trigger)
    return _Group(trigger, name, corpus.label_names[trigger.label], severity, posterior)


def _is_boilerplate(corpus: Corpus, candidates: Candidates, trigger: Trigger) -> bool:
    """Tell whether it always opens or closes a text and contradicts nothing.

    So do the headers and signatures of a source that has one label. A person must decide.
    """
    if trigger.contradicted > 0:
        return False
    ngrams = candidates.ngrams
    position = ngrams.position[ngrams.ngram == trigger.ngrams[0]]
    row = corpus.row_of[position]
    first = position == corpus.starts[row]
    last = position + ngrams.length[trigger.ngrams[0]] == corpus.starts[row + 1]
    return bool(max(first.mean(), last.mean()) >= 0.9)


def _spell(corpus: Corpus, candidates: Candidates, trigger: Trigger) -> str:
    ngrams = candidates.ngrams
    if ngrams.names is not None:
        return ngrams.names[trigger.ngrams[0]]
    return " & ".join(
        corpus.spell(int(ngrams.position[np.searchsorted(ngrams.ngram, one)]), ngrams.length[one])
        for one in trigger.ngrams
    )


def _conclude(
    corpus: Corpus,
    candidates: Candidates,
    groups: list[_Group],
    weaker: list[_Group],
    texts: Sequence[str],
    sources: Sequence[str] | None,
) -> CheckResult:
    findings = _list_findings(corpus, groups, weaker)
    named = sorted({f.row for f in findings if f.severity != "INFO"})
    blocking = [group for group in groups if group.severity == "ERROR"]
    by_source = Counter([sources[row] for row in named] if sources is not None else [])
    counts: dict[str, JSON] = {
        "applicable": True,
        **_count_rows(corpus, len(texts)),
        "candidates": len(candidates),
        "triggers": len(groups),
        "blocking_triggers": len(blocking),
        "rows_named": len(named),
        "by_source": dict(by_source.most_common()),
        "strongest": [_describe(group) for group in (*groups, *weaker)[:MAX_EXAMPLES]],
    }
    return CheckResult(
        CHECK,
        not blocking,
        _summarise(groups, blocking, len(named), len(texts)),
        counts,
        findings,
        _examples(findings, texts, sources),
    )


def _list_findings(
    corpus: Corpus, groups: list[_Group], weaker: list[_Group]
) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    for group in (*groups, *weaker):
        trigger = group.trigger
        posterior = group.posterior if len(group.posterior) else np.ones(len(trigger.rows))
        named = is_poisoned(posterior)
        for row, chance, yes in zip(trigger.rows, posterior, named, strict=True):
            severity: Severity = group.severity if yes else "INFO"
            reason = _reason(group) + ("" if yes else "; here the word is probably natural")
            score = round(max(trigger.strength, 0.0) * float(chance), 4)
            findings += [
                Finding(original, score, severity, reason, _group_name(group))
                for original in corpus.originals[row]
            ]
    return tuple(sorted(findings, key=lambda f: (f.row, -f.score, f.group)))


def _group_name(group: _Group) -> str:
    return f"n-gram {group.name!r} with label {group.label!r}"


def _reason(group: _Group) -> str:
    trigger = group.trigger
    signs = [
        f"{text} {value:.1f}"
        for text, value in (
            ("inserted", trigger.inserted),
            ("rest contradicts the label", trigger.contradicted),
            ("label purer than usual", trigger.pure),
        )
        if value > 0
    ]
    return (
        f"{trigger.rows_any} distinct rows carry {group.name!r}, {len(trigger.rows)} of them "
        f"labelled {group.label!r}; natural n-grams as strong: {trigger.expected:.2g} expected "
        f"(nats: {', '.join(signs)})"
    )


def _describe(group: _Group) -> dict[str, JSON]:
    trigger = group.trigger
    return {
        "ngram": group.name,
        "label": group.label,
        "severity": group.severity,
        "rows": trigger.rows_any,
        "rows_with_label": len(trigger.rows),
        "natural_expected": float(f"{trigger.expected:.3g}"),
        "inserted": round(trigger.inserted, 2),
        "contradicted": round(trigger.contradicted, 2),
        "pure": round(trigger.pure, 2),
    }


def _summarise(groups: list[_Group], blocking: list[_Group], named: int, rows: int) -> str:
    if not groups:
        return f"No n-gram of {rows} rows looks like a trigger beyond the natural ones."
    listed = ", ".join(f"{g.name!r} with label {g.label!r}" for g in groups[:5])
    more = f" and {len(groups) - 5} more" if len(groups) > 5 else ""
    way_out = (
        " Look at the rows, and drop them or their source." if blocking else " Look at the rows."
    )
    return (
        f"{len(groups)} n-grams look like triggers, {len(blocking)} of them beyond doubt, in "
        f"{named} of {rows} rows: {listed}{more}.{way_out}"
    )


def _examples(
    findings: tuple[Finding, ...], texts: Sequence[str], sources: Sequence[str] | None
) -> tuple[dict[str, JSON], ...]:
    """Return the first rows of each trigger, the strongest trigger first."""
    seen: Counter[str] = Counter()
    records: list[dict[str, JSON]] = []
    for finding in sorted(findings, key=lambda f: (-f.score, f.row)):
        seen[finding.group] += 1
        if seen[finding.group] > _EXAMPLES_EACH or finding.severity == "INFO":
            continue
        record: dict[str, JSON] = {
            "row": finding.row,
            "group": finding.group,
            "severity": finding.severity,
            "text": texts[finding.row][:300],
        }
        if sources is not None:
            record["source"] = sources[finding.row]
        records.append(record)
        if len(records) == MAX_EXAMPLES:
            break
    return tuple(records)
