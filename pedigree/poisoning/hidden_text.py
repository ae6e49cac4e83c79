r"""Rows whose text is not what a reviewer sees: hidden characters and letters of another script.

What a model reads and what a person reads differ where a text holds look-alike letters, characters
without a glyph, or controls that reorder or delete (Boucher et al., Bad Characters, 2022). Such a
row is the smallest trigger there is, so one is enough for a warning; a corpus with more of them
than nature has, or in which they go with a label, blocks. Give the text as it was read::

    >>> result = find_hidden_text(raw_texts, HiddenTextLimits(), labels=labels)
    >>> result.findings[0].reason
    'zero-width: \\u200b (1 at character 14)'

Normalisation hides what this check looks for: never pass a canonical text.
"""

from collections import Counter
from collections.abc import Sequence

from scipy.stats import binom

from pedigree.digests import JSON
from pedigree.evidence.check_limits import HiddenTextLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.characters import escape, require_texts
from pedigree.poisoning.homoglyphs import find_doubles
from pedigree.poisoning.invisible import QUIET, Sign, find_invisible

MAX_EXAMPLES = 20
_HOMOGLYPH = 0.85


def find_hidden_text(
    texts: Sequence[str],
    limits: HiddenTextLimits,
    sources: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
) -> CheckResult:
    """Find every row with a homoglyph, an invisible or a reordering character out of place.

    Each such row is a finding of severity WARN. The check fails, and its findings are ERROR, when
    rows are at least `min_rows` and either more than `natural_share` of all gives by chance, or
    tied to one label (binomial tail below `significance` each). Characters that honest texts hold
    as a rule (soft hyphens, a byte order mark, icons of a private font) are findings, of severity
    WARN, only where they are tied to one label.

    Args:
        texts: (rows,) texts as read, before normalisation.
        limits: thresholds from the policy.
        sources: (rows,) their sources, counted where given.
        labels: (rows,) their labels, where there are any.

    Raises:
        PedigreeError: a text is missing.
    """
    require_texts(texts, "hidden_text")
    if not texts:
        return CheckResult(
            "hidden_text", True, "not applicable: there are no rows.", {"applicable": False}
        )
    every = _find_signs(texts)
    signs = {row: found for row, found in every.items() if found[0].score > QUIET}
    quiet = {row: found for row, found in every.items() if row not in signs}
    tail = float(binom.sf(len(signs) - 1, len(texts), limits.natural_share))
    label, label_tail = _tied_label(signs, labels)
    enough = len(signs) >= limits.min_rows
    failed = enough and min(tail, label_tail) < limits.significance
    quiet_tail = _tied_label(quiet, labels)[1] if len(quiet) >= limits.min_rows else 1.0
    suspects = signs | quiet if quiet_tail < limits.significance else signs
    kinds = Counter(kind for found in signs.values() for kind in {sign.kind for sign in found})
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": len(texts),
        "rows_with_hidden_text": len(signs),
        "binomial_tail": tail,
        "label_tail": label_tail,
        "rows_with_quiet_characters": len(quiet),
        "quiet_label_tail": quiet_tail,
        "by_kind": dict(sorted(kinds.items())),
        "by_source": _count_sources(signs, sources),
    }
    tied = f", tied to label {label!r}" if failed and label_tail < limits.significance else ""
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return CheckResult(
        "hidden_text",
        not failed,
        f"{len(signs)} of {len(texts)} rows hide something from the eye"
        + f" ({listed}){tied}" * bool(signs)
        + f" ({limits.natural_share:.1%} may)."
        + (" Drop the rows, or clean their source and ingest it again." * failed),
        counts,
        _findings(suspects, "ERROR" if failed else "WARN"),
        _examples(suspects, texts, sources),
    )


def _find_signs(texts: Sequence[str]) -> dict[int, list[Sign]]:
    """Return the signs of each row that has any, the most suspect first, by row."""
    signs: dict[int, list[Sign]] = {}
    for row, text in enumerate(texts):
        found = find_invisible(text)
        if found:
            signs[row] = found
    for row, words in find_doubles(texts).items():
        listed = ", ".join(words[:3]) + ", ..." * (len(words) > 3)
        signs.setdefault(row, []).append(Sign("homoglyph", _HOMOGLYPH, listed))
    return {row: sorted(signs[row], key=lambda sign: -sign.score) for row in sorted(signs)}


def _tied_label(
    signs: dict[int, list[Sign]], labels: Sequence[str | None] | None
) -> tuple[str | None, float]:
    """Return the label that the rows share beyond its frequency, and the chance of that."""
    if labels is None:
        return None, 1.0
    every = Counter(label for label in labels if label is not None)
    marked = Counter(label for row in signs if (label := labels[row]) is not None)
    total = sum(marked.values())
    tails = [
        (float(binom.sf(count - 1, total, every[label] / every.total())), label)
        for label, count in marked.items()
    ]
    best = min(tails, default=(1.0, None), key=lambda tail: tail[0])
    return best[1], min(1.0, best[0] * len(every)) if best[1] is not None else 1.0


def _findings(signs: dict[int, list[Sign]], severity: Severity) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            row,
            found[0].score,
            severity if found[0].score > QUIET else "WARN",
            _reason(found),
            found[0].kind,
        )
        for row, found in sorted(signs.items())
    )


def _reason(found: list[Sign]) -> str:
    listed = "; ".join(f"{sign.kind}: {sign.detail}" for sign in found[:3])
    return listed + f"; and {len(found) - 3} more" * (len(found) > 3)


def _count_sources(signs: dict[int, list[Sign]], sources: Sequence[str] | None) -> dict[str, JSON]:
    if sources is None:
        return {}
    return dict(Counter(sources[row] for row in signs).most_common())


def _examples(
    signs: dict[int, list[Sign]], texts: Sequence[str], sources: Sequence[str] | None
) -> tuple[dict[str, JSON], ...]:
    """Return the worst rows, their texts escaped: what is hidden must show."""
    worst = sorted(signs, key=lambda row: (-signs[row][0].score, row))[:MAX_EXAMPLES]
    records: list[dict[str, JSON]] = []
    for row in worst:
        record: dict[str, JSON] = {"row": row, "reason": _reason(signs[row])}
        record["text"] = escape(texts[row][:300])
        if sources is not None:
            record["source"] = sources[row]
        records.append(record)
    return tuple(records)
