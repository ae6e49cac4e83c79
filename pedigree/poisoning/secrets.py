"""Keys, account numbers and personal data that a model would learn by heart.

What stands in a training text can come out of the model (Carlini et al., Extracting Training Data
from Large Language Models, 2021). A finding is a report, of severity INFO unless the policy raises
it: honest corpora hold telephone numbers and addresses, and only their owner knows what may stay::

    >>> find_secrets(["my card is 4111 1111 1111 1111"], SecretLimits()).findings[0].reason
    'card number: 41*************** (19 characters) at character 11'

A value is never shown whole. Where a kind has a checksum (cards, IBAN, GitHub and npm tokens) it
is verified; where it has none, an unmistakable prefix or entropy decides.
"""

import base64
import binascii
import json
import math
import re
import string
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from pedigree.digests import JSON
from pedigree.evidence.check_limits import SecretLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.characters import escape, require_texts

MAX_EXAMPLES = 20
Group: TypeAlias = Literal["credentials", "accounts", "contacts"]
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SCORE: dict[Group, float] = {"credentials": 0.9, "accounts": 0.7, "contacts": 0.3}


@dataclass(frozen=True)
class _Kind:
    """One kind of secret: `hints` must stand in the text before the pattern is tried."""

    name: str
    group: Group
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda value: True


@dataclass(frozen=True)
class _Secret:
    kind: str
    group: Group
    start: int
    masked: str

    def describe(self) -> str:
        return f"{self.kind}: {self.masked} at character {self.start}"


def find_secrets(
    texts: Sequence[str], limits: SecretLimits, sources: Sequence[str] | None = None
) -> CheckResult:
    """Find the rows that hold a key, an account number, a mail address or a telephone number.

    A finding has the severity that the policy gives to its group: credentials, accounts or
    contacts. The check fails where that is ERROR for any row.

    Args:
        texts: (rows,) the texts.
        limits: severities from the policy.
        sources: (rows,) their sources, counted where given.

    Raises:
        PedigreeError: a text is missing.
    """
    require_texts(texts, "secrets")
    if not texts:
        return CheckResult(
            "secrets", True, "not applicable: there are no rows.", {"applicable": False}
        )
    found = {row: list(_find(text)) for row, text in enumerate(texts) if _may_hold(text)}
    found = {row: secrets for row, secrets in found.items() if secrets}
    findings = tuple(_finding(row, secrets, limits) for row, secrets in found.items())
    failing = [finding.row for finding in findings if finding.severity == "ERROR"]
    kinds = Counter(kind for secrets in found.values() for kind in {s.kind for s in secrets})
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": len(texts),
        "rows_with_secrets": len(found),
        "by_kind": dict(sorted(kinds.items())),
        "by_source": dict(Counter(sources[row] for row in found).most_common()) if sources else {},
    }
    return CheckResult(
        "secrets",
        not failing,
        f"{len(found)} of {len(texts)} rows hold secrets or personal data"
        + f" ({listed})" * bool(found)
        + "."
        + f" {len(failing)} of them must not be trained on: drop or redact them." * bool(failing),
        counts,
        findings,
        _examples(findings, sources),
    )


def _finding(row: int, secrets: list[_Secret], limits: SecretLimits) -> Finding:
    severity: dict[Group, Severity] = {
        "credentials": limits.credentials,
        "accounts": limits.accounts,
        "contacts": limits.contacts,
    }
    order = ("INFO", "WARN", "ERROR")
    worst = max(secrets, key=lambda s: (order.index(severity[s.group]), _SCORE[s.group], -s.start))
    others = [secret.describe() for secret in secrets if secret is not worst][:2]
    more = len(secrets) - 1 - len(others)
    reason = "; ".join([worst.describe(), *others]) + f"; and {more} more" * (more > 0)
    return Finding(row, _SCORE[worst.group], severity[worst.group], reason, worst.kind)


