r"""Regular expressions of tokenizers: whether one may run for ever on a text that nearly fits.

Tokenizers hand them to an engine that backtracks. A part that repeats without a bound within a
group that does so too, `(a+)+`, can be tried in a number of ways that doubles with each character.

    >>> may_run_away(r"(?:[a-z]+)+!")
    True
    >>> may_run_away(r" ?\p{L}+|\s+(?!\S)")
    False
"""

import re
from dataclasses import dataclass, field

_QUANTIFIER = re.compile(r"(\*|\+|\?|\{(\d*)(,?)(\d*)\})([+?]?)")
_LARGE = 32  # times that count as without a bound
_LOOK = re.compile(r"\?(<?[=!]|>)")  # what is tried once: nothing outside makes it try again
_HEAD = re.compile(r"\?(P?<\w+>|[a-zA-Z-]*:|<?[=!]|>|#)?")


@dataclass
class _Group:
    """A group that is open: whether a part of it repeats, and how its alternatives begin."""

    repeats: bool = False
    once: bool = False
    first: list[str] = field(default_factory=lambda: [""])


def may_run_away(pattern: str) -> bool:
    """Whether a part that repeats without a bound lies within another, or alternatives overlap.

    Reads what the engines of tokenizers share; time is linear in the pattern's length.
    """
    stack = [_Group()]
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "(":
            head = _HEAD.match(pattern, at + 1)
            stack.append(_Group(once=_LOOK.match(pattern, at + 1) is not None))
            at = head.end() if head is not None else at + 1
            continue
        if character == "|":
            stack[-1].first.append("")
            at += 1
            continue
        closed = None
        if character == ")" and len(stack) > 1:
            closed = stack.pop()
            end = at + 1
        else:
            end = _end_of_atom(pattern, at)
        atom = ")" if closed is not None else pattern[at:end]
        unbounded, end = _quantifier(pattern, end)
        if closed is not None and not closed.once:
            overlap = len(set(closed.first)) < len(closed.first) or ("" in closed.first)
            if unbounded and (closed.repeats or overlap):
                return True
            unbounded = unbounded or closed.repeats
        stack[-1].repeats |= unbounded
        if not stack[-1].first[-1]:
            stack[-1].first[-1] = atom
        at = end
    return False


def _end_of_atom(pattern: str, at: int) -> int:
    if pattern[at] == "\\":
        braces = re.compile(r"\\[pPxuk]\{[^}]*\}|\\.", re.DOTALL).match(pattern, at)
        return braces.end() if braces is not None else at + 1
    if pattern[at] != "[":
        return at + 1
    depth, at = 1, at + 1
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at : at + 2] == "[:":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
    return min(at, len(pattern))


def _quantifier(pattern: str, at: int) -> tuple[bool, int]:
    """Return whether a quantifier here has no bound and gives back what it took; and its end."""
    match = _QUANTIFIER.match(pattern, at)
    if match is None:
        return False, at
    sign, low, comma, high, after = match.groups()
    if sign.startswith("{") and not (low or high):
        return False, at  # braces that stand for themselves
    most = int(high or (low if not comma else 10**9) or 0) if sign.startswith("{") else 10**9
    unbounded = sign != "?" and most > _LARGE and after != "+"
    return unbounded, match.end()
