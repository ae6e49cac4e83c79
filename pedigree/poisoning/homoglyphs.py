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
    LATIN,
    LATIN_DOUBLE,
    LOOKALIKES,
    Surroundings,
    escape,
    read_as_cyrillic,
    read_as_greek,
    read_as_latin,
    script_of,
)

_FOREIGN = (
    "\u0370-\u052f\u0531-\u0587\u10a0-\u10ff\u13a0-\u13fd\u1400-\u167f\u1c80-\u1cbf\u1f00-\u1fff"
    "\u1d26-\u1d2b\u2c80-\u2cf3\u2d00-\u2d67\ua4d0-\ua4f7\ua640-\ua69f\uab70-\uabbf\U00010400-\U000104ff"
)
_ODD_LATIN = "".join(c for c in LOOKALIKES if script_of(c) == "LATIN" or c in "\u01c0") + "\u0131"
_COMPATIBLE = "\u2100-\u214f\u2160-\u217f\u24b6-\u24e9\uff21-\uff5a\U0001d400-\U0001d7cb"
_PLAIN_LATIN = "A-Za-z\u00c0-\u0130\u0132-\u017f\u1e00-\u1e9c\u1ea0-\u1efe"
_LETTER = r"(?:[^\W\d_]|[\u24b6-\u24e9])"
_SUSPECT = re.compile(f"[{_FOREIGN}{_ODD_LATIN}{_COMPATIBLE}]")
_WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f]+[^\W\d_]*)*")
# Words of one alphabet are passed over at the speed of the regex engine.
_PURE = "|".join(
    f"[{block}]+"
    for block in (
        _PLAIN_LATIN,
        *("\u0400-\u052f\ua640-\ua69f\u1c80-\u1c8f", "\u0370-\u03ff\u1f00-\u1fff"),
        *("\u0531-\u0587", "\u10a0-\u10ff\u1c90-\u1cbf"),
    )
)
_MIXED = re.compile(
    rf"(?<![^\W\d_])(?<![\u24b6-\u24e9])(?!(?:{_PURE})(?!{_LETTER}))"
    rf"(?={_LETTER}*[{_FOREIGN}{_ODD_LATIN}{_COMPATIBLE}]){_LETTER}+"
)
_ELIDED = re.compile(
    rf"(?<=[A-Za-z])['\u2019](?=[{_COMPATIBLE}{_ODD_LATIN}\u0410-\u044f](?!{_LETTER}))"
)
_ALIKE = re.compile(rf"(?<![^\W_])[{re.escape(LOOKALIKES)}]+(?![^\W_])")
# "%(count)s" and "%d" in translated messages stand close to the words of any language.
_NEAR_LETTER = re.compile(r"(?=\b([a-z]+ [a-z]|[a-z] [a-z]+)\b)")
_PLACEHOLDER = re.compile(r"%(?:\([\w.]+\))?[a-zA-Z]")
_SINGLE = re.compile("(?<![^\\s])[\u0251\u03b1\u03b9\u03c5\u03bd\u0269\ua79f](?![^\\s])")
_LATIN_LETTER = re.compile(f"[{LATIN}]")
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
_TURKISH = frozenset(
    "\u011f\u015f\xe7\xf6\xfc\u0130\u011e\u015e\xc7\xd6\xdc\u0259\u018f\xe2\xee"  # and Azeri
)
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
        text = Surroundings(_PLACEHOLDER.sub(" ", texts[row]))
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
        self.letters = cache(self._count_letters)
        self.is_latin_corpus = cache(self._is_latin_corpus)

    def _count_latin(self) -> Mapping[str, int]:
        return _count(self._texts, lambda text: _ASCII_WORD.findall(text.lower()))

    def _count_foreign(self) -> Mapping[str, int]:
        others = [text for text in self._texts if not text.isascii()]
        return _count(others, lambda text: [w for w in _WORD.findall(text) if not w.isascii()])

    def _count_letters(self) -> Mapping[str, int]:
        return _count(self._texts, lambda text: _NEAR_LETTER.findall(text.lower()))

    def _is_latin_corpus(self) -> bool:
        """Whether nearly all texts have a Latin letter."""
        latin = sum(_LATIN_LETTER.search(text) is not None for text in self._texts)
        return latin >= 0.95 * len(self._texts)


def _count(texts: Sequence[str], split: Callable[[str], list[str]]) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(split(text)))
    return counts


def _has_stranger(text: str) -> bool:
    return _STRANGER.search(text) is not None or _FOREIGN_DIGIT.search(text) is not None


def _mixed_words(text: Surroundings, words: _Vocabulary) -> list[str]:
    whole = _ELIDED.sub("", text.text)
    distinct = dict.fromkeys(_MIXED.findall(whole))
    found = [word for word in distinct if _is_mixed(word, text, words)]
    if text.is_mainly_latin:
        found += [m.group() for m in _STRANGER.finditer(text.text) if script_of(m.group(1))]
        found += [m.group() for m in _FOREIGN_DIGIT.finditer(text.text)]
    return found


def _is_mixed(word: str, text: Surroundings, words: _Vocabulary) -> bool:
    alphabets = {script_of(c) for c in word} & ALPHABETS
    if _has_compatible(word, text):
        return True
    if len(alphabets) > 1 and "LATIN" not in alphabets:
        return True
    if alphabets == {"LATIN", "GREEK"}:
        return _is_greek_double(word, text) or _is_known(word, text, words)
    if len(alphabets) > 1:
        return not _is_inflected(word, text)
    return _has_odd_latin(word, text, words)


