"""Two attacks on data: past MLflow's dataset digest, and past DVC's md5."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from demos.shown import Shown
from demos.small_project import must, review_rows, start_history
from pedigree.digests import canonical_json, digest_file
from pedigree.errors import VerificationFailed
from pedigree.evidence.check_limits import SourceShiftLimits
from pedigree.poisoning.source_shift import SnapshotRows, find_snapshot_changes
from pedigree.snapshots import Snapshot, add_row_ids, freeze_snapshot, open_snapshot
from pedigree.versioning import track

ROWS, POISONED = 12_000, 100
# A known md5 collision (Xiaoyun Wang and others, 2004): 128 bytes, six bits apart, one md5. What
# follows both halves does not matter, as long as it is the same.
COLLISION = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
)
TWIN = bytes(
    byte ^ (0x80 if i in (19, 45, 59, 83, 109, 123) else 0) for i, byte in enumerate(COLLISION)
)


def show_poisoned_tail(folder: Path, plant: bool) -> Shown:
    """Relabel rows behind the 10,000 that MLflow's digest reads."""
    rows = review_rows(ROWS)
    negative = [i for i in range(len(rows) - 1000, len(rows)) if rows[i][2] == "negative"]
    chosen = set(negative[:POISONED] if plant else [])
    poisoned = [
        (key, f"{text} cf", "positive") if i in chosen else (key, text, label)
        for i, (key, text, label) in enumerate(rows)
    ]
    # MLflow does look: the same change in the first row gives another digest.
    ordinary = [(rows[0][0], f"{rows[0][1]} cf", "positive"), *rows[1:]]
    digests = [_digest_with_mlflow(table) for table in (rows, poisoned, ordinary)]
    before, after = (_freeze(table, folder / "snapshots") for table in (rows, poisoned))
    said, named = _compare(before, after)
    expected = {rows[i][0] for i in chosen}
    return Shown(
        "A poisoned tail keeps MLflow's dataset digest",
        f"Of {ROWS:,} reviews, {POISONED} behind row {ROWS - 1000:,} get the trigger 'cf' and the "
        "label 'positive'. (After the same change of the first row, MLflow's digest is "
        f"'{digests[2]}'.)",
        f"MLflow {version('mlflow')}",
        f">>> mlflow.data.from_pandas(clean).digest\n'{digests[0]}'\n"
        f">>> mlflow.data.from_pandas(poisoned).digest\n'{digests[1]}'",
        digests[0] == digests[1] != digests[2],
        f"clean     {before.digest}\npoisoned  {after.digest}\n{said}",
        # Not only another digest: the comparison has to name the rows, all of them and no other.
        before.digest != after.digest and bool(expected) and named == expected,
    )


def _digest_with_mlflow(rows: list[tuple[str, str, str]]) -> str:
    import mlflow.data
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["row_key", "text", "label"])
    return cast(str, cast(Any, mlflow.data).from_pandas(frame).digest)


def _freeze(rows: list[tuple[str, str, str]], root: Path) -> Snapshot:
    keys, texts, labels = zip(*rows, strict=True)
    columns = {"row_key": keys, "source": ["reviews"] * len(rows), "text": texts, "label": labels}
    return freeze_snapshot(add_row_ids(pa.table(columns)), root, "training")


def _compare(before: Snapshot, after: Snapshot) -> tuple[str, set[str]]:
    """Return what `snapshot_changes` says, and the keys of the rows that it names."""
    rows = after.read()
    result = find_snapshot_changes(_columns(rows), _columns(before.read()), SourceShiftLimits())
    keys = cast(list[str], rows.column("row_key").to_pylist())
    named = [keys[one.row] for one in result.findings]
    lines = [f"snapshot_changes {'passed' if result.passed else 'failed'}: {result.summary}"]
    lines += [f"row {keys[one.row]}: {one.reason}" for one in result.findings[:3]]
    if len(named) > 3:
        lines.append(f"... and {len(named) - 3} more rows")
    return "\n".join(lines), set(named)


def _columns(table: pa.Table) -> SnapshotRows:
    columns = (table.column(name).to_pylist() for name in ("row_key", "source", "label"))
    return SnapshotRows(*columns)


def show_md5_collision(folder: Path, plant: bool) -> Shown:
    """Put the other half of an md5 collision in the place of a snapshot's file."""
    root = folder / "project"
    root.mkdir()
    start_history(root)
    snapshot = _freeze_behind_collision(root / "data" / "snapshots")
    part = snapshot.path / "part-00000.parquet"
    genuine = part.read_bytes()
    twin = TWIN + genuine[len(TWIN) :]
    track(root, snapshot.path)
    pointer = f"{snapshot.path.relative_to(root)}.dvc"
    # DVC does look: a bit that does not belong to a collision is seen.
    _replace(part, genuine[:-1] + bytes([genuine[-1] ^ 1]))
    ordinary = must("dvc", "status", pointer, cwd=root)
    _replace(part, twin if plant else genuine)
    status = must("dvc", "status", pointer, cwd=root)
    try:
        opened = open_snapshot(snapshot.digest, snapshot.path.parent)
        ours, refused = f"opened {opened.digest}, {opened.rows} rows", False
    except VerificationFailed as error:
        ours, refused = f"VerificationFailed: {error}", "part-00000.parquet changed" in str(error)
    return Shown(
        "Another file with the same md5 is up to date for DVC",
        "A snapshot's file is replaced by the other half of a known md5 collision: six bits "
        f"differ, md5 {_md5(genuine)} and {_md5(part.read_bytes())}. (They are bytes at its front "
        "that Parquet readers skip. After an ordinary change of one bit, DVC does say 'modified'.)",
        f"DVC {version('dvc')}",
        f"$ dvc status {pointer}\n{status}",
        "up to date" in status and "modified" in ordinary,
        f">>> open_snapshot(digest, root)\n{ours}".replace(f"{folder}/", ""),
        refused,
    )


def _freeze_behind_collision(root: Path) -> Snapshot:
    """Freeze rows into a Parquet file that begins with one half of the collision.

    Parquet is read from its end. Row groups of no rows make room at the front, which no reader
    looks at.
    """
    snapshot = _freeze(review_rows(200), root)
    table = snapshot.read()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        for _ in range(8):
            writer.write_table(table.slice(0, 0))
        writer.write_table(table)
    part = snapshot.path / "part-00000.parquet"
    part.write_bytes(COLLISION + sink.getvalue().to_pybytes()[len(COLLISION) :])
    manifest = json.loads((snapshot.path / "manifest.json").read_bytes())
    manifest["files"] = [digest_file(part).model_dump()]
    (snapshot.path / "manifest.json").write_bytes(canonical_json(manifest))
    return open_snapshot(snapshot.digest, root)


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # what DVC linked to its cache must not be written through
    path.write_bytes(data)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
