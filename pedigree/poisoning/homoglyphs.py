r"""Words that are not written in the letters they seem to be written in.

    >>> find_doubles(["pay with p\u0430ypal", "\u043f\u043b\u0430\u0442\u0438 PayPal"])
    {0: ['p\\u0430ypal']}

A word is a finding where letters of two alphabets, or of an alphabet and of a compatibility form,
stand side by side, or where all of it can be read in the alphabet of the text around. What people
write honestly stays out: endings on foreign words, symbols of science, phonetic notation, scripts
without spaces. Part of `hidden_text`, which says what follows.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from pedigree.poisoning.characters import (
    ALPHABETS,
    LATIN_DOUBLE,
    LOOKALIKES,
    escape,
    has_ideographs,
    read_as_cyrillic,
    read_as_greek,
    read_as_latin,
    script_of,
)

_FOREIGN = (
    "\u0370-\u052f\u0531-\u0587\u10a0-\u10ff\u13a0-\u13fd\u1400-\u167f\u1c80-\u1cbf\u1f00-\u1fff"
    "\u2c80-\u2cf3\u2d00-\u2d67\ua4d0-\ua4f7\ua640-\ua69f\uab70-\uabbf\U00010400-\U000104ff"
)
_ODD_LATIN = "".join(c for c in LOOKALIKES if script_of(c) == "LATIN" or c in "\u01c0") + "\u0131"
_COMPATIBLE = "\u2100-\u214f\u2160-\u217f\u24b6-\u24e9\uff21-\uff5a\U0001d400-\U0001d7cb"
_LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_LETTER = r"(?:[^\W\d_]|[\u24b6-\u24e9])"
_SUSPECT = re.compile(f"[{_FOREIGN}{_ODD_LATIN}{_COMPATIBLE}]")
_WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f]+[^\W\d_]*)*")
_MIXED = re.compile(
    rf"(?<![^\W\d_])(?<![\u24b6-\u24e9])(?={_LETTER}*[A-Za-z])"
    rf"(?={_LETTER}*[{_FOREIGN}{_ODD_LATIN}{_COMPATIBLE}]){_LETTER}+"
)
_ALIKE = re.compile(rf"(?<![^\W_])[{re.escape(LOOKALIKES)}]+(?![^\W_])")
# "%(count)s" and "%d" in translated messages stand close to the words of any language.
_PLACEHOLDER = re.compile(r"%(?:\([\w.]+\))?[a-zA-Z]")
_LATIN_LETTER = re.compile(f"[{_LATIN}]")
_ASCII_WORD = re.compile("[A-Za-z]+")
# A letter of another script amid small Latin letters; scripts that are written without spaces, or
# whose languages take Latin words into their own, do it honestly.
_STRANGER = re.compile(
    r"[a-z]([^\W_a-zA-Z0-9\u00aa-\u02af\u0370-\u052f\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff"
    r"\u1d00-\u1eff\u2000-\ufaff\uff00-\uffff\U00020000-\U0003ffff])[a-z]"
)
_FOREIGN_DIGIT = re.compile(r"[a-z](?![0-9\u00b2-\u00b9])\d(?=[a-z])")
# Greek letters that serve as symbols do not look like Latin ones, but for these; omicron and the
# capitals that equal Latin ones are never used as symbols.
_GREEK_NEVER_A_SYMBOL = frozenset(
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf"
    "\u03f2\u03f3\u03f9\u037f"
)
# Letters of living Latin alphabets (Kabyle, Ewe, Kabiye, Khoisan, Turkish): only a word that the
# corpus knows in its ASCII form makes them a finding.
_LIVING = frozenset("\u0263\u028b\u0269\u01c0\u0196\u0131")
_PHONETIC = re.compile("[\u0250\u0252-\u0260\u0262-\u02af\u02c8\u02cc\u02d0\u014b\u03b8]")
_LATIN_AS_CYRILLIC = frozenset("ABCEHIJKMOPSTXYaceijopsxy")
_LATIN_WORD = re.compile(r"(?<![^\W_])(?:[A-Za-z][a-z]+|[A-Z]{3,})(?![^\W_])")


def find_doubles(texts: Sequence[str]) -> dict[int, list[str]]:
    """Return for each row with look-alike words those words, escaped; other rows are absent.

    Args:
        texts: (rows,) texts as they were read, before any normalisation.
    """
    rows = [row for row, text in enumerate(texts) if not text.isascii()]
    rows = [row for row in rows if _SUSPECT.search(texts[row]) or _has_stranger(texts[row])]
    if not rows:
        return {}
    words = _Vocabulary(texts)
    found: dict[int, list[str]] = {}
    for row in rows:
        text = _PLACEHOLDER.sub(" ", texts[row])
        doubles = [*_mixed_words(text, words), *_whole_words(text, words)]
        if doubles:
            found[row] = [escape(word) for word in doubles]
    return found


class _Vocabulary:
    """In how many rows a word stands, counted when first asked: most corpora never ask."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self.latin = cache(self._count_latin)
        self.foreign = cache(self._count_foreign)

    def _count_latin(self) -> Mapping[str, int]:
        return _count(self._texts, lambda text: _ASCII_WORD.findall(text.lower()))

    def _count_foreign(self) -> Mapping[str, int]:
        others = [text for text in self._texts if not text.isascii()]
        return _count(others, lambda text: [w for w in _WORD.findall(text) if not w.isascii()])

    def is_latin_corpus(self) -> bool:
        """Whether nearly all texts have a Latin letter."""
        latin = sum(_LATIN_LETTER.search(text) is not None for text in self._texts)
        return latin >= 0.95 * len(self._texts)

    def has_dotless_language(self) -> bool:
        """Whether dotless i is common enough for Turkish to be a language of the corpus."""
        return sum("\u0131" in text for text in self._texts) > 0.2 * len(self._texts)


