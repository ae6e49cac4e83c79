"""Files become rows, or an error that says where: CSV, TSV, JSONL and Parquet as they come."""

import csv
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.digests import digest_file
from pedigree.documents import RAW_SCHEMA, read_documents
from pedigree.errors import PedigreeError
from pedigree.fetching import Fetched
from pedigree.settings import parse_settings
from pedigree.sources import Source

Read = Callable[..., pa.Table]

KEYED = {"key": "id", "text": "text", "label": "label"}
UNKEYED = {"text": "text", "label": "label"}
SCORES = {"from_score": {"negative": {"max": -0.5}, "positive": {"min": 0.5}}}


def make_source(**changes: Any) -> Source:
    settings = {
        "id": "shop",
        "uri": "x",
        "format": {"type": "csv"},
        "columns": KEYED,
        "labels": {"values": {"pos": "positive", "neg": "negative", "": "none"}},
        "licence": "CC0-1.0",
        "owner": "tests",
        "collector": "tests",
        "kind": "curated",
        "zone": "training",
        "label_batch": "batch-1",
        "guideline_version": "2",
        **changes,
    }
    values = {name: value for name, value in settings.items() if value is not None}
    return parse_settings(Source, values, "shop.yaml")


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that reads bytes, or several files of bytes, as a source's documents."""

    def read_bytes(data: bytes | dict[str, bytes], **changes: Any) -> pa.Table:
        files = data if isinstance(data, dict) else {"rows.dat": data}
        entries = []
        for name, content in files.items():
            path = tmp_path / name
            path.write_bytes(content)
            entries.append((digest_file(path), path))
        return read_documents(
            make_source(**changes), Fetched(tuple(entries), "0" * 64, "x", "", "")
        )

    return read_bytes


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def jsonl(*records: object) -> bytes:
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()


def csv_of(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("id", "text", "label")) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue().encode()


