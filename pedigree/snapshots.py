"""Rows are frozen into canonical Parquet, named by what they say, and verified before each use.

A snapshot is a folder named by its digest::

    <digest>/manifest.json         schema, zone, rows, Merkle root, files (path, size, sha256)
    <digest>/part-00000.parquet    rows sorted by row id

The digest is the sha256 of the RFC 8785 form of ``{schema, zone, rows, merkle_root}``, where the
root is the RFC 6962 tree over the sorted row ids. It depends neither on the order of rows nor on
the Parquet writer. `open_snapshot` checks the bytes against the manifest and then the rows against
the digest, so a changed manifest helps nobody.

    >>> snapshot = freeze_snapshot(table, Path("data/training/snapshots"), zone="training")
    >>> open_snapshot(snapshot.digest, Path("data/training/snapshots")).read().num_rows
    5000
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pedigree.digests import (
    JSON,
    Manifest,
    canonical_json,
    digest_json,
    digest_tree,
    find_differences,
    hex_of,
    merkle_root,
)
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.files import folder_written_atomically
from pedigree.settings import Settings
from pedigree.zones import require_readable

MANIFEST = "manifest.json"
ROWS_A_PART = 1_000_000
ROWS_A_GROUP = 50_000
_FORMAT = "pedigree/snapshot/v1"


class SnapshotManifest(Settings):
    """What `manifest.json` says."""

    format: str
    digest: str
    zone: str
    column_schema: tuple[tuple[str, str], ...]
    rows: int
    merkle_root: str
    files: Manifest
    writer: str


@dataclass(frozen=True)
class Snapshot:
    """A frozen table whose bytes and rows were verified when this object was made."""

    path: Path
    manifest: SnapshotManifest

    @property
    def digest(self) -> str:
        """What the rows are: ``sha256:<hex>``."""
        return self.manifest.digest

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.manifest.rows

    def read(self) -> pa.Table:
        """Return all rows, sorted by row id, with the column `row_id` first."""
        parts = [pq.read_table(self.path / entry.path) for entry in self.manifest.files]
        return pa.concat_tables(parts)

    @property
    def manifest_digest(self) -> str:
        """What guards the bytes: the digest of the file manifest."""
        return digest_json([entry.model_dump() for entry in self.manifest.files])


# Columns that snapshots had not from the beginning.
LATER_COLUMNS = ("collected_at",)


def add_row_ids(table: pa.Table) -> pa.Table:
    """Put `row_id` in front and sort by it; an existing one is computed again.

    A row id is the sha256 of ``pedigree/row/v1``, a newline and the RFC 8785 form of the row as an
    object of all its other columns. Columns hold strings, whole numbers, lists of them, or null.
    A column that came later (`LATER_COLUMNS`) is left out where it is null: rows keep their ids.
    """
    if "row_id" in table.column_names:
        table = table.drop_columns(["row_id"])
    names = sorted(table.column_names)
    ids: list[str] = []
    for batch in table.select(names).to_batches(max_chunksize=ROWS_A_GROUP):
        columns = [cast(list[Any], batch.column(i).to_pylist()) for i in range(len(names))]
        rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
        ids += [_row_id(row) for row in rows]
    if len(set(ids)) != len(ids):
        raise PedigreeError("Two rows are equal in every column, row key included: drop one.")
    return table.add_column(0, pa.field("row_id", pa.string(), nullable=False), [ids]).sort_by(
        "row_id"
    )


def _row_id(row: dict[str, Any]) -> str:
    # For strings and integers with ASCII names in order this *is* RFC 8785, and five times faster
    # than the reference serialiser; tests/unit/test_snapshots.py compares the two.
    for name in LATER_COLUMNS:
        if name in row and row[name] is None:
            del row[name]
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(b"pedigree/row/v1\n" + text.encode()).hexdigest()


def _describe_schema(table: pa.Table) -> tuple[tuple[str, str], ...]:
    described: list[tuple[str, str]] = []
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if not (pa.types.is_string(kind) or pa.types.is_integer(kind)):
            raise PedigreeError(
                f"Column {field.name!r} holds {field.type}: a snapshot holds strings, whole "
                "numbers and lists of them, which have one canonical form."
            )
        described.append(
            (field.name, f"list<{kind}>" if pa.types.is_list(field.type) else str(kind))
        )
    return tuple(described)


def _identify(table: pa.Table, zone: str) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """Return (digest, schema, Merkle root) of a table that has row ids and is sorted by them."""
    schema = _describe_schema(table)
    ids = cast(list[str], table.column("row_id").to_pylist())
    root = merkle_root([bytes.fromhex(value) for value in ids]).hex()
    header: JSON = {
        "format": _FORMAT,
        "zone": zone,
        "schema": [list(item) for item in schema],
        "rows": table.num_rows,
        "merkle_root": root,
    }
    return digest_json(header), schema, root


def freeze_snapshot(table: pa.Table, root: Path, zone: str) -> Snapshot:
    """Write a table as a snapshot and return it verified; the same rows give the same bytes.

    A killed writer leaves nothing that can be opened. A snapshot that is already there is verified
    and, if damaged, written again.

    Raises:
        PedigreeError: the table has no rows or a column that has no canonical form, or the disk
            is full.
    """
    if not table.num_rows:
        raise PedigreeError("A snapshot of no rows was asked for: check sources and curation.")
    _describe_schema(table)
    table = add_row_ids(table).replace_schema_metadata(None)
    digest, schema, tree_root = _identify(table, zone)
    target = root / hex_of(digest)
    try:
        return open_snapshot(digest, root)
    except EvidenceMissing:
        pass
    except VerificationFailed:
        shutil.rmtree(target)
    with folder_written_atomically(target) as folder:
        for number, start in enumerate(range(0, table.num_rows, ROWS_A_PART)):
            pq.write_table(
                table.slice(start, ROWS_A_PART).combine_chunks(),
                folder / f"part-{number:05d}.parquet",
                row_group_size=ROWS_A_GROUP,
                compression="zstd",
                compression_level=3,
                version="2.6",
                data_page_version="1.0",
                use_dictionary=False,
            )
        manifest = SnapshotManifest(
            format=_FORMAT,
            digest=digest,
            zone=zone,
            column_schema=schema,
            rows=table.num_rows,
            merkle_root=tree_root,
            files=digest_tree(folder),
            writer=f"pyarrow {pa.__version__}",
        )
        (folder / MANIFEST).write_bytes(canonical_json(manifest.model_dump(mode="json")))
    return open_snapshot(digest, root)


def open_snapshot(digest: str, root: Path) -> Snapshot:
    """Open a snapshot after verifying its bytes against its manifest and its rows against `digest`.

    Raises:
        EvidenceMissing: there is no such snapshot under `root`.
        GateClosed: the step that reads it may not see its zone (`pedigree.zones`).
        VerificationFailed: a file is missing, extra or changed, or the rows are not the ones named.
    """
    digest = f"sha256:{hex_of(digest)}"
    path = root / hex_of(digest)
    if not path.is_dir():
        raise EvidenceMissing(
            f"There is no snapshot {digest} in {root}: run `dvc pull {path}.dvc`, or materialise "
            "it again."
        )
    manifest = _read_manifest(path, digest)
    require_readable(manifest.zone, f"snapshot {digest}")
    problems = find_differences(path, manifest.files, beside=MANIFEST)
    if problems:
        raise VerificationFailed(
            f"Snapshot {digest} is damaged: {'; '.join(problems)}. Remove {path} and run "
            f"`dvc checkout {path}.dvc --force`, or materialise it again."
        )
    snapshot = Snapshot(path, manifest)
    try:
        stored = snapshot.read()
        _describe_schema(stored)
        table = add_row_ids(stored)
        found, schema, _ = _identify(table, manifest.zone)
    except (pa.ArrowException, OSError, ValueError, PedigreeError) as error:
        raise VerificationFailed(
            f"Snapshot {digest} cannot be read ({' '.join(str(error).split())}): its manifest was "
            f"rewritten. Remove {path} and restore it from the DVC remote."
        ) from None
    if found != digest or schema != manifest.column_schema or not table.equals(stored):
        raise VerificationFailed(
            f"Snapshot {digest} does not hold the rows that it is named by (found {found}): its "
            f"manifest was rewritten. Remove {path} and restore it from the DVC remote."
        )
    return snapshot


def _read_manifest(path: Path, digest: str) -> SnapshotManifest:
    try:
        manifest = SnapshotManifest.model_validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise VerificationFailed(f"Snapshot {digest} is damaged: {MANIFEST} is missing.") from None
    except ValidationError:
        raise VerificationFailed(
            f"Snapshot {digest} is damaged: {MANIFEST} is not valid."
        ) from None
    if manifest.digest != digest:
        raise VerificationFailed(
            f"Snapshot {digest} is damaged: its {MANIFEST} names {manifest.digest}."
        )
    return manifest


def list_snapshots(root: Path) -> Iterator[str]:
    """Yield the digests of the snapshots under `root`, unverified."""
    for path in sorted(root.glob("*")):
        if path.is_dir() and len(path.name) == 64:
            yield f"sha256:{path.name}"
