"""Someone changes what a project exported, or what an export is made from."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.signing import DEVELOPMENT_KEY, PUBLIC_KEY, verify_envelope
from pedigree.evidence.store import open_store
from pedigree.exports.bundle import Export, export_model
from pedigree.exports.reports import REPORTS
from pedigree.project import Project
from pedigree.proofs import prove_absence_of, prove_row, verify_proof
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.training.record import TrainingRecord, read_record

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = [
    "bom.cdx.json", "card.md", "claims.jsonl", "croissant.json", "export.dsse.json",
    "export.message", "export.signature", "model-signing.pub.pem", "model.sha256", "model.sig",
    "report-annex-iv.md", "report-gpai-summary.md", "verify.sh",
]  # fmt: skip


def _promoted(project: Project) -> str:
    promoted = find_promoted(open_store(project, project.policy()), "production")
    assert promoted is not None
    return promoted.model


def _record(project: Project) -> TrainingRecord:
    store = open_store(project, project.policy())
    return read_record(find_training(store, _promoted(project)))


@pytest.fixture(scope="module")
def exported(
    trained: Project, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Export, Path, Project]:
    """The export of the production model, the public key outside it, and the project."""
    root = tmp_path_factory.mktemp("export")
    project = Project(root / "project", trained.downloads)  # a key is made there: not in `trained`
    shutil.copytree(trained.root, project.root, symlinks=True)
    key = root / "key.pem"
    shutil.copy(project.keys / PUBLIC_KEY, key)
    made = export_model(project, _promoted(project), root / "export", NOW, REPORTS)
    return made, key, project


@pytest.fixture
def export(exported: tuple[Export, Path, Project], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[0].folder, tmp_path / "export"))


def _verify(export: Path, *arguments: Path) -> bool:
    """Whether verify.sh accepts, run in an empty environment."""
    done = subprocess.run(
        ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "sh", "verify.sh", *map(str, arguments)],
        cwd=export, capture_output=True, check=False,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return done.returncode == 0


def test_the_export_verifies_in_an_empty_environment(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    made, key, project = exported
    assert sorted(path.name for path in export.iterdir()) == NAMES
    assert [entry.path for entry in made.files] == [n for n in NAMES if n[:7] != "export."]
    assert _verify(export, key)
    model = project.root / _record(project).location
    assert _verify(export, key, model)
    assert not _verify(export, key, model.parent)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_to_one_byte_of_any_file_is_found(
    exported: tuple[Export, Path, Project], export: Path, name: str
) -> None:
    path, key = export / name, exported[1]
    data = path.read_bytes()
    chance = random.Random(name)
    places = {0, len(data) // 2, len(data) - 1, *chance.sample(range(len(data)), 12)}
    for place in sorted(places):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(changed))
        assert not _verify(export, key), f"byte {place} of {name}"
    path.write_bytes(data)
    assert _verify(export, key)


def test_nothing_but_openssl_and_sha256sum_is_needed(
    exported: tuple[Export, Path, Project], export: Path, tmp_path: Path
) -> None:
    made, key, project = exported
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("openssl", "sha256sum"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    shell = shutil.which("sh")
    assert shell is not None
    model = project.root / _record(project).location
    done = subprocess.run(
        [shell, str(export / "verify.sh"), str(key), str(model)],
        env={"PATH": str(tools)}, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert made.model in done.stdout
    assert "are the model" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone_is_missed(
    exported: tuple[Export, Path, Project], export: Path, name: str
) -> None:
    (export / name).unlink()
    assert not _verify(export, exported[1])


@pytest.mark.parametrize("name", ["key.pem", ".hidden", "claims.jsonl.bak"])
def test_a_file_more_is_found(
    exported: tuple[Export, Path, Project], export: Path, name: str
) -> None:
    shutil.copy(exported[1], export / name)
    assert not _verify(export, exported[1])


def test_a_forger_with_a_key_of_their_own_is_refused(
    exported: tuple[Export, Path, Project], export: Path, trained_copy: Project, tmp_path: Path
) -> None:
    """Everything signed again, and consistent: only the key from outside tells."""
    theirs = tmp_path / "theirs.pem"
    other = Ed25519PrivateKey.generate().public_key()
    theirs.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert not _verify(export, theirs)
    assert not _verify(export, export / "model-signing.pub.pem")
    shutil.rmtree(trained_copy.keys)
    with pytest.raises(VerificationFailed, match="not trusted"):  # the claims are not theirs
        export_model(trained_copy, _promoted_by_name(trained_copy), tmp_path / "forged", NOW)
    assert not (tmp_path / "forged").exists()


def _promoted_by_name(project: Project) -> str:
    (path,) = project.evidence.glob("*/promotion-*.dsse.json")
    return "sha256:" + path.parent.name


def test_claims_hold_the_whole_way_from_the_model_to_its_sources(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    made, _, project = exported
    trusted = open_store(project, project.policy()).trusted
    lines = (export / "claims.jsonl").read_bytes().splitlines()
    said = [verify_envelope(line, trusted) for line in lines]
    digests = {hashlib.sha256(line).hexdigest() for line in lines}
    assert len(digests) == len(lines) == made.claims
    kinds = {
        str(one["predicateType"]).rpartition("/")[2].rpartition("predicate:")[2] for one in said
    }
    assert kinds >= {"source:v1", "curation:v1", "snapshot:v1", "base-model:v1", "evaluation:v1"}
    promotion: Any = next(
        one for one in said if "verification_summary" in str(one["predicateType"])
    )
    for relied in promotion["predicate"]["inputAttestations"]:
        assert relied["digest"]["sha256"] in digests
    subjects = {str(one["subject"][0]["digest"]["sha256"]) for one in said}  # type: ignore[index]
    assert made.model.removeprefix("sha256:") in subjects
    names = {one["predicate"].get("id") for one in said}  # type: ignore[union-attr]
    assert names >= {"shop", "forum", "tiny"}


def test_openssl_accepts_the_model_signature_over_the_files_as_they_are(
    exported: tuple[Export, Path, Project], export: Path, tmp_path: Path
) -> None:
    project = exported[2]
    bundle = json.loads((export / "model.sig").read_bytes())
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    (tmp_path / "message").write_bytes(
        f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    )
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public = export / "model-signing.pub.pem"
    command = ["openssl", "dgst", "-sha256", "-verify", str(public)]
    command += ["-signature", str(tmp_path / "sig"), str(tmp_path / "message")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (tmp_path / "message").write_bytes((tmp_path / "message").read_bytes()[:-1] + b" ")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0

    assert (
        bundle["verificationMaterial"]["publicKey"]["hint"]
        == hashlib.sha256(public.read_bytes()).hexdigest()
    )
    statement = json.loads(payload)
    folder = project.root / _record(project).location
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }
    resources = statement["predicate"]["resources"]
    assert {one["name"]: one["digest"] for one in resources} == {
        name: value.hexdigest() for name, value in found.items()
    }
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    assert statement["subject"][0]["digest"]["sha256"] == root


def test_the_bill_of_materials_says_what_was_recorded(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    record = _record(exported[2])
    bom = json.loads((export / "bom.cdx.json").read_bytes())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.7")
    model = bom["metadata"]["component"]
    assert model["bom-ref"] == record.model_digest
    hashes = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    assert hashes == {entry.path: entry.sha256 for entry in record.model_files}
    libraries = {one["name"]: one["version"] for one in bom["components"] if "purl" in one}
    assert libraries == record.inputs.environment.distributions
    assert libraries["torch"]
    metric = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]
    assert 0 <= float(metric["value"]) <= 1


def test_the_description_of_the_snapshot_fits_its_files(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    project = exported[2]
    digest = _record(project).inputs.training.digest
    snapshot = open_snapshot(digest, project.snapshots("training"))
    said = json.loads((export / "croissant.json").read_bytes())
    for file in said["distribution"]:
        data = (snapshot.path / file["contentUrl"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert file["contentSize"] == f"{len(data)} B"
    columns = [field["source"]["extract"]["column"] for field in said["recordSet"][0]["field"]]
    assert columns == snapshot.read().column_names


def test_the_card_has_hugging_face_metadata_and_admits_what_is_not_known(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    record = _record(exported[2])
    text = (export / "card.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["base_model"] == "tiny"
    assert metadata["datasets"] == ["forum", "shop"]
    assert record.model_digest in text
    assert "Not recorded" in text


def test_nothing_secret_and_no_data_is_exported(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    project = exported[2]
    digest = _record(project).inputs.training.digest
    rows = open_snapshot(digest, project.snapshots("training")).read()
    everything = b"".join(path.read_bytes() for path in export.iterdir())
    everything += b"".join(
        base64.b64decode(json.loads(line)["payload"])
        for line in (export / "claims.jsonl").read_bytes().splitlines()
    )
    assert b"PRIVATE" not in everything
    assert not [one for one in rows.column("text").to_pylist() if one.encode() in everything]


def _everything(export: Path) -> str:
    """Return all that an export says, with the payloads of its statements decoded."""
    whole = [path.read_bytes() for path in sorted(export.iterdir())]
    whole += [
        base64.b64decode(json.loads(line)["payload"])
        for line in (export / "claims.jsonl").read_bytes().splitlines()
    ]
    bundle = json.loads((export / "model.sig").read_bytes())
    whole.append(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return "\n".join(data.decode(errors="replace") for data in whole)


def test_no_path_of_this_machine_is_exported(
    exported: tuple[Export, Path, Project], export: Path, trained: Project
) -> None:
    """The sources of this project are declared with absolute paths, as people do."""
    declared = (trained.root / "sources" / "shop.yaml").read_text()
    assert str(trained.root) in declared
    said = _everything(export)
    assert "inbox/shop.csv" in said
    for path in (trained.root, exported[2].root, Path.home(), Path(tempfile.gettempdir())):
        assert f"{path}/" not in said, path
    # Any absolute path of a file system, in a JSON string or between blanks; `/` alone is none.
    roots = "home|root|tmp|var|usr|opt|srv|mnt|data|Users|work|etc"
    body = said.replace((export / "verify.sh").read_text(), "")
    assert not re.findall(rf'(?:["\s(=]|file:/*)/(?:{roots})/[^\s"]*', body)
    assert exported[0].local_paths == ()


def test_a_path_that_an_older_version_signed_is_told_and_is_nowhere_else(
    trained_copy: Project, tmp_path: Path
) -> None:
    store = open_store(trained_copy, trained_copy.policy(), write=True)
    (older,) = [one for one in store.all("source") if one.predicate["id"] == "shop"]
    said: Any = {**older.predicate, "uri": "/home/me/clients/shop.csv", "fetchedOn": "2030-01-01"}
    store.write("source", list(older.subjects), said)
    made = export_model(trained_copy, _promoted(trained_copy), tmp_path / "export", NOW)
    assert made.local_paths == ("/home/me/clients/shop.csv",)
    for path in made.folder.iterdir():
        assert b"clients" not in path.read_bytes(), path
    assert "local:shop.csv" in (made.folder / "croissant.json").read_text()
    assert "local:shop.csv" in (made.folder / "bom.cdx.json").read_text()


def test_an_export_of_the_same_facts_is_the_same_but_for_model_signature(
    exported: tuple[Export, Path, Project], export: Path, tmp_path: Path
) -> None:
    made, key, project = exported
    (tmp_path / "again").mkdir()  # an empty folder will do
    export_model(project, made.model, tmp_path / "again", NOW, REPORTS)
    assert _verify(tmp_path / "again", key)
    different = {
        name
        for name in NAMES
        if (export / name).read_bytes() != (tmp_path / "again" / name).read_bytes()
    }
    # ECDSA draws a number for each signature.
    assert different <= {"model.sig", "export.dsse.json", "export.message", "export.signature"}


def test_what_cannot_be_answered_for_is_not_exported(trained_copy: Project, tmp_path: Path) -> None:
    model, record, target = _promoted(trained_copy), _record(trained_copy), tmp_path / "export"

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    with pytest.raises(PedigreeError, match="is not empty"):
        export_model(trained_copy, model, tmp_path / "full", NOW)
    with pytest.raises(PedigreeError, match="is no folder"):
        export_model(trained_copy, model, tmp_path / "full" / "file", NOW)
    with pytest.raises(EvidenceMissing, match="No training evidence"):
        export_model(trained_copy, "sha256:" + "0" * 64, target, NOW)

    manifest = trained_copy.snapshots("training") / record.inputs.training.digest[7:]
    manifest /= "manifest.json"
    whole = manifest.read_bytes()
    for damage in (whole.replace(b'"size":', b'"size":1'), b"{}", b"[" * 100_000):
        manifest.unlink()  # a link into DVC's cache, perhaps
        manifest.write_bytes(damage)
        with pytest.raises(VerificationFailed, match="does not list the files"):
            export_model(trained_copy, model, target, NOW)
    manifest.unlink()
    with pytest.raises(EvidenceMissing, match="dvc pull"):
        export_model(trained_copy, model, target, NOW)
    manifest.write_bytes(whole)

    weights = trained_copy.root / record.location / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(VerificationFailed, match="is not what was trained"):
        export_model(trained_copy, model, target, NOW)
    weights.write_bytes(data)

    (source,) = trained_copy.evidence.glob("*/base-model-*.dsse.json")
    kept = source.read_bytes()
    source.write_bytes(kept[:-1] + b" ")
    with pytest.raises(VerificationFailed, match="was changed"):
        export_model(trained_copy, model, target, NOW)
    source.unlink()
    with pytest.raises(VerificationFailed, match="was deleted"):
        export_model(trained_copy, model, target, NOW)
    source.write_bytes(kept)
    assert not target.exists()
    assert export_model(trained_copy, model, target, NOW).model == model


def test_a_policy_that_accepts_no_development_key_exports_nothing(
    trained_copy: Project, tmp_path: Path
) -> None:
    model = _promoted(trained_copy)
    policy = trained_copy.root / "policy.yaml"
    settings = yaml.safe_load(policy.read_text())
    settings["keys"] = {**settings.get("keys", {}), "accept_development_keys": False}
    policy.write_text(yaml.safe_dump(settings))
    with pytest.raises(VerificationFailed, match="not trusted"):
        export_model(trained_copy, model, tmp_path / "export", NOW)
    assert not (tmp_path / "export").exists()


def test_a_machine_with_the_public_key_alone_makes_no_key_and_exports_nothing(
    trained_copy: Project, tmp_path: Path
) -> None:
    (trained_copy.keys / DEVELOPMENT_KEY).unlink()
    with pytest.raises(PedigreeError, match="no private key"):
        export_model(trained_copy, _promoted(trained_copy), tmp_path / "export", NOW)
    assert [path.name for path in trained_copy.keys.iterdir()] == [PUBLIC_KEY]
    assert not (tmp_path / "export").exists()


def test_a_row_of_the_model_can_be_proven_from_the_signed_statement_alone(
    exported: tuple[Export, Path, Project], export: Path
) -> None:
    project = exported[2]
    digest = _record(project).inputs.training.digest
    snapshot = open_snapshot(digest, project.snapshots("training"))
    evaluation = _record(project).evaluation_snapshot.digest
    held_out = open_snapshot(evaluation, project.snapshots("evaluation")).read()
    payloads: list[Any] = [
        json.loads(base64.b64decode(json.loads(line)["payload"]))
        for line in (export / "claims.jsonl").read_bytes().splitlines()
    ]
    said = next(
        one["predicate"]
        for one in payloads
        if one["subject"][0]["digest"]["sha256"] == digest[7:] and "merkleRoot" in one["predicate"]
    )
    proofs = prove_absence_of(snapshot, held_out.column("row_id").to_pylist())
    present = prove_row(snapshot, snapshot.read().column("row_id")[0].as_py())
    assert present.claim == "included"
    for proof in [present, *proofs]:
        assert verify_proof(proof, said["merkleRoot"], said["rows"])
