"""Someone with access to the disk changes bytes, statements or the DVC cache."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.digests import canonical_json
from pedigree.errors import VerificationFailed
from pedigree.evidence.signing import load_development_key
from pedigree.evidence.store import open_store
from pedigree.lineage import UNKNOWN, explain_model
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import add_row_ids, freeze_snapshot, open_snapshot
from pedigree.training.record import TrainingRecord, read_record
from pedigree.verification import load_verified_model
from pedigree.versioning import track
from tests.conftest import must, run

# A known md5 collision (Xiaoyun Wang and others, 2004): 128 bytes, six bits apart, one md5.
COLLISION_A = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
)
COLLISION_B = bytes(
    byte ^ (0x80 if i in (19, 45, 59, 83, 109, 123) else 0) for i, byte in enumerate(COLLISION_A)
)


def _with_unread_front(table: pa.Table) -> bytes:
    """Return Parquet whose first 128 bytes no reader looks at: row groups of no rows."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        for _ in range(8):
            writer.write_table(table.slice(0, 0))
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _record(project: Project) -> TrainingRecord:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return read_record(find_training(store, promoted.model))


def _flip(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def _pedigree(project: Project, *arguments: str) -> tuple[int, str, str]:
    done = run("python", "-m", "pedigree", *arguments, cwd=project.root)
    return done.returncode, done.stdout, done.stderr


def test_one_flipped_byte_of_the_weights_is_found_where_mlflow_loads_it_silently(
    trained_copy: Project,
) -> None:
    code, out, _ = _pedigree(trained_copy, "verify", "production")
    assert code == 0
    record = _record(trained_copy)
    assert record.model_digest in out
    folder = trained_copy.root / record.location
    _flip(folder / "model.safetensors")

    loaded = mlflow.pyfunc.load_model(str(folder.parent))
    assert loaded.predict(["a fine film"])[0] in ("positive", "negative")

    code, _, error = _pedigree(trained_copy, "verify", "production")
    assert code == 1
    assert "model.safetensors changed" in error
    code, _, error = _pedigree(trained_copy, "verify", str(folder))
    assert code == 1
    assert "model.safetensors changed" in error
    with pytest.raises(VerificationFailed, match=r"model\.safetensors changed"):
        load_verified_model(trained_copy, "production")


def test_a_verified_model_is_loaded_and_predicts(trained: Project) -> None:
    model = load_verified_model(trained, "production")
    assert model.predict(["a fine film wonderful cast i loved it"]) == ["positive"]


@pytest.mark.parametrize("change", ["extra file", "missing file", "adapter"])
def test_every_other_change_of_a_model_folder_is_found_too(
    trained_copy: Project, change: str
) -> None:
    folder = trained_copy.root / _record(trained_copy).location
    if change == "extra file":
        (folder / "extra.json").write_text("{}")
        name = "extra.json is not in the manifest"
    elif change == "missing file":
        (folder / "tokenizer_config.json").unlink()
        name = "tokenizer_config.json is missing"
    else:
        _flip(folder / "adapter" / "adapter_model.safetensors")
        name = "adapter/adapter_model.safetensors changed"
    code, _, error = _pedigree(trained_copy, "verify", "production")
    assert code == 1
    assert name in error


def test_a_copy_of_the_model_is_verified_anywhere(trained: Project, tmp_path: Path) -> None:
    shutil.copytree(trained.root / _record(trained).location, tmp_path / "download")
    code, out, _ = _pedigree(trained, "verify", str(tmp_path / "download"), "--json")
    assert code == 0
    assert json.loads(out)["digest"] == _record(trained).model_digest
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"something else")
    code, _, error = _pedigree(trained, "verify", str(tmp_path / "other"))
    assert code == 3
    assert "No model is known" in error


def test_a_removed_verdict_is_unknown_and_exits_3(trained_copy: Project) -> None:
    assert _pedigree(trained_copy, "why", "production")[0] == 0
    digest = _record(trained_copy).inputs.training.digest
    store = open_store(trained_copy, trained_copy.policy())
    for statement in store.about(digest, "verdict")[0]:
        if "near_duplicate_label_conflicts" in str(statement.predicate):
            statement.path.unlink()
    code, out, _ = _pedigree(trained_copy, "why", "production")
    assert code == 3
    assert "UNKNOWN  near_duplicate_label_conflicts" in out
    code, out, _ = _pedigree(trained_copy, "why", "production", "--json")
    assert code == 3
    verdicts = json.loads(out)["answers"][3]["verdicts"]
    assert [v["check"] for v in verdicts if v["result"] == UNKNOWN] == [
        "near_duplicate_label_conflicts"
    ]


