"""Snapshots: named by what they say, the same bytes each time, and refused when they changed."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.snapshots import (
    MANIFEST,
    Snapshot,
    _row_id,  # pyright: ignore[reportPrivateUsage]
    add_row_ids,
    freeze_snapshot,
    list_snapshots,
    open_snapshot,
)
from tests.conftest import REPOSITORY

SCHEMA = pa.schema(
    [
        pa.field("row_key", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("ratings", pa.list_(pa.field("element", pa.int64()))),
        pa.field("year", pa.int32()),
    ]
)
Row = dict[str, Any]


def make_rows(count: int = 50) -> list[Row]:
    return [
        {
            "row_key": f"k{i:03}",
            "text": f"text {i} naïve 😀\u2028\t",
            "label": ["pos", "neg", None][i % 3],
            "ratings": [None, [], [i, -i]][i % 3],
            "year": 2000 + i if i % 5 else None,
        }
        for i in range(count)
    ]


def table_of(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def files_of(snapshot: Snapshot) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(snapshot.path.iterdir())}


def freeze(rows: list[Row], root: Path, zone: str = "training") -> Snapshot:
    return freeze_snapshot(table_of(rows), root, zone)


def reference_row_id(row: Row) -> bytes:
    """The row id as documented, by the reference serialiser of RFC 8785."""
    said = {k: v for k, v in row.items() if k != "collected_at" or v is not None}
    return hashlib.sha256(b"pedigree/row/v1\n" + rfc8785.dumps(said)).digest()


def merkle(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + merkle(leaves[:k]) + merkle(leaves[k:])).digest()


hard_text = st.text() | st.text(
    st.sampled_from('"\\/\x00\x01\x08\t\n\x0b\x0c\r\x1f\x7f\x80\u2028\u2029\ufeff\uffff😀é<>&')
)
values = st.none() | hard_text | st.integers(1 - 2**53, 2**53 - 1)
values |= st.lists(st.none() | st.integers(1 - 2**53, 2**53 - 1) | hard_text, max_size=4)
names = st.text(st.sampled_from("abcxyz_09"), min_size=1, max_size=6)


@given(st.dictionaries(names, values, max_size=6))
def test_a_row_id_is_over_the_rfc_8785_form(row: Row) -> None:
    in_order = {name: row[name] for name in sorted(row)}
    assert _row_id(in_order) == reference_row_id(row).hex()


def test_row_ids_are_those_of_the_reference_serialiser_and_sort_the_table() -> None:
    rows = make_rows()
    table = add_row_ids(table_of(rows))
    expected = {reference_row_id(row).hex(): row["row_key"] for row in rows}
    ids = table.column("row_id").to_pylist()
    assert table.column_names[0] == "row_id"
    assert ids == sorted(expected)
    assert [expected[value] for value in ids] == table.column("row_key").to_pylist()


def test_a_row_id_that_is_there_already_is_computed_again() -> None:
    table = add_row_ids(table_of(make_rows()))
    forged = table.set_column(0, table.field(0), pa.array(["0" * 64] * table.num_rows))
    assert add_row_ids(forged).equals(table)


def test_two_rows_that_are_equal_in_all_are_refused() -> None:
    rows = make_rows(5)
    with pytest.raises(PedigreeError, match="equal in every column"):
        add_row_ids(table_of([*rows, rows[2]]))


def test_the_digest_and_the_manifest_are_as_documented(tmp_path: Path) -> None:
    rows = make_rows()
    snapshot = freeze(rows, tmp_path)
    root = merkle(sorted(reference_row_id(row) for row in rows)).hex()
    header = {
        "format": "pedigree/snapshot/v1",
        "zone": "training",
        "schema": [
            ["row_id", "string"], ["row_key", "string"], ["text", "string"], ["label", "string"],
            ["ratings", "list<int64>"], ["year", "int32"],
        ],
        "rows": 50,
        "merkle_root": root,
    }  # fmt: skip
    expected = hashlib.sha256(rfc8785.dumps(header)).hexdigest()
    assert snapshot.digest == f"sha256:{expected}"
    assert snapshot.path == tmp_path / expected
    manifest = json.loads((snapshot.path / MANIFEST).read_bytes())
    assert (manifest["merkle_root"], manifest["rows"], manifest["zone"]) == (root, 50, "training")
    part = (snapshot.path / "part-00000.parquet").read_bytes()
    assert manifest["files"] == [
        {
            "path": "part-00000.parquet",
            "size": len(part),
            "sha256": hashlib.sha256(part).hexdigest(),
        }
    ]
    by_hand = rfc8785.dumps(manifest["files"])
    assert snapshot.manifest_digest == "sha256:" + hashlib.sha256(by_hand).hexdigest()


def test_what_is_read_back_is_what_was_frozen(tmp_path: Path) -> None:
    rows = make_rows()
    snapshot = freeze(rows, tmp_path)
    for one in (snapshot, open_snapshot(snapshot.digest, tmp_path)):
        table = one.read()
        assert sorted(table.drop_columns(["row_id"]).to_pylist(), key=str) == sorted(rows, key=str)
        assert one.rows == 50
    assert list(list_snapshots(tmp_path)) == [snapshot.digest]


def test_the_same_rows_in_any_order_and_chunks_give_the_same_bytes(tmp_path: Path) -> None:
    rows = make_rows()
    first = freeze(rows, tmp_path / "first")
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        chunks = [table_of(rows[:7]), table_of(rows[7:8]), table_of(rows[8:])]
        table = pa.concat_tables(chunks).replace_schema_metadata({"written": str(seed)})
        again = freeze_snapshot(table, tmp_path / str(seed), "training")
        assert again.digest == first.digest
        assert files_of(again) == files_of(first)


@pytest.mark.parametrize(
    "change",
    [{"text": "text 9 naive 😀\u2028\t"}, {"label": "neg"}, {"label": ""}, {"ratings": []},
     {"ratings": [9, 9]}, {"year": 2010}, {"row_key": "K009"}],
)  # fmt: skip
def test_one_changed_value_gives_another_digest(tmp_path: Path, change: Row) -> None:
    rows = make_rows()
    assert freeze([*rows[:9], {**rows[9], **change}, *rows[10:]], tmp_path).digest != (
        freeze(rows, tmp_path).digest
    )


def test_a_row_less_another_zone_and_another_column_give_other_digests(tmp_path: Path) -> None:
    rows = make_rows()
    tables = [
        table_of(rows),
        table_of(rows[1:]),
        table_of(rows).drop_columns(["year"]),
        table_of(rows).rename_columns(["row_key", "text", "label", "ratings", "age"]),
        table_of(rows).set_column(4, "year", table_of(rows).column("year").cast(pa.int64())),
    ]
    digests = [freeze_snapshot(table, tmp_path, "training").digest for table in tables]
    digests.append(freeze(rows, tmp_path, "evaluation").digest)
    assert len(set(digests)) == 6
    for digest in digests:
        open_snapshot(digest, tmp_path)


def _change_byte(snapshot: Snapshot) -> None:
    path = snapshot.path / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _symlink(snapshot: Snapshot) -> None:
    path = snapshot.path / "part-00000.parquet"
    path.symlink_to(path.rename(snapshot.path.parent / "elsewhere.parquet"))


def _rewrite(snapshot: Snapshot, **changes: Any) -> None:
    path = snapshot.path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TAMPERING: dict[str, tuple[Callable[[Snapshot], object], str]] = {
    "a changed byte": (_change_byte, "part-00000.parquet changed"),
    "a missing part": (
        lambda s: (s.path / "part-00000.parquet").unlink(),
        "part-00000.parquet is missing",
    ),
    "no manifest": (lambda s: (s.path / MANIFEST).unlink(), "manifest.json is missing"),
    "an extra file": (
        lambda s: (s.path / "part-00001.parquet").write_bytes(b""),
        "part-00001.parquet is not in the manifest",
    ),
    "an extra file in a folder": (
        lambda s: ((s.path / "x").mkdir(), (s.path / "x" / "y").write_bytes(b"")),
        "x/y is not in the manifest",
    ),
    "a link": (_symlink, "link or a special file"),
    "a truncated file": (
        lambda s: (s.path / "part-00000.parquet").write_bytes(b"PAR1"),
        "part-00000.parquet changed",
    ),
    "an empty manifest": (lambda s: (s.path / MANIFEST).write_bytes(b""), "is not valid"),
    "a manifest that is a list": (lambda s: (s.path / MANIFEST).write_bytes(b"[]"), "not valid"),
    "a manifest with another key": (lambda s: _rewrite(s, more=1), "is not valid"),
    "a manifest of another": (
        lambda s: _rewrite(s, digest="sha256:" + "0" * 64),
        r"its manifest\.json names",
    ),
    "other rows in the manifest": (lambda s: _rewrite(s, zone="evaluation"), "does not hold"),
    "another schema": (lambda s: _rewrite(s, column_schema=[]), "does not hold the rows"),
    "no files in the manifest": (lambda s: _rewrite(s, files=[]), "not in the manifest"),
}


@pytest.mark.parametrize("name", sorted(TAMPERING))
def test_a_snapshot_that_was_tampered_with_is_refused(tmp_path: Path, name: str) -> None:
    tamper, message = TAMPERING[name]
    snapshot = freeze(make_rows(), tmp_path)
    tamper(snapshot)
    with pytest.raises(VerificationFailed, match=message):
        open_snapshot(snapshot.digest, tmp_path)


def _replace_rows(snapshot: Snapshot, table: pa.Table) -> None:
    """Write other rows and a manifest that fits their bytes."""
    path = snapshot.path / "part-00000.parquet"
    pq.write_table(table, path)
    data = path.read_bytes()
    entry = {"path": path.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _rewrite(snapshot, files=[entry], rows=table.num_rows)


def test_a_manifest_that_was_made_to_fit_changed_rows_helps_nobody(tmp_path: Path) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    table = snapshot.read()
    forged = table.set_column(
        table.schema.get_field_index("label"), SCHEMA.field("label"), pa.array(["pos"] * 50)
    )
    honest_ids = add_row_ids(forged)
    fewer = table.slice(1)
    reordered = table.take(list(range(49, -1, -1)))
    more = table.append_column("secret", pa.array(["x"] * 50))
    for other in (forged, honest_ids, fewer, reordered, more):
        _replace_rows(snapshot, other)
        with pytest.raises(VerificationFailed, match="does not hold the rows"):
            open_snapshot(snapshot.digest, tmp_path)
    _replace_rows(snapshot, table)
    assert open_snapshot(snapshot.digest, tmp_path).read().equals(table)


def test_bytes_that_are_no_parquet_are_refused_even_where_the_manifest_fits(
    tmp_path: Path,
) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    data = b"no parquet at all"
    (snapshot.path / "part-00000.parquet").write_bytes(data)
    entry = {
        "path": "part-00000.parquet",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    _rewrite(snapshot, files=[entry])
    with pytest.raises(VerificationFailed, match="cannot be read"):
        open_snapshot(snapshot.digest, tmp_path)


def test_a_manifest_cannot_name_a_file_outside_the_snapshot(tmp_path: Path) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    part = snapshot.path / "part-00000.parquet"
    outside = part.rename(tmp_path / "outside.parquet").read_bytes()
    entry = {
        "path": "../outside.parquet",
        "size": len(outside),
        "sha256": hashlib.sha256(outside).hexdigest(),
    }
    _rewrite(snapshot, files=[entry])
    with pytest.raises(VerificationFailed, match=r"\.\./outside\.parquet is missing"):
        open_snapshot(snapshot.digest, tmp_path)


def test_a_snapshot_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    one, two = freeze(make_rows(), tmp_path), freeze(make_rows(40), tmp_path)
    shutil.rmtree(two.path)
    one.path.rename(two.path)
    with pytest.raises(VerificationFailed, match=r"its manifest\.json names"):
        open_snapshot(two.digest, tmp_path)
    _rewrite(Snapshot(two.path, two.manifest), digest=two.digest)
    with pytest.raises(VerificationFailed, match="does not hold the rows"):
        open_snapshot(two.digest, tmp_path)


def test_an_extra_file_is_refused_whatever_its_name(tmp_path: Path) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    (snapshot.path / "manifest.json changed").write_bytes(b"x")
    with pytest.raises(VerificationFailed):
        open_snapshot(snapshot.digest, tmp_path)


def test_an_unknown_digest_is_missing_evidence_and_a_malformed_one_bad_input(
    tmp_path: Path,
) -> None:
    with pytest.raises(EvidenceMissing, match="dvc pull"):
        open_snapshot("sha256:" + "0" * 64, tmp_path)
    for bad in ("latest", "sha256:abc", "../" + "0" * 64, "SHA256:" + "0" * 64):
        with pytest.raises(PedigreeError, match="not a sha256 digest") as error:
            open_snapshot(bad, tmp_path)
        assert error.value.exit_code == 2


def test_a_digest_without_its_algorithm_opens_the_same_snapshot(tmp_path: Path) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    assert open_snapshot(snapshot.path.name, tmp_path).digest == snapshot.digest


def _with_column(table: pa.Table, column: pa.Array) -> pa.Table:
    return table.append_column("odd", column)


FORGERIES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "bytes": lambda table: _with_column(table, pa.array([b"x"] * table.num_rows)),
    "floats": lambda table: _with_column(table, pa.array([0.5] * table.num_rows)),
    "one row twice": lambda table: pa.concat_tables([table.slice(0, 1), table.slice(0, 49)]),
    "text that is no UTF-8": lambda table: _with_column(
        table,
        pa.Array.from_buffers(
            pa.string(),
            table.num_rows,
            [
                None,
                pa.array(range(table.num_rows + 1), pa.int32()).buffers()[1],
                pa.py_buffer(b"\xff" * table.num_rows),
            ],
        ),
    ),
}


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_rows_that_no_snapshot_can_hold_fail_verification_all_the_same(
    tmp_path: Path, name: str
) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    _replace_rows(snapshot, FORGERIES[name](snapshot.read()))
    with pytest.raises(VerificationFailed):
        open_snapshot(snapshot.digest, tmp_path)


@pytest.mark.parametrize("name", ["a changed byte", "no manifest", "an extra file"])
def test_a_damaged_snapshot_is_written_again_when_its_rows_are_frozen(
    tmp_path: Path, name: str
) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    before = files_of(snapshot)
    TAMPERING[name][0](snapshot)
    assert files_of(freeze(make_rows(), tmp_path)) == before


def test_an_intact_snapshot_is_not_written_again(tmp_path: Path) -> None:
    snapshot = freeze(make_rows(), tmp_path)
    part = snapshot.path / "part-00000.parquet"
    before = part.stat()
    freeze(make_rows(), tmp_path)
    after = part.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0.5] * 3),
        pa.array([True] * 3),
        pa.array([[0.5]] * 3),
        pytest.param(
            pa.array([b"x"] * 3),
        ),
        pa.array([None] * 3),
        pa.array([{"a": 1}] * 3),
        pa.array(["x"] * 3).dictionary_encode(),
        pa.array([[["x"]]] * 3),
    ],
    ids=["float", "bool", "floats", "bytes", "null", "struct", "dictionary", "nested"],
)
def test_a_column_without_one_canonical_form_is_refused(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"row_key": ["a", "b", "c"], "odd": column})
    with pytest.raises(PedigreeError, match="'odd' holds"):
        freeze_snapshot(table, tmp_path, "training")
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match="no rows"):
        freeze([], tmp_path)


FULL_DISK = """
import random, resource, sys
from pathlib import Path
import pyarrow as pa
from pedigree.snapshots import freeze_snapshot
draw = random.Random(0)
keys = [str(i) for i in range(4000)]
table = pa.table({"row_key": keys, "text": [draw.randbytes(200).hex() for _ in keys]})
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
freeze_snapshot(table, Path(sys.argv[1]), "training")
"""


def assert_says_full_and_left_nothing(
    done: subprocess.CompletedProcess[str], root: Path | None
) -> None:
    assert done.returncode == 1
    assert "PedigreeError: The disk is full while writing" in done.stderr
    assert "free some space and run the same command again" in done.stderr
    if root is not None:
        assert [path.name for path in root.iterdir()] == []


def test_a_file_that_may_not_grow_leaves_no_snapshot(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), "50000"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_says_full_and_left_nothing(done, tmp_path)


def test_a_disk_that_is_really_full_leaves_no_snapshot(tmp_path: Path) -> None:
    """A 200 KB file system in a mount namespace of its own, which ends with the process."""
    script = (
        'mount -t tmpfs -o size=200k tmpfs "$1" || exit 77; '
        '"$2" -c "$3" "$1"; code=$?; ls -A "$1" >&2; exit $code'
    )
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this user may not mount a file system")
    assert_says_full_and_left_nothing(done, None)
    assert done.stderr.splitlines()[-1].startswith("pedigree.errors.PedigreeError")
