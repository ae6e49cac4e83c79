"""Curation: every row is kept or accounted for, and what was typed stays beside what is used."""

import random
import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.curation import CURATED_SCHEMA, DROPPED_SCHEMA, Curated, canonical_text, curate
from pedigree.documents import RAW_SCHEMA
from pedigree.errors import PedigreeError
from pedigree.params import CurationParams

PARAMS = CurationParams(min_characters=3, max_characters=20)


def raw(*rows: tuple[str, str, str | None], source: str = "shop") -> pa.Table:
    """Return raw documents of (row key, text, label)."""
    records: list[dict[str, Any]] = [
        {"row_key": key, "source": source, "raw_text": text, "label": label}
        for key, text, label in rows
    ]
    return pa.Table.from_pylist(records, RAW_SCHEMA)


def kept_of(curated: Curated) -> list[tuple[str, str, str]]:
    columns = (curated.kept.column(name).to_pylist() for name in ("row_key", "text", "label"))
    return list(zip(*columns, strict=True))


def test_every_reason_drops_its_row_and_nothing_else() -> None:
    curated = curate(
        raw(
            ("k1", "a fine film", "pos"),
            ("k2", "unlabelled", None),
            ("k3", "ab", "pos"),
            ("k4", "abc", "pos"),
            ("k5", "x" * 20, "pos"),
            ("k6", "x" * 21, "pos"),
            ("k7", "a  fine\tfilm ", "pos"),
            ("k8", "   ", "neg"),
        ),
        PARAMS,
    )
    assert kept_of(curated) == [
        ("k1", "a fine film", "pos"),
        ("k4", "abc", "pos"),
        ("k5", "x" * 20, "pos"),
    ]
    dropped = curated.dropped
    assert dropped.schema.equals(DROPPED_SCHEMA)
    assert {
        row["row_key"]: (row["reason"], row["duplicate_of"]) for row in dropped.to_pylist()
    } == {
        "k2": ("no_label", None),
        "k3": ("too_short", None),
        "k6": ("too_long", None),
        "k7": ("exact_duplicate", "k1"),
        "k8": ("too_short", None),
    }


def test_the_first_reason_that_holds_is_the_one_recorded() -> None:
    curated = curate(raw(("a", "good text", "pos"), ("b", "x", None)), PARAMS)
    assert curated.dropped.column("reason").to_pylist() == ["no_label"]


texts = st.text(st.sampled_from("ab é\u0301\n😀"), max_size=8)


@given(st.lists(st.tuples(texts, st.sampled_from(["pos", "neg", None])), max_size=30))
def test_what_was_kept_and_dropped_is_what_was_read(rows: list[tuple[str, str | None]]) -> None:
    table = raw(("zz", "always kept", "pos"), *((f"k{i:02}", *r) for i, r in enumerate(rows)))
    curated = curate(table, PARAMS)
    keys = [*curated.kept.column("row_key").to_pylist(), *curated.dropped.column(0).to_pylist()]
    assert sorted(keys) == sorted(table.column("row_key").to_pylist())
    pairs = [(text, label) for _, text, label in kept_of(curated)]
    assert len(set(pairs)) == len(pairs)
    assert all(label is not None and 3 <= len(text) <= 20 for text, label in pairs)


def test_the_raw_text_and_every_other_field_stay_as_they_were() -> None:
    text = "zero\u200bwidth \n and\u00a0more  "
    table = pa.Table.from_pylist(
        [
            {
                "row_key": "k",
                "source": "shop",
                "source_key": "7",
                "raw_text": text,
                "label": "pos",
                "annotator": "ann",
                "ratings": [1, -2],
                "label_batch": "b",
                "guideline_version": "2",
            }
        ],
        RAW_SCHEMA,
    )
    kept = curate(table, CurationParams()).kept
    assert kept.schema.equals(CURATED_SCHEMA)
    (row,) = kept.to_pylist()
    assert row.pop("text") == "zero\u200bwidth and more"
    assert [row] == table.to_pylist()


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("cafe\u0301", "café"),
        ("A\u030angstro\u0308m \u212b", "Ångström Å"),
        ("\u1112\u1161\u11ab", "한"),
        (" a \t\n b\u3000c\u00a0 ", "a b c"),
        ("\ufb01 ² \uff21", "\ufb01 ² \uff21"),
        ("", ""),
    ],
)
def test_canonical_text_is_nfc_with_single_spaces(typed: str, canonical: str) -> None:
    assert canonical_text(typed) == canonical