@pytest.mark.parametrize("kind", ["base-model", "admission", "snapshot", "curation", "source"])
def test_each_removed_link_is_unknown(trained_copy: Project, kind: str) -> None:
    paths = list(trained_copy.evidence.glob(f"*/{kind}-*.dsse.json"))
    assert paths
    for path in paths:
        path.unlink()
    store = open_store(trained_copy, trained_copy.policy())
    answers = explain_model(store, _record(trained_copy).model_digest)
    assert not answers.complete
    assert UNKNOWN in str(answers.answers)


def test_a_forged_verdict_counts_for_nothing(trained_copy: Project) -> None:
    """A failed verdict is rewritten to say passed: its signature does not fit any more."""
    digest = _record(trained_copy).inputs.training.digest
    store = open_store(trained_copy, trained_copy.policy())
    verdicts = store.about(digest, "verdict")[0]
    statement = next(one for one in verdicts if one.predicate["result"] == "FAILED")
    envelope = json.loads(statement.path.read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b"FAILED", b"PASSED")
    envelope["payload"] = base64.b64encode(payload).decode()
    data = json.dumps(envelope).encode()
    forged = statement.path.with_name(f"verdict-{hashlib.sha256(data).hexdigest()}.dsse.json")
    forged.write_bytes(data)
    _, problems = store.about(digest, "verdict")
    assert len(problems) == 1
    assert "no trusted key signed it" in problems[0]


def test_a_statement_signed_by_another_key_counts_for_nothing(trained_copy: Project) -> None:
    for path in trained_copy.keys.iterdir():
        path.unlink()
    load_development_key(trained_copy.keys)
    code, _, error = _pedigree(trained_copy, "why", _record_digest(trained_copy))
    assert code == 1
    assert "no trusted key signed it" in error


def test_the_public_key_alone_is_enough_to_verify(trained_copy: Project) -> None:
    (trained_copy.keys / "development.pem").unlink()
    assert _pedigree(trained_copy, "verify", "production")[0] == 0
    assert _pedigree(trained_copy, "why", "production")[0] == 0


def _record_digest(project: Project) -> str:
    (path,) = project.evidence.glob("*/training-*.dsse.json")
    return path.parent.name


def test_a_part_with_the_same_md5_deceives_dvc_but_not_us(project: Project) -> None:
    """Parquet is read from its end, so 128 bytes at its front can be a collision block."""
    table = add_row_ids(pa.table({"row_key": ["a", "b"], "text": ["good", "bad"]}))
    snapshot = freeze_snapshot(table, project.snapshots("training"), "training")
    genuine = COLLISION_A + _with_unread_front(snapshot.read())[128:]
    twin = COLLISION_B + genuine[128:]
    assert genuine != twin
    assert hashlib.md5(genuine).digest() == hashlib.md5(twin).digest()

    part = snapshot.path / "part-00000.parquet"
    part.write_bytes(genuine)
    manifest = json.loads((snapshot.path / "manifest.json").read_bytes())
    entry = {"path": part.name, "size": len(genuine), "sha256": hashlib.sha256(genuine).hexdigest()}
    (snapshot.path / "manifest.json").write_bytes(canonical_json({**manifest, "files": [entry]}))
    root = project.snapshots("training")
    assert open_snapshot(snapshot.digest, root).read().num_rows == 2
    track(project.root, snapshot.path)

    part.unlink()
    part.write_bytes(twin)
    assert "up to date" in must("dvc", "status", f"{snapshot.path}.dvc", cwd=project.root)
    with pytest.raises(VerificationFailed, match=r"part-00000\.parquet changed"):
        open_snapshot(snapshot.digest, root)


def test_changed_rows_with_a_manifest_that_fits_them_are_refused(project: Project) -> None:
    table = add_row_ids(pa.table({"row_key": ["a", "b"], "text": ["good", "bad"]}))
    root = project.snapshots("training")
    snapshot = freeze_snapshot(table, root, "training")
    other = add_row_ids(pa.table({"row_key": ["a", "b"], "text": ["good", "good"]}))
    part = snapshot.path / "part-00000.parquet"
    pq.write_table(other, part)
    manifest = json.loads((snapshot.path / "manifest.json").read_bytes())
    data = part.read_bytes()
    entry = {"path": part.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (snapshot.path / "manifest.json").write_bytes(canonical_json({**manifest, "files": [entry]}))
    with pytest.raises(VerificationFailed, match="does not hold the rows that it is named by"):
        open_snapshot(snapshot.digest, root)