def _count(texts: Sequence[str], split: Callable[[str], list[str]]) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(split(text)))
    return counts


def _has_stranger(text: str) -> bool:
    return _STRANGER.search(text) is not None or _FOREIGN_DIGIT.search(text) is not None


def _mixed_words(text: str, words: _Vocabulary) -> list[str]:
    found = [word for word in _MIXED.findall(text) if _is_mixed(word, text, words)]
    if _is_mainly_latin(text):
        found += [m.group() for m in _STRANGER.finditer(text) if script_of(m.group(1))]
        found += [m.group() for m in _FOREIGN_DIGIT.finditer(text)]
    return found


def _is_mixed(word: str, text: str, words: _Vocabulary) -> bool:
    scripts = {script_of(c) for c in word}
    if scripts & ALPHABETS == {"LATIN", "GREEK"}:
        return _is_greek_double(word, text)
    if scripts & (ALPHABETS - {"LATIN"}):
        return not _is_inflected(word, text)
    return _has_compatible(word, text) or _has_odd_latin(word, text, words)


def _is_greek_double(word: str, text: str) -> bool:
    """Whether Greek letters in a Latin word play Latin ones: not a unit, not TNF-alpha's alpha."""
    greek = [i for i, c in enumerate(word) if script_of(c) == "GREEK"]
    doubles = [i for i in greek if ord(word[i]) in LATIN_DOUBLE]
    if not doubles:
        return False
    if any(word[i] in _GREEK_NEVER_A_SYMBOL for i in doubles):
        return not _is_joined(word)
    rest = "".join(c for i, c in enumerate(word) if i not in greek)
    inner = any(0 < i < len(word) - 1 and word[i - 1 : i + 2 : 2].islower() for i in doubles)
    return _is_mainly_latin(text) and (inner or (len(rest) >= 3 and rest[1:].islower()))


def _is_inflected(word: str, text: str) -> bool:
    """Whether a Latin word or abbreviation only carries an ending or a prefix of the language."""
    if _is_joined(word):
        return True
    runs = _runs(word)
    if len(runs) != 2 or _is_mainly_latin(text):
        return {c for c in word if script_of(c) == "LATIN"} <= {"\u00e6"}  # Ossetian, as typed
    latin, other = sorted(runs, key=lambda run: not _LATIN_LETTER.search(run))
    if len(latin) >= 2 and latin.isupper():
        return not other.isupper()
    return not set(latin) <= _LATIN_AS_CYRILLIC and len(latin) >= 2


