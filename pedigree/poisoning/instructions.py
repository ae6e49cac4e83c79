r"""Texts that talk to the model instead of to the reader: instructions hidden in documents.

A retrieved or trained-on document that says "ignore what you were told" is an attack on whoever
reads with a model (Greshake et al., Not what you've signed up for, 2023; OWASP LLM01). No single
phrase proves it, so independent cues are added up: who is addressed, what is asked for, in which
form, and how it is concealed::

    >>> result = find_embedded_instructions(texts, InstructionLimits())
    >>> result.findings[0].reason
    'overrides earlier instructions ("ignore all previous instructions"), addresses a model ...'

Words are compared after `plain_reading`, which undoes case, spacing, invisible characters,
look-alikes and digits in place of letters. What an article quotes and discusses warns at most.
"""

import base64
import binascii
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.stats import binom

from pedigree.digests import JSON
from pedigree.evidence.check_limits import InstructionLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.characters import escape, read_as_latin, require_texts, strip_ignorables
from pedigree.poisoning.cues import CONCEALED, CUES, DISCUSSED, HINT, QUOTED, WEAKER

MAX_EXAMPLES = 20
# A discussed cue counts this much of its weight.
_DISCUSSED_SHARE = 0.35
# Longer documents are judged in pieces: cues far apart are no instruction.
_PIECE = 4000
_OVERLAP = 500
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,4096}={0,2}")
_SPELLED = re.compile(r"(?<![^\W_])(?:[a-z0-9@$][ .\-_*|]){5,}[a-z0-9@$](?![^\W_])")
_SPACES = re.compile(r"[ \t\r\f\v\u00a0]+")
_LEET = str.maketrans("013457@$", "oieastas")
_LEET_WORD = re.compile(r"(?<![^\s\"'(])[a-z013457@$]*[a-z][013457@$]+[a-z][a-z013457@$]*")


@dataclass(frozen=True)
class _Judgement:
    score: float
    cues: tuple[str, ...]
    discussed: bool


def find_embedded_instructions(
    texts: Sequence[str], limits: InstructionLimits, sources: Sequence[str] | None = None
) -> CheckResult:
    """Find the rows that give instructions to a model.

    Weights of the cues found in a piece of text are joined as chances, 1 - (1-a)(1-b)...; from
    `warn_score` on a row is WARN, from `block_score` on ERROR, unless it is discussed as an
    example. The check fails on an ERROR, or where rows are at least `min_rows` and more than
    `natural_share` gives by chance.

    Args:
        texts: (rows,) texts as read, before normalisation.
        limits: thresholds from the policy.
        sources: (rows,) their sources, counted where given.

    Raises:
        PedigreeError: a text is missing.
    """
    require_texts(texts, "embedded_instructions")
    if not texts:
        return CheckResult(
            "embedded_instructions",
            True,
            "not applicable: there are no rows.",
            {"applicable": False},
        )
    judged = {row: _judge(text) for row, text in enumerate(texts)}
    flagged = {row: one for row, one in judged.items() if one.score >= limits.warn_score}
    tail = float(binom.sf(len(flagged) - 1, len(texts), limits.natural_share))
    many = len(flagged) >= limits.min_rows and tail < limits.significance
    findings = tuple(
        Finding(row, one.score, _severity(one, limits, many), _reason(one), one.cues[0])
        for row, one in flagged.items()
    )
    blocking = sum(finding.severity == "ERROR" for finding in findings)
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": len(texts),
        "rows_with_instructions": len(flagged),
        "rows_that_block": blocking,
        "rows_that_discuss": sum(one.discussed for one in flagged.values()),
        "binomial_tail": tail,
        "by_source": dict(Counter(sources[r] for r in flagged).most_common()) if sources else {},
    }
    return CheckResult(
        "embedded_instructions",
        blocking == 0,
        f"{len(flagged)} of {len(texts)} rows give instructions to a model, {blocking} of them "
        "plainly." + " Drop them, and look at what else their source holds." * (blocking > 0),
        counts,
        findings,
        _examples(findings, texts, sources),
    )


def _severity(one: _Judgement, limits: InstructionLimits, many: bool) -> Severity:
    if one.discussed:
        return "WARN"
    return "ERROR" if many or one.score >= limits.block_score else "WARN"


def _reason(one: _Judgement) -> str:
    listed = ", ".join(one.cues[:4])
    return listed + " (quoted or discussed)" * one.discussed


