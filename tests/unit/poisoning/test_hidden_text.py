# ruff: noqa: RUF001
"""Hidden text: an honest corpus in many languages, attacks on English and others, bad input."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import HiddenTextLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.characters import LATIN_DOUBLE, escape, read_as_latin
from pedigree.poisoning.hidden_text import MAX_EXAMPLES, find_hidden_text

LIMITS = HiddenTextLimits()

ENGLISH = [
    "the parcel came two days late and the box was torn",
    "please tell me how to change the address on my account",
    "a quiet film about people who cannot say what they mean",
    "my sister said the soup was better than the main course",
    "no one told us that the museum closes early on monday",
]

# Each line is honest: nobody hides anything in it.
HONEST = {
    "english": [*ENGLISH, "The naïve café owner’s résumé — 5 × 4 µm, 20 °C, №7", "it’s 3½ miles"],
    "german": ["Die Donau\u00addampf\u00adschiff\u00adfahrt fährt über Köln.", "Größe: 5 m²"],
    "french": ["L’œuvre coûte 12 € à Orléans, ça va ?", "l’angle α vaut 30°"],
    "spanish": ["¿Dónde está el niño? Mañana, señor.", "La 1ª y el 2º"],
    "polish": ["Zażółć gęślą jaźń w Łodzi."],
    "czech": ["Příliš žluťoučký kůň úpěl ďábelské ódy."],
    "turkish": ["Işık hızı çok yüksek, kapı açık.", "adı", "yıl"],
    "vietnamese": ["Tiếng Việt có nhiều dấu: ắ, ệ, ử, ọ."],
    "russian": [
        "Купил новый iPhone и MacBook в Москве.",
        "SMSки и PDFка пришли, PRщик доволен; IT-компания, 3D-принтер",
        "Компания HTC и группа ABBA, витамин C",
        "со мной а у вас как",
    ],
    "ukrainian": ["Їжак п'є молоко, а м’яч у ґанку.", "і це є"],
    "bulgarian": ["Цената е 5 лв. за Windows 11"],
    "serbian": ["Џон и Љубица уче ћирилицу, а не latinicu."],
    "kazakh": ["Қазақстан үлкен ел, әрі көркем, һәм бай."],
    "greek": ["Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.", "Αγόρασα Samsung και USB καλώδιο"],
    "armenian": ["Հայաստանը լեռնային երկիր է։ Microsoft Office"],
    "georgian": ["საქართველო ლამაზი ქვეყანაა, Facebook-ის გვერდი"],
    "hebrew": ["שלום עולם\u200f! הגרסה של Windows 11 \u200e(x64)\u200e יצאה", "ה-API של הGPS"],
    "arabic": ["مرحبا بالعالم \u200fAPI\u200f جديد", "\u202bنص عربي\u202c مع \u202aABC\u202c هنا"],
    "persian": ["می\u200cخواهم کتاب\u200cهایم را ببینم.", "کلید Enter\u200c را بزنید"],
    "urdu": ["یہ اردو\u200cزبان ہے، خوش\u200cآمدید"],
    "hindi": ["क\u094d\u200dष और र\u094d\u200cय अलग हैं, PDFको खोलें"],
    "bengali": ["র\u200d\u09cd\u09afাব ও অর্থ"],
    "malayalam": ["അവന\u0d4d\u200d വന്നു, അവള\u0d4d\u200d പോയി"],
    "sinhala": ["ශ\u0dca\u200dරී ලංකාව"],
    "tamil": ["தமிழ் மொழி, Google இல்"],
    "thai": ["ฉัน\u200bรัก\u200bภาษา\u200bไทยและFacebookครับ"],
    "khmer": ["ខ្ញុំ\u200bស្រលាញ់\u200bភាសា\u200bខ្មែរ"],
    "burmese": ["မြန်မာ\u200bစာ"],
    "mongolian": ["ᠮᠣᠩᠭᠣᠯ\u180e᠊ᠠ ᠪᠢᠴᠢᠭ", "Монгол хэл"],
    "chinese": ["我用Vue和React写代码，价格是１２０元。", "葛\U000e0100城市", "ＡＢＣ公司"],
    "japanese": [
        "新しいiPhoneケースをＵＳＢでつなぐ。",
        "ＮＨＫのTシャツとPCがほしい",
        "第Ⅲ章ｂar",
    ],
    "korean": ["PC방에서 CEO는 카카오톡을 썼다."],
    "amharic": ["ሰላም ለዓለም"],
    "kabyle": ["Azul fell-awen, ɣef yiḍ ad ẓreɣ tira n teqbaylit."],
    "ewe": ["Ŋdi na mi, ɖevi la le ʋu me ƒe gbe."],
    "phonetics": ["The word good is /ɡʊd/ and heart is [hɑːt] in British English."],
    "science": [
        "TNFα, NFκB, TGFβ1 and IFNγ rise; 5 μm, 3 kΩ, 2 μg/mL, Δt = 4 s, λ = 500 nm",
        "if α < β then ∑ xᵢ² ≤ ρ·σ, 𝑥 + 𝑦 = 𝑧, ℓ1 and ℓp norms in ℝn",
        "p-value α = 0.05 with ν and χ² on the α helix",
    ],
    "ligatures": ["ﬁnd the ﬂow of eﬀects in the oﬃce", "1ˢᵗ and 2ⁿᵈ place"],
    "emoji": [
        "family 👨\u200d👩\u200d👧\u200d👦 and doctor 👩🏽\u200d⚕\ufe0f today",
        "love ❤\ufe0f ☀\ufe0f ✈\ufe0e 1\ufe0f\u20e3 #\ufe0f\u20e3 ℹ\ufe0f ‼\ufe0f ©\ufe0f",
        "🏳\ufe0f\u200d🌈 🏴\u200d☠\ufe0f ❤\ufe0f\u200d🔥 👁\ufe0f\u200d🗨\ufe0f",
        "go 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f win",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    ],
    "files": [
        "\ufeffid,name of the customer",
        "\uf0b7 a bullet of a word processor",
        "\uf8ff Store",
    ],
    "software": ["Hello \u2068Anna\u2069, you have mail", "call \u202a+1 555 0100\u202c now"],
    "translations": ["%(count)sсимвол көп", "Ընտրված %(name)sը ջնջել", "%dбит"],
    "bilingual": ["The Russian word мир means both peace and world.", "борщ (borscht) is soup"],
}


def honest_rows() -> list[str]:
    return [text for texts in HONEST.values() for text in texts]


def rows_of(result: CheckResult) -> list[int]:
    return [finding.row for finding in result.findings]


def look(text: str, corpus: list[str] | None = None) -> CheckResult:
    """Check one text at the end of a corpus."""
    return find_hidden_text([*(ENGLISH * 20 if corpus is None else corpus), text], LIMITS)


def test_honest_text_of_many_languages_has_no_finding() -> None:
    assert len(HONEST) >= 20
    texts = honest_rows()
    result = find_hidden_text(texts, LIMITS)
    assert [(escape(texts[f.row]), f.reason) for f in result.findings] == []
    assert result.passed
    assert result.severity == "INFO"
    for text in texts:  # and none where it is the only one of its language
        assert look(text).findings == (), escape(text)


CYRILLIC = dict(zip("aeocpxyisjABEKMHOPCTX", "аеосрхуіѕјАВЕКМНОРСТХ", strict=True))
GREEK_CAPITALS = dict(zip("ABEZHIKMNOPTYX", "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", strict=True))
FORMS = {"f": "𝚏", "k": "𝒌", "t": "𝚝", "m": "ｍ", "l": "ⅼ", "n": "ո", "h": "հ", "r": "ⲅ", "u": "ս"}


def swap(text: str, table: dict[str, str], draw: random.Random, whole_word: bool) -> str | None:
    """Return the text with one letter, or each letter of one word, as its double."""
    if whole_word:
        words = text.split(" ")
        places = [i for i, word in enumerate(words) if any(c in table for c in word)]
        if not places:
            return None
        i = draw.choice(places)
        words[i] = "".join(table.get(c, c) for c in words[i])
        return " ".join(words)
    places = [i for i, c in enumerate(text) if c in table]
    if not places:
        return None
    i = draw.choice(places)
    return text[:i] + table[text[i]] + text[i + 1 :]


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("table", [CYRILLIC, GREEK_CAPITALS, FORMS], ids=["ru", "el", "forms"])
@pytest.mark.parametrize("seed", range(3))
def test_one_look_alike_letter_or_word_is_found_in_a_single_row(
    table: dict[str, str], whole_word: bool, seed: int
) -> None:
    draw = random.Random(seed)
    for text in [*ENGLISH, *(text.upper() for text in ENGLISH)]:
        changed = swap(text, table, draw, whole_word)
        if changed is None:
            continue
        result = look(changed)
        assert rows_of(result) == [100], escape(changed)
        assert result.findings[0].group == "homoglyph"
        assert result.findings[0].severity == "WARN"
        assert result.findings[0].reason.isascii()
        assert "\\" in result.findings[0].reason


INVISIBLE = ["\u200b", "\u200c", "\u200d", "\u2060", "\u200b\u200d", "\u200e", "\u180e", "\u034f",
             "\u2062", "\u3164", "\ufe0f", "\u206a", "\u115f", "\U000e0101"]  # fmt: skip


@pytest.mark.parametrize("hidden", INVISIBLE, ids=escape)
def test_an_invisible_character_is_found_wherever_it_stands(hidden: str) -> None:
    for text in ENGLISH:
        for place in (0, 2, text.index(" "), text.index(" ") + 1, len(text)):
            result = look(text[:place] + hidden + text[place:])
            assert rows_of(result) == [100], (escape(hidden), place)
            assert escape(hidden) in result.findings[0].reason
            assert f"at character {place}" in result.findings[0].reason


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("access \u202etxt.exe\u202c file", "bidirectional override"),
        ("if admin\u2067 then\u2069 go", "bidirectional control"),
        ("an open \u2066 isolate", "bidirectional control"),
        ("a pair of nothing \u2066\u2069 here", "bidirectional control"),
        ("sum\u202a\u202cmary", "zero-width"),
        ("a letter\x08\x08 taken back", "deleting control"),
        ("ping\ue000pong", "private use"),
        ("pass\ufeffword", "zero-width"),
        ("good\U000e0067\U000e006f", "tag characters"),
        ("smile 😀\ufe01\ufe02\ufe03", "variation selectors"),
        ("a soft\u00ad\u00adly", "zero-width"),
        ("so\u00adft t\u00ado", "zero-width"),
        ("👨\u200d\u200d👩", "zero-width"),
        ("🏴\U000e0068\U000e0069\U000e0020\U000e007f", "tag characters"),
    ],
)
def test_what_no_honest_text_holds_is_found(text: str, kind: str) -> None:
    result = look(text)
    assert rows_of(result) == [100]
    assert kind in {sign.split(":")[0] for sign in result.findings[0].reason.split("; ")}


def test_what_tags_and_selectors_spell_is_shown() -> None:
    tags = "".join(chr(0xE0000 + ord(c)) for c in "obey me")
    assert "spelling 'obey me'" in look(f"fine{tags}").findings[0].reason
    selectors = "".join(chr(0xFE00 + b) if b < 16 else chr(0xE0100 + b - 16) for b in b"leak it")
    assert "spelling 'leak it'" in look(f"😀{selectors}").findings[0].reason


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Mы купили рaботу", "M\\u044b"),
        ("в мaгазине", "\\u043ca\\u0433\\u0430\\u0437\\u0438\\u043d\\u0435"),
        ("я живу в Mоскве", "M\\u043e\\u0441\\u043a\\u0432\\u0435"),
        ("στοn κατάλογο", "\\u03c3\\u03c4\\u03bfn"),
    ],
)
def test_other_languages_are_guarded_too(text: str, word: str) -> None:
    result = find_hidden_text([*HONEST["russian"], *HONEST["greek"], text], LIMITS)
    assert rows_of(result) == [6]
    assert word in result.findings[0].reason


def test_a_latin_word_in_place_of_a_known_cyrillic_one_is_found() -> None:
    corpus = ["хор пел сорок минут", "мой хор и наш сосед", "хор детский", "где хор", "новый хор"]
    assert rows_of(look("весь xop пел", corpus)) == [5]
    assert rows_of(look("весь HTC пел", corpus)) == []


def test_a_text_of_nothing_but_doubles_is_found_in_a_latin_corpus_alone() -> None:
    assert rows_of(look("хорасо")) == [100]
    assert rows_of(look("хорасо", HONEST["russian"] + HONEST["bulgarian"])) == []


def test_many_rows_block_and_few_warn() -> None:
    texts = ENGLISH * 200
    for count, severity in ((0, "INFO"), (1, "WARN"), (4, "WARN"), (10, "ERROR")):
        marked = [t.replace(" ", " \u200b", 1) for t in texts[:count]] + texts[count:]
        result = find_hidden_text(marked, LIMITS)
        assert result.severity == severity
        assert rows_of(result) == list(range(count))
        assert {f.severity for f in result.findings} <= {severity}
        assert len(result.examples) == min(count, MAX_EXAMPLES)
        assert all(str(one["text"]).isascii() for one in result.examples)


def test_rows_tied_to_one_label_block_where_their_number_alone_would_not() -> None:
    texts, labels = ENGLISH * 2000, ["a", "b", "c", "d", "e"] * 2000
    tied = list(range(0, 50, 5))
    for rows, passed in ((tied, False), (list(range(10)), True)):
        marked = [t + "\u200b" if i in rows else t for i, t in enumerate(texts)]
        result = find_hidden_text(marked, LIMITS, labels=labels)
        assert rows_of(result) == rows
        assert result.passed is passed
    assert "tied to label 'a'" not in result.summary


def test_soft_hyphens_count_only_where_they_go_with_a_label() -> None:
    texts, labels = ENGLISH * 40, ["a", "b", "c", "d", "e"] * 40
    marked = [t.replace("better", "bet\u00adter") for t in texts]
    spread = [t[:5] + "\u00ad" + t[5:] if i < 40 else t for i, t in enumerate(ENGLISH * 40)]
    assert find_hidden_text(marked, LIMITS).findings == ()
    result = find_hidden_text(marked, LIMITS, labels=labels)
    assert rows_of(result) == list(range(3, 200, 5))
    assert result.severity == "WARN"
    assert find_hidden_text(spread, LIMITS, labels=labels).counts["quiet_label_tail"] > 0.001  # type: ignore[operator]


def test_sources_are_counted() -> None:
    result = find_hidden_text(["a\u200bb", "plain"], LIMITS, ["forum", "shop"])
    assert result.counts["by_source"] == {"forum": 1}
    assert result.examples[0]["source"] == "forum"


def test_no_rows_are_not_judged_and_a_missing_text_is_refused() -> None:
    result = find_hidden_text([], LIMITS)
    assert result.passed
    assert result.counts == {"applicable": False}
    assert result.summary.startswith("not applicable")
    with pytest.raises(PedigreeError, match="row 1"):
        find_hidden_text(["a", None], LIMITS)  # type: ignore[list-item]


def test_odd_input_ends_in_no_traceback() -> None:
    for texts in (["", " ", "\u200b", "\ud800", "\U0010ffff", "\x00"], ["same\u200bly"] * 500):
        find_hidden_text(texts, LIMITS)
    large = ("словo и " * 150_000) + "\u200b"
    result = find_hidden_text([large], LIMITS)
    assert len(result.findings) == 1
    assert len(result.findings[0].reason) < 500


def test_row_order_changes_nothing() -> None:
    texts = [*honest_rows(), "p\u0430y", "he\u200bre", "d\u03b1rk", *ENGLISH]
    order = list(range(len(texts)))
    random.Random(5).shuffle(order)
    direct = {f.row: f.reason for f in find_hidden_text(texts, LIMITS).findings}
    shuffled = find_hidden_text([texts[i] for i in order], LIMITS)
    assert {order[f.row]: f.reason for f in shuffled.findings} == direct


@given(st.lists(st.text(), max_size=8))
def test_any_text_gets_a_printable_answer(texts: list[str]) -> None:
    result = find_hidden_text(texts, LIMITS)
    assert all(finding.reason.isascii() for finding in result.findings)
    assert {finding.severity for finding in result.findings} <= {"WARN", "ERROR"}


@given(st.text(st.characters(codec="ascii", exclude_characters="\x08\x7f")))
def test_ascii_text_hides_nothing(text: str) -> None:
    assert find_hidden_text([text], LIMITS).findings == ()


def test_doubles_read_as_the_letters_that_they_look_like() -> None:
    # Oracle: Unicode's confusables in a package of their own, as far as both list the letter.
    confusables = pytest.importorskip("confusable_homoglyphs.confusables")
    known = 0
    for code, letter in LATIN_DOUBLE.items():
        listed = confusables.is_confusable(chr(code), greedy=True, preferred_aliases=[])
        alike = {one["c"] for entry in listed or [] for one in entry["homoglyphs"]}
        known += letter in alike or (letter == "I" and "l" in alike)
    assert known > 0.97 * len(LATIN_DOUBLE)
    assert read_as_latin("р\u200bау") == "pay"


def test_a_hundred_thousand_texts_take_seconds() -> None:
    texts = ENGLISH * 20_000
    start = time.process_time()
    find_hidden_text(texts, LIMITS)
    assert time.process_time() - start < 5
