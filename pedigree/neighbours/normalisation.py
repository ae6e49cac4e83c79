"""What two texts are compared by: case, marks, look-alikes and invisible characters folded.

The first step of finding near-duplicates. Words end up with one space between them; a character
of a script that is written without spaces is a word of its own::

    >>> normalise_texts(pa.array(["A  good, fi\u200blm!", "我喜欢"])).to_pylist()
    ['a good film', '我 喜 欢']

Unicode's compatibility forms, case folding and marks come from the standard library, look-alikes
(UTS 39) from `confusable_homoglyphs`. Texts of ASCII alone, the usual ones, take a path that
looks at bytes and gives the same result.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pedigree.errors import PedigreeError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Offsets: TypeAlias = npt.NDArray[np.int64]
Points: TypeAlias = npt.NDArray[np.uint32]
Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray

# How much text is worked on at a time; a longer text is worked on alone.
CHUNK_BYTES = 1 << 20

_SPACE, _DROPPED, _END = 32, 0, 0
_UNSPACED_FLAG, _UNKNOWN = 1 << 24, 0xFFFFFFFF
# Drawn as nothing and yet no format character (category Cf): fillers, variation selectors.
_INVISIBLE = frozenset(
    [
        *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0000, 0xE1000),
    ]
)
# Scripts without spaces between words: South-East Asian, kana, ideographs and their extensions.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip


# What each byte of an ASCII text counts as; the upper half is never looked up.
_ASCII = bytes(ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else _SPACE for c in range(256))


def normalise(text: str) -> str:
    """Return what one text is compared by."""
    return normalise_texts(pa.array([text], pa.large_string())).to_pylist()[0]


def as_strings(texts: Texts) -> pa.LargeStringArray:
    """Return texts as one Arrow array; what is no Unicode (a lone surrogate) becomes ``?``.

    Raises:
        PedigreeError: a text is null, or the column holds no text.
    """
    whole = cast(Any, texts)
    if not isinstance(whole, pa.Array | pa.ChunkedArray):
        whole = _from_sequence(whole)
    kind = whole.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise PedigreeError(
            f"The texts are of type {kind}, expected strings: name a column of text, in UTF-8."
        )
    if whole.null_count:
        raise PedigreeError(
            f"{whole.null_count} of {len(whole)} rows have no text, the first is row "
            f"{whole.is_null().index(True)}: drop or fill them; they cannot be compared."
        )
    # 32-bit offsets would overflow where chunks of more than 2 GB are put together.
    whole = whole.cast(pa.large_string())
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.combine_chunks()
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid as error:
        raise PedigreeError(f"The texts are not valid UTF-8: {error}. Write them anew.") from error
    return whole


def _from_sequence(texts: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        mended = [text and text.encode("utf-8", "replace").decode() for text in texts]
        return pa.array(mended, pa.large_string())
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise PedigreeError(
            f"The texts hold something that is no string ({error}): name a column of text."
        ) from error


def buffers_of(texts: pa.LargeStringArray) -> tuple[Bytes, Offsets]:
    """Return the UTF-8 bytes of all texts end to end, and where each begins and the last ends."""
    _, places, content = texts.buffers()
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(places, np.int64, len(texts) + 1, texts.offset * 8)
    data = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


def from_buffers(data: Bytes, offsets: Offsets) -> pa.LargeStringArray:
    """Return the texts whose UTF-8 bytes lie end to end in `data`."""
    places, content = pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(data)
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, places, content)


def iterate_chunks(
    texts: pa.LargeStringArray, size: int = CHUNK_BYTES
) -> Iterator[tuple[int, int]]:
    """Yield the bounds (start, stop) of consecutive rows that hold about `size` bytes together."""
    offsets = buffers_of(texts)[1]
    start = 0
    while start < len(texts):
        stop = int(np.searchsorted(offsets, offsets[start] + size, "right")) - 1
        stop = min(max(stop, start + 1), len(texts))
        yield start, stop
        start = stop


def normalise_texts(texts: Texts) -> pa.LargeStringArray:
    """Return what each text is compared by: (rows,) strings, without nulls.

    A text in which nothing is a letter or a digit is compared as it is, but for white space:
    otherwise all of those would be one text.

    Raises:
        PedigreeError: a text is null or not valid UTF-8, or the array holds no text.
    """
    whole = as_strings(texts)
    parts = [_normalise_chunk(whole[start:stop]) for start, stop in iterate_chunks(whole)]
    return pa.concat_arrays(parts) if parts else whole


def _normalise_chunk(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    data, offsets = buffers_of(texts)
    high = np.flatnonzero(data > 127)
    foreign = np.zeros(len(texts), bool)
    foreign[np.searchsorted(offsets, high, "right") - 1] = True
    if not foreign.any():
        folded = _normalise_ascii(data, offsets)
    else:
        plain = texts.filter(pa.array(~foreign))
        order = np.argsort(np.concatenate([np.flatnonzero(~foreign), np.flatnonzero(foreign)]))
        other = _normalise_unicode(texts.filter(pa.array(foreign)))
        folded = pa.concat_arrays([_normalise_ascii(*buffers_of(plain)), other]).take(
            pa.array(order)
        )
    lengths = np.diff(buffers_of(folded)[1])
    empty = np.flatnonzero(lengths == 0)
    if not len(empty):
        return folded
    kept = folded.to_pylist()
    for row in empty.tolist():
        kept[row] = _without_letters(texts[row].as_py())
    return pa.array(kept, pa.large_string())


def _without_letters(text: str) -> str:
    """Return a text of nothing but punctuation and symbols as it is seen."""
    folded = unicodedata.normalize("NFKC", text.replace("\0", " ")).casefold()
    seen = (c for c in folded if unicodedata.category(c) != "Cf" and ord(c) not in _INVISIBLE)
    return " ".join("".join(seen).split())


def _normalise_ascii(data: Bytes, offsets: Offsets) -> pa.LargeStringArray:
    folded = np.frombuffer(bytearray(data.tobytes().translate(_ASCII)), np.uint8)
    surplus = _surplus_spaces(folded == _SPACE, offsets)
    folded[surplus] = _DROPPED  # no other byte is 0: the table has none
    kept = folded.tobytes().translate(None, b"\0")
    return from_buffers(np.frombuffer(kept, np.uint8), _without(offsets, surplus))


def _surplus_spaces(space: npt.NDArray[np.bool_], offsets: Offsets) -> Offsets:
    """Return the places of all spaces but one between two words of a row, sorted."""
    filled = offsets[:-1] < offsets[1:]
    starts, ends = offsets[:-1][filled], offsets[1:][filled] - 1
    after_space = np.empty_like(space)
    after_space[1:] = space[:-1]
    after_space[starts] = True
    surplus = space & after_space
    # The first space of a run stays, unless the run ends its row: walk back from the row's end.
    trailing = space[ends]
    at, first = ends[trailing], starts[trailing]
    while len(at):
        on = surplus[at] & (at > first)
        surplus[at] = True
        at, first = at[on] - 1, first[on]
    return np.flatnonzero(surplus)


def _without(offsets: Offsets, removed: Offsets) -> Offsets:
    """Return where each row begins after `removed` places are gone."""
    return offsets - np.searchsorted(removed, offsets)


def _normalise_unicode(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    rows = [text.replace("\0", " ") for text in texts.to_pylist()]
    # One string, whose rows end in NUL: no mark composes with it, and no call is made a row.
    joined = unicodedata.normalize("NFKD", "".join(f"{row}\0" for row in rows)).casefold()
    points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    folded = _fold_points(points)
    ends = points == _END
    keep = (folded != _DROPPED) | ends
    unspaced = folded[keep] >= _UNSPACED_FLAG
    points, ends = folded[keep] & (_UNSPACED_FLAG - 1), ends[keep]
    repeats = np.where(unspaced, 3, 1)
    middle = np.cumsum(repeats) - np.where(unspaced, 2, 1)
    spread = np.full(int(repeats.sum()), _SPACE, np.uint32)
    spread[middle] = points
    stops = middle[ends]
    inside = np.ones(len(spread), bool)
    inside[stops] = False
    offsets = np.concatenate([[0], stops - np.arange(len(stops))])
    spread = spread[inside]
    surplus = _surplus_spaces(spread == _SPACE, offsets)
    places = _without(offsets, surplus)
    content = np.delete(spread, surplus).astype("<u4").tobytes().decode("utf-32-le")
    return pa.array(
        [content[a:b] for a, b in zip(places[:-1].tolist(), places[1:].tolist(), strict=True)],
        pa.large_string(),
    )


def _fold_points(points: Points) -> Points:
    """Return what each code point counts as, flagged where it is a word of its own."""
    table = _fold_table()
    folded = table[points]
    unknown = points[folded == _UNKNOWN]
    if len(unknown):
        for code in np.unique(unknown).tolist():
            table[code] = _fold(chr(code))
        folded = table[points]
    return folded


@cache
def _fold_table() -> Points:
    """Return the table that `_fold_points` fills as it meets code points."""
    return np.full(0x110000, _UNKNOWN, np.uint32)


def _fold(character: str) -> int:
    """Return the code point that a case-folded character counts as, with the flag; 0 is dropped."""
    code = ord(character)
    category = unicodedata.category(character)
    if code in _INVISIBLE or category in ("Cf", "Cs") or code == _END:
        return _DROPPED
    if category in ("Mn", "Me") and (unicodedata.combining(character) or category == "Me"):
        return _DROPPED
    if category[0] not in "LNM":
        return _SPACE
    alone = any(low <= code <= high for low, high in _UNSPACED)
    return ord(_look_alikes().get(character, character)) | (_UNSPACED_FLAG if alone else 0)


@cache
def _look_alikes() -> dict[str, str]:
    """Return for each folded letter the ASCII letter or digit that it looks like (UTS 39)."""
    from confusable_homoglyphs import confusables

    seen: dict[str, str] = {}
    for character, others in confusables.confusables_data.items():
        targets = [one["c"] for one in others if len(one["c"]) == 1 and one["c"].isascii()]
        if len(character) == 1 and not character.isascii() and targets and targets[0].isalnum():
            seen[character] = targets[0].lower()
    # What looks like a letter in upper case only still hides a word that is written in it.
    upper = {character.casefold(): target for character, target in seen.items()}
    return {**{c: t for c, t in upper.items() if len(c) == 1 and not c.isascii()}, **seen}
