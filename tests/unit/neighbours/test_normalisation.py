"""What two texts are compared by: each disguise folded, both paths alike, bad input refused."""

import subprocess
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pedigree.errors import PedigreeError
from pedigree.neighbours import normalisation
from pedigree.neighbours.normalisation import (
    as_strings,
    buffers_of,
    from_buffers,
    iterate_chunks,
    normalise,
    normalise_texts,
)
from tests.conftest import REPOSITORY
from tests.unit.neighbours import oracle

PLAIN = "a good film"
TAGS = "".join(chr(0xE0000 + ord(letter)) for letter in "buy")


@pytest.mark.parametrize(
    ("disguise", "plain"),
    [
        ("A GOOD Film", PLAIN),
        ("a good film!!!", PLAIN),
        ("...a, good; «film»", PLAIN),
        ("a_good__film", PLAIN),
        ("a\u00a0good\nfilm\t ", PLAIN),
        ("a\u3000good\u2003film", PLAIN),
        ("a go\u200bod fi\u200d\u200clm\ufeff", PLAIN),
        ("a go\u00adod fi\u00adlm", PLAIN),
        ("\u202ea good\u202c film\u2066\u2069", PLAIN),
        (f"a good{TAGS} film", PLAIN),
        ("a go\ufe0fod fi\U000e0100lm", PLAIN),
        ("a g\u034food f\u2060ilm", PLAIN),
        ("a go\u3164od f\uffa0il\u115fm", PLAIN),
        ("a go\u0301od fi\u0336l\u20ddm", PLAIN),
        ("\u00e0 g\u00f6\u00f6d f\u00eflm", PLAIN),
        ("\uff41 \uff27\uff4f\uff4f\uff24 \uff46\uff49\uff4c\uff4d", PLAIN),
        ("a good \ufb01lm", PLAIN),
        ("\U0001d41a \U0001d420\U0001d428\U0001d428\U0001d41d \U0001d53d\U0001d55alm", PLAIN),
        ("\u24d0 \u24d6\u24de\u24de\u24d3 film", PLAIN),
        ("\u0430 g\u043e\u043ed f\u0456lm", PLAIN),  # Cyrillic a, o, o, i
        ("\u0410 G\u041e\u041ed f\u0406lm", PLAIN),  # the same in upper case
        ("a g\u03bf\u03bfd film", PLAIN),  # Greek omicron
        ("\u0391 G\u039f\u039fd F\u0399LM", PLAIN),  # Greek alpha, omicron, iota
        ("straße", "strasse"),
        ("Cafe\u0301 café", "cafe cafe"),
        ("m\u00b2 \u00bd", "m2 1 2"),
        ("a\0good\0film", PLAIN),
    ],
)
def test_a_disguise_folds_to_what_the_eye_reads(disguise: str, plain: str) -> None:
    assert normalise(disguise) == normalise(plain) == plain


@pytest.mark.parametrize(
    ("upper", "latin"),
    [
        ("\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425", "abekmhopctx"),
        ("\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1", "abezhikmnop"),
    ],
)  # fmt: skip
def test_capitals_of_other_scripts_that_look_latin_are_read_as_latin(
    upper: str, latin: str
) -> None:
    # What a reader sees in capitals; folded to lower case first, half of them look like nothing.
    folded = normalise(upper)
    assert len(folded) == len(latin)
    agree = sum(a == b for a, b in zip(folded, latin, strict=True))
    assert agree >= len(latin) - 4, folded
    # Whatever they fold to, either case folds to the same: a copy cannot hide by its case.
    assert normalise(upper.lower()) == folded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我喜欢这部电影", "我 喜 欢 这 部 电 影"),
        ("我 喜欢\uff0c这部 电影。", "我 喜 欢 这 部 电 影"),
        ("really好film", "really 好 film"),
        ("ひらがなカタカナ", "ひ ら か な カ タ カ ナ"),
        ("ｶﾀｶﾅ", "カ タ カ ナ"),
        ("เรา", "เ ร า"),
        ("한국", unicodedata.normalize("NFKD", "한국")),
    ],
)
def test_a_character_of_a_script_without_spaces_is_a_word(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_thai_keeps_its_consonants_and_loses_only_marks_that_combine() -> None:
    assert "".join(normalise("ฉันชอบหนังเรื่องนี้").split()).startswith("ฉ")
    assert normalise("ฉันชอบ") != normalise("ฉันรัก")


def test_texts_without_letters_stay_apart() -> None:
    texts = [":-)", ":-(", "!!!", "...", "😀", "😡", "", "( )", "()", "\0!", "? !"]
    assert len(set(normalise_texts(texts).to_pylist())) == len(texts)
    assert normalise("\0!") == "!"
    assert normalise("!  !") == normalise(" !\t!\n") == "! !"
    assert normalise("\uff01\uff01\uff01") == "!!!"


@pytest.mark.parametrize("text", ["", " ", "\u200b", " \u200b\ufe0f ", "\0", "\n\0\t", TAGS])
def test_what_is_not_seen_at_all_is_the_empty_text(text: str) -> None:
    assert normalise(text) == ""


letters = st.text(
    st.one_of(
        st.sampled_from("abz AZ09 .,_!?\t\n\0"),
        st.sampled_from("éßŒŉıŁµςΣ²½ﬁａＡ\u00a0\u00ad\u200b\u0301\u0336\ufe0f\u3164\u0345"),
        st.sampled_from("аеоАНЅіјΑΟοιабвя我喜คาあカｶ한गक्षम"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)


@given(st.lists(letters, max_size=6))
@example(["\0", "\0!", "!", "a\0b", "", " "])
@example(["İ", "ŉ", "ᾳ", "ΐ", "ẞ", "ǰ"])
def test_both_paths_are_the_reference(texts: list[str]) -> None:
    assert normalise_texts(texts).to_pylist() == [oracle.normalise(text) for text in texts]


@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=20), min_size=1, max_size=8))
@example(["  a  ", " ", "", "!", "a ", " b", "a\0\0b"])
def test_ascii_takes_the_quick_path_and_gives_what_the_other_gives(texts: list[str]) -> None:
    strings = pa.array(texts, pa.large_string())
    quick = normalisation._normalise_ascii(*buffers_of(strings))
    other = normalisation._normalise_unicode(strings)
    assert quick.to_pylist() == other.to_pylist()
    quick.validate(full=True)
    # A foreign neighbour in the same chunk changes nothing.
    beside = normalise_texts([*texts, "é", *texts]).to_pylist()
    assert beside == [*normalise_texts(texts).to_pylist(), "e", *normalise_texts(texts).to_pylist()]