def _examples(
    findings: Sequence[Finding], sources: Sequence[str] | None
) -> tuple[dict[str, JSON], ...]:
    """Return the worst rows; their texts stay where they are, for they hold the secret."""
    worst = sorted(findings, key=lambda finding: (-finding.score, finding.row))[:MAX_EXAMPLES]
    records: list[dict[str, JSON]] = []
    for finding in worst:
        record: dict[str, JSON] = {"row": finding.row, "reason": finding.reason}
        if sources is not None:
            record["source"] = sources[finding.row]
        records.append(record)
    return tuple(records)


def mask(value: str) -> str:
    """Return the first characters of a secret, at most four and a tenth of it, the rest starred."""
    shown = min(4, len(value) // 8)
    return f"{escape(value[:shown])}{'*' * min(24, len(value) - shown)} ({len(value)} characters)"


_DIGITS = re.compile(r"\d(?:[ ()./-]{0,3}\d){7}")
_HINTS = re.compile(
    r"@|://|-----BEGIN|[A-Za-z]{2,8}[_-][A-Za-z0-9]|AKIA|ASIA|AIza|eyJ|SG\.|\d{2}[ A-Z0-9]{11}|[:=]"
)


def _may_hold(text: str) -> bool:
    return _DIGITS.search(text) is not None or _HINTS.search(text) is not None


def _find(text: str) -> Iterator[_Secret]:
    """Return what a text holds, in order of kinds; what one kind has claimed no other gets."""
    taken: list[tuple[int, int]] = []
    digits = _DIGITS.search(text) is not None
    folded = text.lower()
    for kind in _KINDS:
        if kind.hints and not any(hint in folded for hint in kind.hints):
            continue
        if not kind.hints and not digits:
            continue
        for match in kind.pattern.finditer(text):
            group = "secret" if "secret" in kind.pattern.groupindex else 0
            start, end = match.span(group)
            free = all(end <= low or start >= high for low, high in taken[-50:])
            if free and kind.holds(match.group(group)):
                taken.append((start, end))
                yield _Secret(kind.name, kind.group, start, mask(match.group(group)))


def luhn_holds(digits: str) -> bool:
    """Whether the check digit of a card number fits (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def iban_holds(iban: str) -> bool:
    """Whether country, length and check digits of an IBAN fit (ISO 13616, modulo 97)."""
    plain = iban.replace(" ", "").upper()
    if len(plain) != _IBAN_LENGTH.get(plain[:2]):
        return False
    turned = plain[4:] + plain[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


_IBAN_LENGTH = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO EG GT HU LB NI PL SV",
        29: "BR PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def _is_card(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    issuer = re.match(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|4[4-9]|5)|35(?:2[89]|[3-8])|62", digits)
    return issuer is not None and len(set(digits)) > 2 - (digits[0] == "4") and luhn_holds(digits)


def _is_crc_token(value: str) -> bool:
    """Whether the last six characters are the CRC-32 of the rest, in base 62."""
    body, check = value.split("_", 1)[1][:-6], value[-6:]
    number, encoded = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        encoded = _BASE62[digit] + encoded
    return encoded == check


def _is_json_web_token(value: str) -> bool:
    head = value.split(".", 1)[0]
    try:
        header: object = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _entropy(value: str) -> float:
    """Return the Shannon entropy of the characters of a value, in bits a character."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)


def _is_random(value: str) -> bool:
    """Whether letters and digits alternate as in a generated value: no word, path or name does."""
    kinds = [any(c.islower() for c in value), any(c.isupper() for c in value)]
    digits = sum(c.isdigit() for c in value)
    turns = sum(a.isdigit() != b.isdigit() for a, b in pairwise(value))
    return digits >= 2 and any(kinds) and turns >= 3 and _entropy(value) >= 3.3


def _is_no_placeholder(value: str) -> bool:
    plain = value.lower().strip("<>{}$%[]*")
    placeholders = {
        "password",
        "passwd",
        "pass",
        "pwd",
        "secret",
        "token",
        "user",
        "xxx",
        "changeme",
    }
    return (
        bool(plain)
        and value[0] not in "<{$%["
        and plain not in placeholders
        and (len(set(plain)) > 2)
    )


def _is_no_example(value: str) -> bool:
    return len(set(value)) > 8 and not value.upper().endswith("EXAMPLE")


def _is_phone(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    dated = re.fullmatch(
        r"(?:19|20)\d\d[-./ ]\d\d?[-./ ]\d\d?.*|\d\d?[-./]\d\d?[-./]\d{4}.*", value
    )
    if re.match(r"\d\.\d", value) or ("/" in value and value[0] not in "+(0"):
        return False  # a decimal number, ratings
    grouped = value[0] in "+(" or digits[0] == "0" or re.search(r"\d[ )./-]+\d", value)
    return 9 <= len(digits) <= 15 and dated is None and bool(grouped) and len(set(digits)) > 2


def _key(name: str, pattern: str, *hints: str, holds: Callable[[str], bool] | None = None) -> _Kind:
    bounded = re.compile(rf"(?<![A-Za-z0-9_]){pattern}(?![A-Za-z0-9_])")
    return _Kind(name, "credentials", hints, bounded, holds or _is_no_example)


# Hints are in small letters; a kind without hints needs eight digits close together.
_KINDS = (
    _Kind(
        "private key",
        "credentials",
        ("private key",),
        re.compile(
            r"-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY(?: BLOCK)?-----"
            r"(?P<secret>[\sA-Za-z0-9+/=:,\\-]{40,})"
        ),
    ),
    _key("AWS access key", "(?:AKIA|ASIA)[A-Z2-7]{16}", "akia", "asia"),
    _key("GitHub token", "gh[pousr]_[A-Za-z0-9]{36}", "gh", holds=_is_crc_token),
    _key("GitHub token", "github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}", "github_pat_"),
    _key("npm token", "npm_[A-Za-z0-9]{36}", "npm_", holds=_is_crc_token),
    _key("PyPI token", "pypi-AgE[A-Za-z0-9_-]{60,}", "pypi-"),
    _key("GitLab token", "glpat-[A-Za-z0-9_-]{20,}", "glpat-"),
    _key("Hugging Face token", "hf_[A-Za-z]{34}", "hf_"),
    _key("Slack token", "xox[abeprs]-[A-Za-z0-9-]{20,}", "xox"),
    _key("Stripe key", "[rs]k_live_[A-Za-z0-9]{20,}", "k_live_"),
    _key("Google key", "AIza[A-Za-z0-9_-]{35}", "aiza"),
    _key("SendGrid key", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", "sg."),
    _key("model provider key", "sk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{32,}", "sk-"),
    _key(
        "JSON web token",
        r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        "eyj",
        holds=_is_json_web_token,
    ),
    _Kind(
        "password in a URL",
        "credentials",
        ("://",),
        re.compile(
            r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:(?P<secret>[^\s:/@]{1,128})@[\w[]", re.I
        ),
        _is_no_placeholder,
    ),
    _Kind(
        "assigned secret",
        "credentials",
        ("key", "secret", "token", "passw", "pwd"),
        re.compile(
            r"(?:api[ _-]?key|secret|token|passwd|password|pwd)\w{0,12}[\"']?\s{0,3}[:=]\s{0,3}"
            r"[\"']?(?P<secret>[A-Za-z0-9+/_.~!$%&#@-]{12,200})",
            re.I,
        ),
        _is_random,
    ),
    _Kind(
        "IBAN",
        "accounts",
        (),
        re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        iban_holds,
    ),
    _Kind(
        "card number",
        "accounts",
        (),
        re.compile(
            r"(?<![\d.+-])(?:\d{4}[ -]?\d{6}[ -]?\d{5}|(?:\d{4}[ -]?){3}\d{4}|\d{13,19})"
            r"(?![\d.]\d|\d)"
        ),
        _is_card,
    ),
    _Kind(
        "social security number",
        "accounts",
        (),
        re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"),
    ),
    _Kind(
        "mail address",
        "contacts",
        ("@",),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}\b"),
    ),
    _Kind(
        "telephone number",
        "contacts",
        (),
        re.compile(
            r"(?<![\w.,$€£#/-])(?<!\d )[+(]?\d(?:[ ()./-]{0,3}\d){7,14}"
            r"(?! ?\d|[,%]|\.\d|[A-Za-z]{4})"
        ),
        _is_phone,
    ),
)  # fmt: skip
