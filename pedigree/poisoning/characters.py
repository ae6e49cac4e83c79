r"""What a character is, beyond what it looks like: its script, its double, whether it shows.

The checks of hidden text and of instructions read texts through this module::

    >>> script_of("\u0430"), read_as_latin("\u0430pple"), escape("\u0430pple")
    ('CYRILLIC', 'apple', '\\u0430pple')

Scripts come from the character names of Python's own Unicode database. Look-alikes are the letters
that Unicode Technical Standard 39 (confusables) lists for A to Z, without those that NFKC folds
already and without scripts that no living text mixes with Latin ones.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, cached_property

from pedigree.errors import PedigreeError

# Default_Ignorable_Code_Point of Unicode 16: renders as nothing, whatever the font.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IGNORABLE = re.compile(f"[{IGNORABLE}]")

# ASCII letter -> code points (hexadecimal) of letters that look like it.
_LOOKALIKES = {
    "A": "391 410 13aa 15c5 a4ee",
    "B": "392 412 13f4 15f7 a4d0 a7b4",
    "C": "3f9 421 13df 2ca4 a4da 10415",
    "D": "13a0 15de 15ea a4d3",
    "E": "395 415 13ac 2d39 a4f0",
    "F": "3dc 15b4 a4dd a798",
    "G": "50c 13c0 13f3 a4d6",
    "H": "397 41d 13bb 157c 2c8e a4e7",
    "I": "399 406 4c0 2c92 a4f2",
    "J": "37f 408 13ab 148d a4d9 a7b2",
    "K": "39a 41a 13e6 2c94 a4d7",
    "L": "13de 14aa 2cd0 a4e1 1041b",
    "M": "39c 3fa 41c 13b7 15f0 2c98 a4df",
    "N": "39d 2c9a a4e0",
    "O": "39f 41e 555 2c9e 2d54 a4f3 10404 104c2",
    "P": "3a1 420 13e2 146d 2ca2 a4d1",
    "Q": "2d55",
    "R": "1a6 13a1 13d2 1587 a4e3 104b4",
    "S": "405 54f 13d5 13da a4e2 10420",
    "T": "3a4 422 13a2 2ca6 a4d4",
    "U": "54d 144c a4f4 104ce",
    "V": "474 13d9 142f 2d38 a4e6",
    "W": "51c 13b3 13d4 a4ea",
    "X": "3a7 425 2cac 2d5d a4eb a7b3",
    "Y": "3a5 423 4ae 13a9 13bd 2ca8 a4ec",
    "Z": "396 13c3 a4dc",
    "a": "251 3b1 430",
    "b": "184 42c 44c 13cf 1472 15af",
    "c": "3f2 441 1d04 2ca5 abaf 1043d",
    "d": "501 13e7 146f a4d2",
    "e": "435 4bd ab32",
    "f": "584 1e9d a799 ab35",
    "g": "18d 261 581 1d83",
    "h": "4bb 570 13c2",
    "i": "269 26a 3b9 456 4cf 13a5 a647 ab75",
    "j": "3f3 458",
    "l": "196 1c0 2d4f",
    "n": "578 57c",
    "o": "3bf 3c3 43e 585 10ff 1d0f 1d11 2c9f ab3d 1042c 104ea",
    "p": "3c1 440 2ca3",
    "q": "51b 563 566",
    "r": "433 1d26 2c85 ab47 ab48 ab81",
    "s": "1bd 455 a731 abaa 10448",
    "u": "28b 3c5 57d 1d1c a79f ab4e ab52 104f6",
    "v": "3bd 475 1d20 aba9",
    "w": "26f 461 51d 561 1d21 ab83",
    "x": "445 1541 157d",
    "y": "263 28f 3b3 443 4af 10e7 1d8c 1eff ab5a",
    "z": "1d22 ab93",
}
LATIN_DOUBLE: dict[int, str] = {
    int(code, 16): letter for letter, codes in _LOOKALIKES.items() for code in codes.split()
}
LOOKALIKES = "".join(map(chr, LATIN_DOUBLE))

# Alphabets that are kept apart from Latin within a word; scripts written without spaces, or that
# take Latin words with their own endings or prefixes, are not among them.
ALPHABETS = frozenset(
    (
        *("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "COPTIC", "CHEROKEE", "LISU", "CANADIAN"),
        *("DESERET", "OSAGE", "TIFINAGH", "GEORGIAN"),
    )
)
_RTL = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_IDEOGRAPHS = re.compile(
    "[\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u303a\u3040-\u312f\u3130-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7fb\uf900-\ufaff\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff]"
)

LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_LATIN_LETTER = re.compile(f"[{LATIN}]")
_PHONETIC = re.compile(
    f"(?![{LOOKALIKES}])[\u0250-\u02af\u02c8\u02cc\u02d0\u014b\u03b8]"  # of the IPA alone
)
# Scripts whose letters join, stack or ligate: a joiner or non-joiner is part of the spelling.
JOINING = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1900-\u1aff\u1b00-\u1c7f\ua840-\uaaff"
    "\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff\U0001e900-\U0001e95f]"
)
# Written without spaces: a zero-width space says where a line may break.
UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1980-\u1aaf\u1b00-\u1bff"
                       "\ua980-\ua9df\uaa60-\uaadf]")  # fmt: skip


@cache
def script_of(character: str) -> str:
    """Return the script of a letter as the first word of its Unicode name, or '' for no script.

    Letters of compatibility (fullwidth, mathematical, enclosed), modifiers and symbols have none.
    """
    if not unicodedata.category(character).startswith("L"):
        return ""
    name = unicodedata.name(character, "")
    if name.startswith("GREEK ") and " LETTER " not in name:
        return "GREEK"  # lunate sigma and other letters named symbols
    if " LETTER " not in name and " IDEOGRAPH" not in name and " SYLLABLE" not in name:
        return "CANADIAN" if name.startswith("CANADIAN SYLLABICS") else ""
    script = name.split(" ", 1)[0].split("-", 1)[0]
    return "" if script in {"FULLWIDTH", "MODIFIER", "MICRO", "HALFWIDTH"} else script


class Surroundings:
    """What the judges of one character ask of the whole text, each looked up once.

    Answers are kept, so that a long text with many suspects costs no more than its length.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def has_rtl(self) -> bool:
        """Whether a character of a right-to-left script stands in the text."""
        return _RTL.search(self.text) is not None

    @cached_property
    def has_ideographs(self) -> bool:
        """Whether Han, kana, Bopomofo or Hangul stands in the text."""
        return is_ideographic(self.text)

    @cached_property
    def has_joining(self) -> bool:
        """Whether a script stands in the text whose spelling uses joiners and non-joiners."""
        return JOINING.search(self.text) is not None

    @cached_property
    def has_unspaced(self) -> bool:
        """Whether a script stands in the text that is written without spaces, Han apart."""
        return UNSPACED.search(self.text) is not None

    @cached_property
    def is_phonetic(self) -> bool:
        """Whether a letter that only phonetic notation uses stands in the text."""
        return _PHONETIC.search(self.text) is not None

    @cached_property
    def is_mainly_latin(self) -> bool:
        """Whether most letters of the text are Latin."""
        return 2 * len(_LATIN_LETTER.findall(self.text)) > sum(map(str.isalpha, self.text))

    @cached_property
    def scripts(self) -> frozenset[str]:
        """The scripts of the letters of the text."""
        return frozenset(map(script_of, set(self.text)))

    @cached_property
    def characters(self) -> frozenset[str]:
        """The distinct characters of the text."""
        return frozenset(self.text)