@given(st.text())
def test_canonical_text_is_its_own_canonical_text_and_nfc(typed: str) -> None:
    text = canonical_text(typed)
    assert canonical_text(text) == text
    assert unicodedata.is_normalized("NFC", text)
    assert "".join(text.split()) == "".join(unicodedata.normalize("NFC", typed).split())


def test_exact_duplicates_collapse_to_the_smallest_row_key_in_any_order() -> None:
    rows = [(f"k{i}", "cafe\u0301 time" if i % 2 else "café  time", "pos") for i in range(6)]
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        curated = curate(raw(*rows), PARAMS)
        assert kept_of(curated) == [("k0", "café time", "pos")]
        assert set(curated.dropped.column("duplicate_of").to_pylist()) == {"k0"}


def test_a_copy_with_another_label_stays_to_be_judged() -> None:
    curated = curate(
        raw(("k1", "same text", "pos"), ("k2", "same text", "neg"), ("k3", "same  text", "neg")),
        PARAMS,
    )
    assert kept_of(curated) == [("k1", "same text", "pos"), ("k2", "same text", "neg")]
    assert curated.dropped.column("duplicate_of").to_pylist() == ["k2"]


def test_copies_in_another_source_are_duplicates_too() -> None:
    both = pa.concat_tables(
        [raw(("b", "same text", "pos"), source="shop"), raw(("a", "same text", "pos"), source="x")]
    )
    curated = curate(both, PARAMS)
    assert curated.kept.column("source").to_pylist() == ["x"]
    assert curated.dropped.column("source").to_pylist() == ["shop"]


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [(f"k{i:02}", f"text {i % 9}", "pos" if i % 4 else None) for i in range(40)]
    first = curate(raw(*rows), PARAMS)
    random.Random(3).shuffle(rows)
    again = curate(raw(*rows), PARAMS)
    assert again.kept.equals(first.kept)
    assert again.dropped.equals(first.dropped)


def test_nothing_left_is_an_error_that_counts_the_reasons() -> None:
    with pytest.raises(PedigreeError, match=r"none of 3 rows \(2 no_label, 1 too_short\)"):
        curate(raw(("a", "some text", None), ("b", "more text", None), ("c", "x", "pos")), PARAMS)
    with pytest.raises(PedigreeError, match="none of 0 rows"):
        curate(raw(), PARAMS)


def test_the_funnel_and_the_sources_count_every_row() -> None:
    table = pa.concat_tables(
        [
            raw(("a", "good text", "pos"), ("b", "good text", "pos"), ("c", "x", "pos")),
            raw(("d", "fine text", "neg"), ("e", "y" * 30, "neg"), ("f", "z", None), source="web"),
            raw(("g", "?", None), source="bin"),
        ]
    )
    curated = curate(table, PARAMS)
    assert curated.funnel() == [
        ("read", 7),
        ("after no_label", 5),
        ("after too_short", 4),
        ("after too_long", 3),
        ("after exact_duplicate", 2),
    ]
    assert [(one["source"], one["read"], one["kept"]) for one in curated.by_source()] == [
        ("bin", 1, 0),
        ("shop", 3, 1),
        ("web", 3, 1),
    ]
    for record in curated.by_source():
        counts = [v for name, v in record.items() if name not in ("source", "read")]
        assert sum(int(count) for count in counts) == record["read"]