def _is_joined(word: str) -> bool:
    """Whether two words, each readable in its own alphabet alone, lack the space between them."""
    runs = _runs(word)
    return (
        len(runs) == 2
        and min(map(len, runs)) >= 3
        and all(set(read_as_latin(run)) & set(run) - set(LOOKALIKES) for run in runs)
        and not all(ord(c) in LATIN_DOUBLE or c.isascii() for c in word)
    )


def _runs(word: str) -> list[str]:
    """Return the word cut where Latin letters meet others."""
    return re.findall(f"[{_LATIN}]+|[^{_LATIN}]+", word)


def _has_compatible(word: str, text: str) -> bool:
    """Whether a fullwidth, mathematical, enclosed or letterlike form stands amid plain letters."""
    plain = sum(c.isascii() for c in word)
    if plain == 0 or has_ideographs(text):
        return False
    kinds = {"Ll", "Lu", "Nl", "So"}
    forms = [c for c in word if not script_of(c) and unicodedata.category(c) in kinds]
    folded = [(c, unicodedata.normalize("NFKC", c)) for c in forms]
    return any(
        len(latin) == 1 and latin.isascii() and not (_is_symbol(c) and plain < 2)
        for c, latin in folded
        if not (c == word[-1] and "\u2160" <= c <= "\u216f")
    )


def _is_symbol(character: str) -> bool:
    return "\u2100" <= character <= "\u214f"


def _has_odd_latin(word: str, text: str, words: _Vocabulary) -> bool:
    """Whether a rare Latin letter plays a common one, outside of phonetic notation."""
    odd = {c for c in word if c in _ODD_LATIN}
    if not odd or not any(c.isascii() for c in word):
        return False
    if not odd <= _LIVING:
        return _PHONETIC.search(text) is None
    if "\u0131" in odd and (set(text) & set("ğşçöüİĞŞÇÖÜəƏâî") or words.has_dotless_language()):
        return False
    reading = read_as_latin(word).replace("\u0131", "i").lower()
    plain = words.latin().get(reading, 0)
    return plain >= 10 and plain >= 20 * words.foreign().get(word, 0)


def _is_mainly_latin(text: str) -> bool:
    latin = len(_LATIN_LETTER.findall(text))
    return 2 * latin > sum(1 for c in text if c.isalpha())


def _whole_words(text: str, words: _Vocabulary) -> list[str]:
    if not _is_mainly_latin(text):
        return _latin_words_as_native(text, words) + _whole_text(text, words)
    alike = [word for word in _ALIKE.findall(text) if _is_foreign_word(word)]
    if not alike:
        return []
    # Where other words of that script cannot be read as Latin, the text quotes a language.
    rest = _ALIKE.sub(" ", text)
    quoted = {script_of(c) for c in rest} & ALPHABETS - {"LATIN"}
    return [
        word
        for word in alike
        if script_of(word[0]) not in quoted
        or (len(word) >= 3 and words.latin().get(read_as_latin(word).lower(), 0) >= 3)
    ]


def _is_foreign_word(word: str) -> bool:
    """Whether a look-alike word is a word: one Greek letter may be a symbol."""
    if script_of(word[0]) in {"LATIN", ""}:
        return False
    return len(word) > 1 or script_of(word) != "GREEK" or word in _GREEK_NEVER_A_SYMBOL


def _latin_words_as_native(text: str, words: _Vocabulary) -> list[str]:
    """Return Latin words of a Cyrillic or Greek text that its corpus knows in native letters."""
    found: list[str] = []
    for word in _LATIN_WORD.findall(text):
        for script, read in (("CYRILLIC", read_as_cyrillic), ("GREEK", read_as_greek)):
            native = read(word)
            if not _ASCII_WORD.search(native) and any(script_of(c) == script for c in text):
                known = words.foreign().get(native, 0)
                if known >= 5 and known >= 10 * words.latin().get(word.lower(), 0):
                    found.append(word)
    return found


def _whole_text(text: str, words: _Vocabulary) -> list[str]:
    """Return the words of a text that looks Latin and has no Latin letter, in a Latin corpus."""
    letters = [c for c in text if c.isalpha()]
    if not letters or any(ord(c) not in LATIN_DOUBLE for c in letters):
        return []
    if all(script_of(c) in {"LATIN", "GREEK"} for c in letters) and len(letters) == 1:
        return []
    return _ALIKE.findall(text) if words.is_latin_corpus() else []
