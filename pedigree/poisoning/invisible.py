r"""Characters that do not show, judged by where they stand.

    >>> [sign.kind for sign in find_invisible("he\u200bllo")]
    ['zero-width']
    >>> find_invisible("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")   # Persian needs it
    []

Each run of code points that render as nothing is honest only where a language, an emoji or a
typographer has a use for it; everything else is a sign. Part of `hidden_text`.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import TypeAlias

from pedigree.poisoning.characters import (
    IGNORABLE,
    JOINING,
    Surroundings,
    escape,
    has_rtl,
    is_ideographic,
    script_of,
)

# Score of what honest texts hold as a rule: a soft hyphen, a byte order mark, an icon's code.
QUIET = 0.1
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"
_RUN = re.compile(f"[{IGNORABLE}]+|[{_PRIVATE}]+|[\x08\x7f]+")
_DELETING = re.compile("[\x08\x7f]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SELECTOR = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_TAGS = re.compile("[\U000e0000-\U000e007f]")
# Unicode emoji tag sequence: black flag, region and subdivision (England, Texas), cancel tag.
_FLAG = re.compile(
    "\ufe0f?[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,3}\U000e007f"
)
_OPENERS = {
    "\u202a": "\u202c", "\u202b": "\u202c", "\u202d": "\u202c", "\u202e": "\u202c",
    "\u2066": "\u2069", "\u2067": "\u2069", "\u2068": "\u2069",
}  # fmt: skip
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff\uffa0-\uffdc]")
_MONGOLIAN = re.compile("[\u1800-\u18af]")
# Emoji that are no symbols by category: information, marks, dashes, ideographs, a keycap's end.
_EMOJI_OF_OTHER_KIND = frozenset("\u2139\u203c\u2049\u3030\u303d\u3297\u3299\u20e3\u24c2")
_SPAN: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Sign:
    """One thing hidden in a text.

    Attributes:
        kind: what it is.
        score: how suspect by itself, 0 to 1.
        detail: code points and position, printable ASCII.
    """

    kind: str
    score: float
    detail: str


def find_invisible(text: str) -> list[Sign]:
    """Return the signs of hidden characters in a text, in the order in which they stand."""
    if text.isascii() and _DELETING.search(text) is None:
        return []
    signs: list[Sign] = []
    around = Surroundings(text)
    for match in _RUN.finditer(text):
        found = _judge_run(around, match.span())
        if found is not None:
            signs.append(found)
    return signs + _judge_directions(text)


def _judge_run(around: Surroundings, span: _SPAN) -> Sign | None:
    text = around.text
    run = text[span[0] : span[1]]
    at = f"{escape(run[:8])}{'...' * (len(run) > 8)} ({len(run)} at character {span[0]})"
    if run[0] in "\x08\x7f":
        return Sign("deleting control", 0.8, at)
    if unicodedata.category(run[0]) == "Co":
        amid = _is_letter(text, span[0] - 1) and _is_letter(text, span[1])
        return Sign("private use", 0.6 if amid or len(run) > 3 else QUIET, at)
    if _TAGS.search(run):
        honest = text[span[0] - 1 : span[0]] == "\U0001f3f4" and _FLAG.fullmatch(run)
        return None if honest else Sign("tag characters", 1.0, at + _spell(_read_tags(run)))
    if len(_SELECTOR.findall(run)) > 1:
        return Sign("variation selectors", 0.95, at + _spell(_read_selectors(run)))
    if all(_is_honest(around, span, place) for place in range(*span)) and not _is_crowd(
        around, run
    ):
        return Sign("soft hyphen or mark", QUIET, at) if run in {"\u00ad", "\ufeff"} else None
    return Sign("variation selectors" if _SELECTOR.search(run) else "zero-width", 0.9, at)


def _is_crowd(around: Surroundings, run: str) -> bool:
    """Whether more invisible characters stand together than any spelling needs."""
    limit = 6 if around.has_rtl and not set(run) & set("\u200c\u200d\u00ad") else 3
    return len(run) > limit


def _is_honest(around: Surroundings, span: _SPAN, place: int) -> bool:
    """Whether one invisible character has a use between what stands before and after its run."""
    text = around.text
    character = text[place]
    before = text[span[0] - 1] if span[0] else ""
    after = text[span[1]] if span[1] < len(text) else ""
    if character == "\u00ad":
        return _is_hyphenation(text, span)
    if character == "\ufeff":
        return place == 0
    latin = before.isascii() and after.isascii() and before.isalpha() and after.isalpha()
    if character in "\u200c\u200d":
        return (not latin and around.has_joining) or _is_joined_emoji(text, span)
    if character == "\u200b":
        return not latin and around.has_unspaced
    if character in "\u200e\u200f\u061c":
        return around.has_rtl and not (before.isalpha() and after.isalpha())
    if _BIDI.match(character):
        return not (before.isalpha() and after.isalpha())
    if _SELECTOR.match(character):
        return _takes_selector(text[max(0, place - 1) : place], character, after)
    return _is_rare_use(character, before, after)


def _is_rare_use(character: str, before: str, after: str) -> bool:
    if character in "\u2061\u2062\u2063\u2064":
        return after in set("([{") and after != ""
    if character == "\u034f":
        return before != "" and (unicodedata.combining(before) > 0 or script_of(before) == "HEBREW")
    if character in "\u115f\u1160\u3164\uffa0":
        return any(_HANGUL.match(c) for c in (before, after))
    if "\u180b" <= character <= "\u180f":
        return any(_MONGOLIAN.match(c) for c in (before, after))
    if character in "\u17b4\u17b5":
        return "\u1780" <= before <= "\u17ff"
    return "\U0001d173" <= character <= "\U0001d17a" and (
        "\U0001d100" <= before <= "\U0001d1ff" or "\U0001d100" <= after <= "\U0001d1ff"
    )


def _is_hyphenation(text: str, span: _SPAN) -> bool:
    """Whether a soft hyphen stands where a word may be divided: two letters or more each side."""
    left, right = text[max(0, span[0] - 2) : span[0]], text[span[1] : span[1] + 2]
    divided = len(left) == 2 and left.isalpha() and span[1] - span[0] == 1
    return divided and (right[:1] in {"\n", "-"} or (len(right) == 2 and right.isalpha()))


def _is_joined_emoji(text: str, span: _SPAN) -> bool:
    """Whether a joiner links two pictographs, with at most one selector beside it."""
    run = text[span[0] : span[1]]
    if run not in {"\u200d", "\ufe0f\u200d"} or span[0] == 0 or span[1] == len(text):
        return False
    return _is_pictograph(text[span[0] - 1]) and _is_pictograph(text[span[1]])


def _is_pictograph(character: str) -> bool:
    return unicodedata.category(character) in {"So", "Sm", "Cn"} or (
        "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def _takes_selector(base: str, selector: str, after: str) -> bool:
    """Whether Unicode gives the base character a presentation or a variant."""
    if base == "":
        return False
    if selector > "\ufe0f" or (selector < "\ufe0e" and is_ideographic(base)):
        return is_ideographic(base)
    if selector < "\ufe0e":
        return unicodedata.category(base) in {"Sm", "Nd", "Po"} or JOINING.match(base) is not None
    if base in "0123456789#*":
        return after == "\u20e3"
    return unicodedata.category(base)[0] == "S" or base in _EMOJI_OF_OTHER_KIND


def _judge_directions(text: str) -> list[Sign]:
    """Return a sign for each override, and one for controls that do not pair up in a line."""
    signs: list[Sign] = []
    if _BIDI.search(text) is None:
        return signs
    forced = [m.start() for m in re.finditer("[\u202d\u202e]", text)]
    if forced:
        at = f"{escape(text[forced[0]])} ({len(forced)} at character {forced[0]})"
        signs.append(Sign("bidirectional override", 0.95, at))
    reversed_latin = re.search("[\u202b\u2067]", text) if not has_rtl(text) else None
    empty = re.search("[\u202a\u202b]\u202c|[\u2066-\u2068]\u2069", text)
    odd = reversed_latin or empty
    if odd is not None:
        at = f"{escape(odd.group())} (at character {odd.start()})"
        signs.append(Sign("bidirectional control", 0.9, at))
    elif not forced and not all(_is_balanced(line) for line in text.splitlines()):
        controls = [escape(c) for c in dict.fromkeys(_BIDI.findall(text))]
        signs.append(Sign("bidirectional control", 0.8, f"{' '.join(controls)} unbalanced"))
    return signs


def _is_balanced(line: str) -> bool:
    """Whether the controls of a line pair up; one that sets a right-to-left line may stay open."""
    if has_rtl(line) and line[0] in "\u202b\u2067" and not _BIDI.search(line[1:]):
        return True
    waiting: list[str] = []
    for control in _BIDI.findall(line):
        if control in _OPENERS:
            waiting.append(_OPENERS[control])
        elif not waiting or waiting.pop() != control:
            return False
    return not waiting


def _is_letter(text: str, place: int) -> bool:
    return 0 <= place < len(text) and text[place].isalpha()


def _read_tags(run: str) -> str:
    return "".join(chr(ord(c) - 0xE0000) for c in run if 0xE0020 <= ord(c) <= 0xE007E)


def _read_selectors(run: str) -> str:
    """Return the bytes that a run of variation selectors carries, one byte each, as text."""
    codes = [ord(c) for c in run if _SELECTOR.match(c)]
    data = bytes(c - 0xFE00 if c < 0xFFFF else c - 0xE0100 + 16 for c in codes)
    return data.decode("utf-8", "replace")


def _spell(hidden: str) -> str:
    readable = escape(hidden[:60])
    return f", spelling {readable!r}" if hidden.strip() else ""