def rows_of(table: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    columns = (table.column(name).to_pylist() for name in names)
    return sorted(zip(*columns, strict=True), key=repr)


def row_key(*fields: str | int) -> str:
    """The row key by its definition: sha256 of a prefix and the fields as RFC 8785."""
    text = json.dumps(list(fields), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(b"pedigree/row-key/v1\n" + text.encode()).hexdigest()


TRICKY = [
    ("007", 'a "quoted", text', "pos"),
    ("2", "two\nlines and a tab\t", "neg"),
    ("3", "naïve café 😀 \u2028", "pos"),
    ("4", "NA", "neg"),
    ("5", "null", "pos"),
    ("6", "", "neg"),
    ("1e3", "  spaces  ", "pos"),
]


def test_every_format_gives_the_same_rows(read: Read) -> None:
    keys, texts, labels = (list(column) for column in zip(*TRICKY, strict=True))
    records = [dict(zip(("id", "text", "label"), row, strict=True)) for row in TRICKY]
    tables = {
        "csv": read(csv_of(TRICKY)),
        "jsonl": read(jsonl(*records), format={"type": "jsonl"}),
        "parquet": read(
            parquet(pa.table({"id": keys, "text": texts, "label": labels})),
            format={"type": "parquet"},
        ),
    }
    names = {"pos": "positive", "neg": "negative"}
    expected = sorted(((k, t, names[la]) for k, t, la in TRICKY), key=repr)
    for table in tables.values():
        assert table.schema.equals(RAW_SCHEMA)
        assert rows_of(table, "source_key", "raw_text", "label") == expected
        assert table.equals(tables["csv"])


def test_a_row_says_where_it_comes_from_and_who_labelled_it(read: Read) -> None:
    table = read(
        csv_of([("1", "good", "pos", "ann")], ("id", "text", "label", "who")),
        columns={**KEYED, "annotator": "who"},
    )
    assert table.to_pylist() == [
        {
            "row_key": row_key("shop", "key", "1"),
            "source": "shop",
            "source_key": "1",
            "collected_at": None,
            "raw_text": "good",
            "label": "positive",
            "annotator": "ann",
            "ratings": None,
            "label_batch": "batch-1",
            "guideline_version": "2",
        }
    ]


def test_a_source_without_labels_gives_rows_without_labels(read: Read) -> None:
    table = read(csv_of(TRICKY), columns={"text": "text"}, labels=None)
    assert table.column("label").null_count == len(TRICKY)
    assert table.column("source_key").null_count == len(TRICKY)


def test_a_tsv_without_header_and_quoting_keeps_its_quotes(read: Read) -> None:
    table = read(
        b'1\tan "odd quote\tpos\n2\t"whole"\tneg\n',
        format={"type": "tsv", "columns": ["id", "text", "label"], "quoting": False},
    )
    assert rows_of(table, "source_key", "raw_text", "label") == [
        ("1", 'an "odd quote', "positive"),
        ("2", '"whole"', "negative"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfid,text,label\n007,x,pos\n",
        b"id,text,label\r\n007,x,pos\r\n",
        b'"id","text","label"\n"007","x","pos"',
        b"more,label,id,text\nm,pos,007,x\n",
        b"id,text,label\n\n007,x,pos\n\n",
    ],
)
def test_a_csv_may_have_a_mark_windows_line_ends_quotes_and_other_columns(
    read: Read, data: bytes
) -> None:
    assert rows_of(read(data), "source_key", "raw_text") == [("007", "x")]


def test_types_of_parquet_are_read_as_text(read: Read) -> None:
    table = pa.table(
        {
            "id": pa.array([7, 8], pa.int64()),
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "label": pa.array(["pos", "neg"], pa.large_string()),
        }
    )
    found = read(parquet(table), format={"type": "parquet"})
    assert rows_of(found, "source_key", "raw_text", "label") == [
        ("7", "a", "positive"),
        ("8", "b", "negative"),
    ]


def test_a_score_gives_the_label_whose_range_it_lies_in(read: Read) -> None:
    scores = ["-4", "-0.5", "-0.49", "0", "0.49", "0.5", "3.9", "inf"]
    data = csv_of([(str(i), f"t{i}", score) for i, score in enumerate(scores)])
    table = read(data, labels=SCORES)
    assert [label for _, label in rows_of(table, "source_key", "label")] == [
        "negative", "negative", None, None, None, "positive", "positive", "positive",
    ]  # fmt: skip


@pytest.mark.parametrize("score", ["nan", "", "good", "1,5"])
def test_a_score_that_is_no_number_is_refused(read: Read, score: str) -> None:
    with pytest.raises(PedigreeError, match="expected a number"):
        read(csv_of([("1", "a", "1"), ("2", "b", score)]), labels=SCORES)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"", "csv"), (b"", "tsv"), (b"", "jsonl"), (b"", "parquet"),
     (b"id,text,label\n", "csv"), (b"id,text,label", "csv"), (b"\n\n", "jsonl"), (b"\n", "csv")],
)  # fmt: skip
def test_a_file_without_rows_is_refused_and_no_empty_table(
    read: Read, data: bytes, kind: str
) -> None:
    with pytest.raises(PedigreeError, match=r"shop \(rows\.dat\)"):
        read(data, format={"type": kind})


def test_a_parquet_file_without_rows_is_refused(read: Read) -> None:
    with pytest.raises(PedigreeError, match="has no rows"):
        read(parquet(pa.table({"id": pa.array([], pa.string())})), format={"type": "parquet"})


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("missing", ["id", "text", "label"])
def test_a_missing_column_is_named_with_those_that_are_there(
    read: Read, kind: str, missing: str
) -> None:
    names = {"id": "a", "text": "b", "label": "pos"}
    names["other"] = names.pop(missing)
    data = {
        "csv": csv_of([tuple(names.values())], tuple(names)),
        "jsonl": jsonl(names),
        "parquet": parquet(pa.table({name: [value] for name, value in names.items()})),
    }[kind]
    with pytest.raises(PedigreeError, match=f"no column '{missing}'") as error:
        read(data, format={"type": kind})
    assert ", ".join(names) in str(error.value)