@given(letters)
def test_a_normalised_text_is_what_it_says(text: str) -> None:
    done = normalise(text)
    assert "\0" not in done
    assert done == " ".join(done.split())
    assert normalise(text.upper().lower()) == normalise(text.lower().upper().lower())
    assert normalise(f"  {text}\u200b ") == done


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_borders_of_chunks_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*oracle.make_texts(30, 1), "é", "", "我喜欢", "!!", "", "x" * 200, "", "é" * 100]
    whole = normalise_texts(texts).to_pylist()
    chunks = list(iterate_chunks(as_strings(texts), size))
    assert [row for start, stop in chunks for row in range(start, stop)] == list(range(len(texts)))
    sizes = [sum(len(text.encode()) for text in texts[a:b]) for a, b in chunks]
    assert all(total <= size or b - a == 1 for total, (a, b) in zip(sizes, chunks, strict=True))
    monkeypatch.setattr(
        normalisation, "iterate_chunks", lambda strings: iterate_chunks(strings, size)
    )
    assert normalise_texts(texts).to_pylist() == whole


def test_slices_and_chunks_of_arrow_arrays_are_what_they_show() -> None:
    texts = ["Drop!", "A Good", "", "Ünder", "我喜", "end.", "drop"]
    expected = normalise_texts(texts[1:6]).to_pylist()
    for kind in (pa.string(), pa.large_string()):
        array = pa.array(texts, kind)
        assert normalise_texts(array.slice(1, 5)).to_pylist() == expected
        pieces = pa.chunked_array([array.slice(1, 2), array.slice(3, 0), array.slice(3, 3)])
        assert normalise_texts(pieces).to_pylist() == expected
        assert normalise_texts(array.slice(3, 0)).to_pylist() == []
        assert normalise_texts(pa.chunked_array([], kind)).to_pylist() == []
    assert normalise_texts([]).to_pylist() == []
    data, offsets = buffers_of(pa.array(texts, pa.large_string()).slice(1, 2))
    assert (bytes(data), offsets.tolist()) == (b"A Good", [0, 6, 6])
    assert from_buffers(data, offsets).to_pylist() == texts[1:3]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", None, "b"], r"1 of 3 rows have no text, the first is row 1"),
        ([None, "\ud800"], r"1 of 2 rows have no text, the first is row 0"),
        (pa.chunked_array([["a"], ["b", None, None]]), r"2 of 4 rows .* the first is row 2"),
        ([1, 2], "no string"),
        (["a", 1], "no string"),
        (pa.array([1, 2]), "of type int64, expected strings"),
        (pa.array([b"a"]), "of type binary, expected strings"),
        (pa.chunked_array([pa.array([b"a"])]), "of type binary"),
        (pa.nulls(2), "of type null"),
        (pa.array([b"fine", b"caf\xe9"]).view(pa.string()), r"not valid UTF-8.*index 1"),
        ([b"caf\xe9"], "no string"),
    ],
)
def test_what_is_no_text_is_a_sentence(column: object, message: str) -> None:
    with pytest.raises(PedigreeError, match=message):
        normalise_texts(column)  # type: ignore[arg-type]


def test_half_of_a_surrogate_pair_is_a_question_mark_and_no_crash() -> None:
    assert as_strings(["a\ud800b", "ok", "\udfff"]).to_pylist() == ["a?b", "ok", "?"]
    assert normalise_texts(["a\ud800b", "ok"]).to_pylist() == ["a b", "ok"]


_MEASURE = """
import resource, sys
import numpy as np, pyarrow as pa
from pedigree.neighbours.normalisation import normalise_texts
normalise_texts(["warm \\u00fc", "up"])
texts = pa.array([{text}])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = normalise_texts(texts)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(grown, len(done[0].as_py()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
@pytest.mark.parametrize(
    ("text", "most"),
    [('"Some words, here. " * 590_000', 250), ('"Sömé words 我, here. " * 480_000', 900)],
)
def test_a_text_of_ten_megabytes_takes_a_bounded_multiple_of_it(text: str, most: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE.format(text=text)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, length = (int(number) for number in done.stdout.split())
    assert length > 8_000_000
    assert grown < most


def test_each_code_point_is_folded_as_the_reference_folds_it() -> None:
    draw = np.random.default_rng(0)
    points = [*range(1, 0x3000), *draw.integers(0x3000, 0x110000, 3000).tolist()]
    texts = [chr(code) for code in points if not 0xD800 <= code < 0xE000]
    assert normalise_texts(texts).to_pylist() == [oracle.normalise(text) for text in texts]