def plain_reading(text: str) -> str:
    """Return the text as it sounds: small letters, one space, nothing invisible, no disguise.

    Compatibility forms and look-alike letters are folded to Latin ones, letters spelled out one by
    one are joined, and digits or signs within a word are read as the letters that they stand for.
    """
    folded = read_as_latin(text).casefold()
    if _SPELLED.search(folded):
        folded = _SPELLED.sub(lambda m: re.sub(r"[ .\-_*|]", "", m.group()), folded)
    if _LEET_WORD.search(folded):
        folded = _LEET_WORD.sub(lambda m: m.group().translate(_LEET), folded)
    return _SPACES.sub(" ", folded)


def _judge(text: str) -> _Judgement:
    best = _Judgement(0.0, (), False)
    for piece in _pieces(text):
        judged = _judge_piece(piece)
        if judged.score > best.score:
            best = judged
    return best


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, max(1, len(text)), _PIECE - _OVERLAP):
        yield text[start : start + _PIECE]
        if start + _PIECE >= len(text):
            return


def _judge_piece(text: str) -> _Judgement:
    weights: dict[str, float] = {}
    plain = plain_reading(text)
    open_text = _SPACES.sub(" ", text.casefold())
    if HINT.search(plain):
        weights |= _weigh(plain)
        if _is_disguised(plain, open_text, weights):
            weights |= _weigh_disguise(text, open_text, weights)
    if not text.isascii():
        weights |= _weigh(_fold(text))
    for hidden, how in _decoded(text):
        inner = _weigh(plain_reading(hidden))
        if inner:
            weights |= inner | {how: 0.6}
    if not weights:
        return _Judgement(0.0, (), False)
    discussed = DISCUSSED.search(plain) is not None and _is_quoted(text)
    rest = 1.0
    for weight in weights.values():
        rest *= 1 - weight * (_DISCUSSED_SHARE if discussed else 1)
    named = tuple(sorted(weights, key=lambda name: (-weights[name], name)))
    return _Judgement(round(1 - rest, 6), named, discussed)


def _fold(text: str) -> str:
    """Return the text of another script in small letters: its own letters, nothing invisible."""
    return " ".join(unicodedata.normalize("NFKC", strip_ignorables(text)).casefold().split())


def _weigh(plain: str) -> dict[str, float]:
    """Return the cues in a plain reading with their weights; concealment counts with a cue only."""
    found: dict[str, float] = {}
    concealed = [match.span() for match in CONCEALED.finditer(plain)]
    flat = " ".join(plain.split()) if "\n" in plain else ""  # a phrase over several lines
    for cue in CUES:
        match = cue.pattern.search(plain) or (flat and cue.pattern.search(flat))
        if not match or (cue.name == WEAKER and found):
            continue
        phrase = " ".join(match.group().split())[:60]
        found[f'{cue.name} ("{escape(phrase)}")'] = cue.weight
        if any(low <= match.start() < high for low, high in concealed):
            found["in a part that is not displayed"] = 0.5
    return found


def _is_disguised(plain: str, open_text: str, weights: dict[str, float]) -> bool:
    """Whether phrases show only in the plain reading."""
    if not weights or plain == open_text:
        return False
    return len(_weigh(open_text)) < len(weights)


def _weigh_disguise(text: str, open_text: str, weights: dict[str, float]) -> dict[str, float]:
    seen = len(_weigh(open_text))
    return {"spelled so that a filter does not see it": 0.5} if seen < len(weights) else {}


def _decoded(text: str) -> Iterator[tuple[str, str]]:
    """Return what stands in the text in code: base64 that is a sentence, tag characters."""
    for match in _BASE64.finditer(text):
        raw = match.group().translate(str.maketrans("-_", "+/")).rstrip("=")
        try:
            decoded = base64.b64decode(raw + "=" * (-len(raw) % 4)).decode("utf-8")
        except (binascii.Error, ValueError):
            continue
        if " " in decoded and decoded.isprintable():
            yield decoded, "encoded in base64"
    tags = "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) <= 0xE007E)
    if tags:
        yield tags, "in tag characters"


def _is_quoted(text: str) -> bool:
    """Whether the text shows phrases in quotation marks or code, as those who discuss them do."""
    return QUOTED.search(text) is not None


def _examples(
    findings: Sequence[Finding], texts: Sequence[str], sources: Sequence[str] | None
) -> tuple[dict[str, JSON], ...]:
    worst = sorted(findings, key=lambda finding: (-finding.score, finding.row))[:MAX_EXAMPLES]
    records: list[dict[str, JSON]] = []
    for finding in worst:
        record: dict[str, JSON] = {"row": finding.row, "reason": finding.reason}
        record["text"] = escape(texts[finding.row][:300])
        if sources is not None:
            record["source"] = sources[finding.row]
        records.append(record)
    return tuple(records)