def test_two_columns_of_one_name_are_refused(read: Read) -> None:
    with pytest.raises(PedigreeError, match="two columns named text"):
        read(b"id,text,text,label\n1,a,b,pos\n")
    table = pa.Table.from_arrays(
        [pa.array(["1"]), pa.array(["a"]), pa.array(["b"])], names=["id", "text", "text"]
    )
    with pytest.raises(PedigreeError):
        read(parquet(table), format={"type": "parquet"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id,text,label\n1,a\n", "has 2 fields in line 2: expected 3"),
        (b"\xef\xbb\xbfid,text,label\n1,a\n", "has 2 fields in line 2: expected 3"),
        (b"id,text,label\n1,a,pos\n\n2,a,pos,more\n", "has 4 fields in line 4: expected 3"),
        (b'id,text,label\n1,"a\nb",pos\n2\n', "has 1 fields in line 4: expected 3"),
        (
            b'id,text,label\n1,"a,pos\n2,b,neg\n',
            "has 2 fields in lines 2 to 3, one row by its quotes",
        ),
    ],
)
def test_a_line_with_too_few_or_too_many_fields_is_refused(
    read: Read, data: bytes, words: str
) -> None:
    with pytest.raises(PedigreeError) as error:
        read(data)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("role", "value"), [("text", {"a": 1}), ("text", ["a"]), ("label", ["pos"]), ("id", {})]
)
def test_a_list_or_an_object_in_json_is_no_text(read: Read, role: str, value: object) -> None:
    good = {"id": "1", "text": "fine", "label": "pos", "more": [1, {"a": 2}]}
    assert read(jsonl(good), format={"type": "jsonl"}).num_rows == 1
    bad = {**good, "id": "2", role: value}
    name = "key" if role == "id" else role
    with pytest.raises(PedigreeError, match=f"list or an object as {name} in .*, line 2: expected"):
        read(jsonl(good, bad), format={"type": "jsonl"})


def test_an_undeclared_label_is_refused_with_the_declared_ones(read: Read) -> None:
    with pytest.raises(PedigreeError, match="label 'positve' in row 1: expected pos, neg"):
        read(csv_of([("1", "a", "pos"), ("2", "b", "positve")]))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_bytes_that_are_no_utf8_are_refused_with_their_line(read: Read, kind: str) -> None:
    lines = {
        "csv": b"id,text,label\n1,a,pos\n2,caf\xe9,neg\n",
        "tsv": b"id\ttext\tlabel\n1\ta\tpos\n2\tcaf\xe9\tneg\n",
        "jsonl": b'{"id": "1"}\n{}\n{"text": "caf\xe9"}',
    }
    with pytest.raises(PedigreeError, match="not valid UTF-8: byte 0xe9 in line 3"):
        read(lines[kind], format={"type": kind})


@pytest.mark.parametrize("bad", [b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xff"])
def test_surrogates_overlong_forms_and_more_are_no_utf8(read: Read, bad: bytes) -> None:
    with pytest.raises(PedigreeError, match="not valid UTF-8"):
        read(b"id,text,label\n1," + bad + b",pos\n")


def test_half_a_surrogate_pair_in_json_is_refused_with_its_line(read: Read) -> None:
    good = b'{"id": "1", "text": "\\ud83d\\ude00", "label": "pos"}\n'
    assert rows_of(read(good, format={"type": "jsonl"}), "raw_text") == [("😀",)]
    for half in (b"\\ud83d", b"\\ude00", b"\\ude00\\ud83d"):
        bad = b'{"id": "2", "text": "' + half + b'", "label": "pos"}'
        with pytest.raises(PedigreeError, match="line 2 holds half of a surrogate pair"):
            read(good + bad, format={"type": "jsonl"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not valid JSON"),
        (b"[1]", "line 2 is no JSON object"),
        (b'"text"', "line 2 is no JSON object"),
        (b"null", "line 2 is no JSON object"),
        (b'{"id": 1} {"id": 2}', "line 2 is not valid JSON"),
    ],
)
def test_a_line_that_is_no_json_object_is_refused_by_number(
    read: Read, line: bytes, message: str
) -> None:
    with pytest.raises(PedigreeError, match=message):
        read(jsonl({"id": "1", "text": "a", "label": "pos"}) + b"\n" + line,
             format={"type": "jsonl"})  # fmt: skip


@pytest.mark.parametrize("keys", [("1", "2", "1"), ("", "x", "")])
def test_a_key_that_two_rows_have_is_refused(read: Read, keys: tuple[str, ...]) -> None:
    with pytest.raises(PedigreeError, match=f"2 rows with the key '{keys[0]}'"):
        read(csv_of([(key, f"t{i}", "pos") for i, key in enumerate(keys)]))


def test_a_key_that_a_row_lacks_is_refused(read: Read) -> None:
    rows = jsonl({"id": "1", "text": "a", "label": "pos"}, {"text": "b", "label": "pos"})
    with pytest.raises(PedigreeError, match="1 rows with the key None"):
        read(rows, format={"type": "jsonl"})


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_without_text_is_refused_with_its_position(read: Read, kind: str) -> None:
    data = {
        "jsonl": jsonl({"text": "a", "label": "pos"}, {"text": None, "label": "neg"}),
        "parquet": parquet(pa.table({"text": ["a", None], "label": ["pos", "neg"]})),
    }
    with pytest.raises(PedigreeError, match="no text in row 1"):
        read(data[kind], format={"type": kind}, columns=UNKEYED)


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.struct([("a", pa.string())])])
def test_a_parquet_column_of_lists_or_records_is_no_text(read: Read, kind: pa.DataType) -> None:
    value = ["a"] if pa.types.is_list(kind) else {"a": "b"}
    table = pa.table({"text": pa.array([value], kind), "label": ["pos"]})
    with pytest.raises(PedigreeError, match="which is no text"):
        read(parquet(table), format={"type": "parquet"}, columns=UNKEYED)


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1 hello PAR1", b"id,text,label\n1,a,pos\n"])
def test_what_is_no_parquet_is_refused_with_a_sentence(read: Read, data: bytes) -> None:
    with pytest.raises(PedigreeError, match="cannot be read as Parquet") as error:
        read(data, format={"type": "parquet"})
    assert ".partial" not in str(error.value)
    assert ".." not in str(error.value)