def has_rtl(text: str) -> bool:
    """Whether a character of a right-to-left script stands in the text."""
    return _RTL.search(text) is not None


def is_ideographic(text: str) -> bool:
    """Whether Han, kana, Bopomofo or Hangul stands in the text."""
    return _IDEOGRAPHS.search(text) is not None


def strip_ignorables(text: str) -> str:
    """Return the text without the code points that render as nothing."""
    return text if text.isascii() else _IGNORABLE.sub("", text)


def read_as_latin(text: str) -> str:
    """Return the text as a reader takes it: compatibility forms folded, doubles as ASCII."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", strip_ignorables(text)).translate(LATIN_DOUBLE)


def read_as_cyrillic(word: str) -> str:
    """Return a Latin word with each letter that has a Cyrillic double as that double."""
    return word.translate(_CYRILLIC_DOUBLE)


def read_as_greek(word: str) -> str:
    """Return a Latin word with each letter that equals a Greek one in print as that letter."""
    return word.translate(_GREEK_DOUBLE)


_CYRILLIC_DOUBLE = str.maketrans(
    "ABCEHIJKMOPSTXYaceijopsxy",
    "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u0423"
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443",
)

_GREEK_DOUBLE = str.maketrans(
    "ABEZHIKMNOPTYXo",
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
)


def escape(text: str) -> str:
    r"""Return printable ASCII: each other code point as \xNN, \uNNNN or \UNNNNNNNN."""
    return text.encode("unicode_escape").decode("ascii")


def require_texts(texts: Sequence[str | None], check: str) -> None:
    """Refuse a table in which a text is missing.

    Raises:
        PedigreeError: a text is null; "could not look" is not clean.
    """
    for row, text in enumerate(texts):
        if text is None:
            raise PedigreeError(
                f"{check} needs a text in each row and found none in row {row}: drop or fill it."
            )
