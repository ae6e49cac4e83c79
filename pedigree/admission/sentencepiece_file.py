"""SentencePiece models: the fields of the format and no others; and their table of characters.

The table (`precompiled_charsmap`) is also found in base64 within a `tokenizer.json`. It is a trie
of so many bytes, then the texts that characters become, each ended by a zero byte.
"""

import base64
import binascii
import struct

from pedigree.admission.blobs import Blob
from pedigree.admission.protobuf import BYTES, read_fields
from pedigree.admission.verdict import Report, Unreadable

# Field numbers of sentencepiece_model.proto: pieces, training, normaliser, tests, denormaliser.
_FIELDS = frozenset({1, 2, 3, 4, 5})
_NORMALISERS = frozenset({3, 5})
_CHARSMAP = 2
_LONGEST = 8 << 20  # bytes; that of Unicode's own NFKC has some 300,000


def judge_sentencepiece(blob: Blob, where: str, report: Report) -> None:
    """Judge a SentencePiece model; its vocabulary may hold any word."""
    try:
        for item in read_fields(blob):
            if item.number not in _FIELDS or item.wire != BYTES:
                raise Unreadable(f"its field {item.number} is none of the format's")
            if item.number in _NORMALISERS:
                _judge_normaliser(item.blob(blob))
    except Unreadable as error:
        report.reject(where, "sentencepiece", f"it is no plain SentencePiece model: {error}.")


def _judge_normaliser(blob: Blob) -> None:
    for item in read_fields(blob):
        if item.number == _CHARSMAP and item.wire == BYTES and item.size:
            require_charsmap(item.blob(blob).read(0, _LONGEST + 1))


def judge_charsmap(text: str, where: str, report: Report) -> None:
    """Judge a table of characters in base64."""
    try:
        require_charsmap(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, Unreadable) as error:
        report.reject(where, "charsmap", f"its precompiled_charsmap is broken: {error}.")


def require_charsmap(data: bytes) -> None:
    """Require a table of characters whose parts have the sizes that it claims.

    Raises:
        Unreadable: they do not: readers in C would read beyond its end.
    """
    if not 4 <= len(data) <= _LONGEST:
        raise Unreadable(f"a table of {len(data)} bytes (4 to {_LONGEST})")
    (trie,) = struct.unpack_from("<I", data)
    if trie % 4 or 4 + trie > len(data):
        raise Unreadable(f"a trie of {trie} bytes in a table of {len(data)}")
    texts = data[4 + trie :]
    if texts and texts[-1]:
        raise Unreadable("its texts do not end with a zero byte")
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable("its texts are no UTF-8") from None