def test_rows_of_several_files_are_read_together(read: Read) -> None:
    one, two = csv_of([("1", "a", "pos")]), csv_of([("2", "b", "neg")])
    table = read({"a.csv": one, "b.csv": two})
    assert rows_of(table, "source_key") == [("1",), ("2",)]
    with pytest.raises(PedigreeError, match="2 rows with the key '1'"):
        read({"a.csv": one, "b.csv": one})
    with pytest.raises(PedigreeError, match=r"shop \(b\.csv\) is empty"):
        read({"a.csv": one, "b.csv": b""})


def test_a_row_is_known_by_its_source_and_key(read: Read) -> None:
    rows = csv_of([("1", "a", "pos")])
    (mine,) = read(rows).column("row_key").to_pylist()
    (other,) = read(rows, id="forum").column("row_key").to_pylist()
    assert mine == row_key("shop", "key", "1")
    assert other == row_key("forum", "key", "1")


def test_a_row_without_key_is_known_by_its_text_and_occurrence(read: Read) -> None:
    rows = csv_of([("", "a", "pos"), ("", "é 😀", "pos"), ("", "a", "pos")])
    keys = read(rows, columns=UNKEYED).column("row_key").to_pylist()
    expected = [("a", 0), ("a", 1), ("é 😀", 0)]
    assert keys == sorted(row_key("shop", "text", *one) for one in expected)


@pytest.mark.parametrize("columns", [KEYED, UNKEYED, {**UNKEYED, "annotator": "who"}])
def test_the_order_of_lines_changes_nothing(read: Read, columns: dict[str, str]) -> None:
    rows = [(str(i), f"text {i % 7}", "pos" if i % 3 else "neg", f"ann{i % 5}") for i in range(60)]
    header = ("id", "text", "label", "who")
    first = read(csv_of(rows, header), columns=columns)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert read(csv_of(rows, header), columns=columns).equals(first)


def test_equal_texts_with_different_labels_keep_their_keys_in_any_order(read: Read) -> None:
    rows = [("1", "same", "pos"), ("2", "same", "neg"), ("3", "same", "pos"), ("4", "o", "neg")]
    first = rows_of(read(csv_of(rows), columns=UNKEYED), "row_key", "raw_text", "label")
    again = rows_of(read(csv_of(rows[::-1]), columns=UNKEYED), "row_key", "raw_text", "label")
    assert first == again
    assert len({key for key, *_ in first}) == 4


@pytest.mark.parametrize("columns", [KEYED, UNKEYED])
def test_a_relabelled_row_keeps_its_key(read: Read, columns: dict[str, str]) -> None:
    rows = [(str(i), f"text {i}", "pos") for i in range(10)]
    changed = [*rows[:4], ("4", "text 4", "neg"), *rows[5:]]
    before, after = (
        dict(rows_of(read(csv_of(one), columns=columns), "row_key", "label"))
        for one in (rows, changed)
    )
    assert before.keys() == after.keys()
    assert [(before[k], after[k]) for k in before if before[k] != after[k]] == [
        ("positive", "negative")
    ]