def _is_known(word: str, text: Surroundings, words: _Vocabulary) -> bool:
    """Whether a word of a Latin text is a common one of its corpus once its doubles are read."""
    reading = read_as_latin(word).lower()
    if len(word) < 2 or not reading.isascii() or not text.is_mainly_latin:
        return False
    return words.latin().get(reading, 0) >= max(3, 20 * words.foreign().get(word, 0))


def _is_greek_double(word: str, text: Surroundings) -> bool:
    """Whether Greek letters in a Latin word play Latin ones: not a unit, not TNF-alpha's alpha."""
    greek = [i for i, c in enumerate(word) if script_of(c) == "GREEK"]
    doubles = [i for i in greek if ord(word[i]) in LATIN_DOUBLE]
    if not doubles:
        return False
    if any(word[i] in _GREEK_NEVER_A_SYMBOL for i in doubles):
        return not _is_joined(word)
    rest = "".join(c for i, c in enumerate(word) if i not in greek)
    inner = any(0 < i < len(word) - 1 and word[i - 1 : i + 2 : 2].islower() for i in doubles)
    return text.is_mainly_latin and (inner or (len(rest) >= 3 and rest[1:].islower()))


def _is_inflected(word: str, text: Surroundings) -> bool:
    """Whether a Latin word or abbreviation only carries an ending or a prefix of the language."""
    if _is_joined(word):
        return True
    runs = _runs(word)
    if len(runs) != 2 or text.is_mainly_latin:
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
    return re.findall(f"[{LATIN}]+|[^{LATIN}]+", word)


def _has_compatible(word: str, text: Surroundings) -> bool:
    """Whether a fullwidth, mathematical, enclosed or letterlike form stands amid plain letters."""
    plain = sum(script_of(c) in ALPHABETS for c in word)
    if plain == 0 or text.has_ideographs:
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


def _has_odd_latin(word: str, text: Surroundings, words: _Vocabulary) -> bool:
    """Whether a rare Latin letter plays a common one, outside of phonetic notation."""
    odd = {c for c in word if c in _ODD_LATIN}
    if not odd or (len(odd) == len(set(word)) and not _is_known(word, text, words)):
        return False
    if not odd <= _LIVING:
        return not text.is_phonetic
    if any(c.isupper() for c in odd) and word[1:].lower() != word[1:] and not word.isupper():
        return True
    if "\u0131" in odd and text.characters & _TURKISH:
        return False
    reading = read_as_latin(word).replace("\u0131", "i").lower()
    least = 10 if "\u0131" in odd else 3
    return words.latin().get(reading, 0) >= max(least, 20 * words.foreign().get(word, 0))


def _whole_words(text: Surroundings, words: _Vocabulary) -> list[str]:
    if not text.is_mainly_latin:
        return _latin_words_as_native(text, words) + _whole_text(text, words)
    single = [
        m.group() for m in _SINGLE.finditer(text.text) if _fits_as_letter(m, text.text, words)
    ]
    alike = [word for word in _ALIKE.findall(text.text) if _is_foreign_word(word)]
    if not alike or ("\u0251" in alike and text.is_phonetic):
        return single
    # Where other words of that script cannot be read as Latin, the text quotes a language.
    rest = _ALIKE.sub(" ", text.text)
    quoted = {script_of(c) for c in set(rest)} & ALPHABETS - {"LATIN"}
    return single + [
        word
        for word in alike
        if script_of(word[0]) not in quoted
        or (len(word) >= 3 and words.latin().get(read_as_latin(word).lower(), 0) >= 3)
    ]


def _is_foreign_word(word: str) -> bool:
    """Whether a look-alike word is a word: one Greek letter may be a symbol."""
    if word == "\u0251":
        return True  # the phonetic a, which no alphabet has as a word
    if script_of(word[0]) in {"LATIN", ""}:
        return False
    return len(word) > 1 or script_of(word) != "GREEK" or word in _GREEK_NEVER_A_SYMBOL


def _fits_as_letter(found: re.Match[str], text: str, words: _Vocabulary) -> bool:
    """Whether a lone symbol such as alpha stands where the corpus has the letter that it doubles.

    The words on both sides must be known beside that letter: "is a good", never "an a of 0.05".
    """
    letter = read_as_latin(found.group()).lower()
    before = re.search(r"([a-z]+) $", text[max(0, found.start() - 40) : found.start()].lower())
    after = re.match(r" ([a-z]+)", text[found.end() : found.end() + 40].lower())
    beside = [f"{before[1]} {letter}"] if before else []
    beside += [f"{letter} {after[1]}"] if after else []
    at_edges = (before or found.start() == 0) and (after or found.end() == len(text))
    return bool(beside and at_edges) and all(words.letters().get(b, 0) >= 3 for b in beside)


def _latin_words_as_native(text: Surroundings, words: _Vocabulary) -> list[str]:
    """Return Latin words of a Cyrillic or Greek text that its corpus knows in native letters."""
    found: list[str] = []
    for word in _LATIN_WORD.findall(text.text):
        for script, read in (("CYRILLIC", read_as_cyrillic), ("GREEK", read_as_greek)):
            native = read(word)
            if not _ASCII_WORD.search(native) and script in text.scripts:
                known = words.foreign().get(native, 0)
                if known >= 5 and known >= 5 * words.latin().get(word.lower(), 0):
                    found.append(word)
    return found


def _whole_text(text: Surroundings, words: _Vocabulary) -> list[str]:
    """Return the words of a text that looks Latin and has no Latin letter, in a Latin corpus."""
    letters = [c for c in text.text if c.isalpha()]
    if not letters or any(ord(c) not in LATIN_DOUBLE for c in letters):
        return []
    if all(script_of(c) in {"LATIN", "GREEK"} for c in letters) and len(letters) == 1:
        return []
    return _ALIKE.findall(text.text) if words.is_latin_corpus() else []