def _archive(documents: bytes, ratings: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in (("rows.csv", documents), ("ratings.tsv", ratings)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


RATED: dict[str, Any] = {
    "member": "rows.csv",
    "ratings": {
        "member": "ratings.tsv",
        "format": {"type": "tsv", "columns": ["key", "given"]},
        "key": "key",
        "values": "given",
    },
}


def test_ratings_are_joined_by_key_from_a_second_member(read: Read) -> None:
    rows = csv_of([("1", "a", "pos"), ("2", "b", "neg")])
    table = read(_archive(rows, b"2\t[-1, -3]\n3\t[0]\n1\t[2, 0, 4]\n"), **RATED)
    assert rows_of(table, "source_key", "ratings") == [("1", [2, 0, 4]), ("2", [-1, -3])]


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (b"1\t[1]\n", "no ratings for 1 rows, the first with key '2'"),
        (b"1\t[1]\n2\tgood\n", "expected a list of whole numbers"),
        (b'1\t[1]\n2\t["x"]\n', "expected a list of whole numbers"),
        (b"1\t[1]\n2\t5\n", "expected a list of whole numbers"),
        (b"1\t[1]\n2\t[null]\n", "expected a list of whole numbers"),
    ],
)
def test_ratings_that_are_missing_or_no_numbers_are_refused(
    read: Read, ratings: bytes, message: str
) -> None:
    rows = csv_of([("1", "a", "pos"), ("2", "b", "neg")])
    with pytest.raises(PedigreeError, match=message):
        read(_archive(rows, ratings), **RATED)


@pytest.mark.parametrize("bad", ["[1.9]", '"123"', '{"1": 2}', "[true]"])
def test_ratings_are_whole_numbers_and_nothing_that_can_be_made_one(read: Read, bad: str) -> None:
    ratings = csv_of([("1", bad)], ("key", "given")).replace(b",", b"\t")
    rated = {**RATED, "ratings": {**RATED["ratings"], "format": {"type": "tsv"}}}
    with pytest.raises(PedigreeError, match="whole numbers"):
        read(_archive(csv_of([("1", "a", "pos")]), ratings), **rated)


def test_a_blank_first_line_is_refused_or_skipped_but_changes_no_value(read: Read) -> None:
    try:
        table = read(b"\nid,text,label\n007,x,pos\n")
    except PedigreeError:
        return
    assert rows_of(table, "source_key") == [("007",)]


def test_a_csv_with_carriage_returns_alone_ends_in_no_traceback(read: Read) -> None:
    try:
        table = read(b"id,text,label\r007,x,pos\r")
    except PedigreeError:
        return
    assert rows_of(table, "source_key") == [("007",)]


def test_deeply_nested_json_is_refused_with_a_sentence(read: Read) -> None:
    line = b'{"text": "a", "label": "pos", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(PedigreeError, match="line 1"):
        read(line, format={"type": "jsonl"}, columns=UNKEYED)


def test_parquet_text_that_is_no_utf8_is_refused_with_a_sentence(read: Read) -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    with pytest.raises(PedigreeError, match="UTF-8"):
        read(
            parquet(pa.table({"text": text, "label": ["pos"]})),
            format={"type": "parquet"},
            columns=UNKEYED,
        )


def test_an_error_in_a_row_names_the_file_and_the_line(read: Read) -> None:
    good, bad = csv_of([("1", "a", "pos")]), csv_of([("2", "b", "pos"), ("3", "c", "oops")])
    with pytest.raises(PedigreeError, match=r"b\.csv.*line 3"):
        read({"a.csv": good, "b.csv": bad})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-31T12:00:00+01:00", "2026-01-31T11:00:00.000000+00:00"),
        ("2026-01-31 12:00:00.5Z", "2026-01-31T12:00:00.500000+00:00"),
        ("1769860800", "2026-01-31T12:00:00.000000+00:00"),
        ("", None),
    ],
)
def test_times_of_collection_are_in_utc(read: Read, given: str, expected: str | None) -> None:
    table = read(
        csv_of([("1", "good", "pos", given)], ("id", "text", "label", "at")),
        columns={**KEYED, "collected_at": "at"},
    )
    assert table.column("collected_at").to_pylist() == [expected]


@pytest.mark.parametrize("given", ["2026-01-31T12:00:00", "yesterday", "5", "1e400", "9" * 30])
def test_a_time_that_is_none_is_refused_with_its_row(read: Read, given: str) -> None:
    rows = [("1", "good", "pos", "1769860800"), ("2", "bad", "neg", given)]
    with pytest.raises(PedigreeError, match=r"has the time .* in row 1"):
        read(csv_of(rows, ("id", "text", "label", "at")), columns={**KEYED, "collected_at": "at"})
