"""Signatures: by whom, over exactly which files, until when, and from which version on."""

import base64
import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pedigree.admission.gate import Admission, admit_artifact, open_gate
from pedigree.admission.publishers import load_publishers
from pedigree.admission.scan import scan_path
from pedigree.admission.signature_files import SignatureFiles
from pedigree.cli import main
from pedigree.digests import canonical_json, digest_tree
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.exports.model_signature import sign_model
from pedigree.project import Project
from tests.conftest import NOW
from tests.unit.admission.artifacts import model_folder

KEY = generate_private_key(SECP256R1())
EDWARDS = Ed25519PrivateKey.generate()
STRANGER = generate_private_key(SECP256R1())
Sign = Callable[[bytes], bytes]


def pem_of(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def pin(project: Project, expires: str | None = None, **minimum: int) -> None:
    keys = [{"pem": pem_of(KEY), "expires": expires}, {"pem": pem_of(EDWARDS)}]
    values = {"publishers": {"acme": {"keys": keys, "minimum_versions": minimum}}}
    path = project.root / "trust" / "publishers.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def demand(project: Project) -> None:
    path = project.root / "policy.yaml"
    values = yaml.safe_load(path.read_text())
    values["admission"]["require_signature"] = True
    path.write_text(yaml.safe_dump(values))


def admit(project: Project, path: Path, **options: Any) -> Admission:
    return admit_artifact(path, open_gate(project), options.pop("now", NOW), **options)


def rules(admission: Admission) -> list[tuple[str, str]]:
    assert not admission.admitted
    return [(one.file, one.rule) for one in admission.scan.findings]


def said_of(admission: Admission) -> dict[str, Any]:
    (one,) = [s for s in admission.statements if s.predicate["state"] == "signature_verified"]
    return one.predicate


def sign_bundle(folder: Path, key: EllipticCurvePrivateKey = KEY) -> None:
    (folder / "model.sig").write_bytes(sign_model("a model", digest_tree(folder), key))


def by_p256(message: bytes) -> bytes:
    return KEY.sign(message, ECDSA(SHA256()))


def write_manifest(folder: Path, sign: Sign = by_p256, **changes: Any) -> None:
    entries = [entry.model_dump() for entry in digest_tree(folder)]
    text = json.dumps({"artifact": "base", "version": 2, "files": entries, **changes})
    (folder / "manifest.json").write_text(text)
    (folder / "manifest.json.sig").write_bytes(sign(text.encode()))


@pytest.mark.parametrize("form", ["bundle", "manifest", "edwards", "sums"])
def test_a_pinned_publisher_is_named_and_the_signature_is_no_part_of_the_artifact(
    project: Project,
    tmp_path: Path,
    form: str,
) -> None:
    pin(project)
    demand(project)
    folder = model_folder(tmp_path / "m")
    bare = scan_path(folder).digest
    if form == "bundle":
        sign_bundle(folder)
    elif form == "manifest":
        write_manifest(folder)
    elif form == "edwards":
        write_manifest(folder, lambda text: base64.b64encode(EDWARDS.sign(text)) + b"\n")
    else:
        names = sorted(path.name for path in folder.iterdir())
        text = subprocess.run(
            ["sha256sum", *names], cwd=folder, capture_output=True, check=True
        ).stdout
        (folder / "SHA256SUMS").write_bytes(text)
        (folder / "SHA256SUMS.sig").write_bytes(by_p256(text))
    admission = admit(project, folder)
    assert admission.admitted, admission.scan.findings
    assert admission.digest == bare
    signature = said_of(admission)["signature"]
    assert signature["publisher"] == "acme"
    assert signature["version"] == (2 if form in ("manifest", "edwards") else None)
    assert admission.kept is not None
    assert {path.name for path in admission.kept.iterdir()} == {
        "model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "README.md", "LICENSE",
    }  # fmt: skip


def test_the_standards_own_signer_is_understood(
    project: Project,
    tmp_path: Path,
) -> None:
    signing = pytest.importorskip("model_signing.signing")
    pin(project)
    demand(project)
    folder = model_folder(tmp_path / "m")
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")
    key = tmp_path / "key.pem"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.sign(folder, folder / "model.sig")
    assert admit(project, folder).admitted
    (folder / ".gitattributes").write_text("* filter=x\n")  # which that signer would not see
    assert rules(admit(project, folder)) == [(".gitattributes", "signature_extra")]


@pytest.mark.parametrize("form", ["bundle", "manifest"])
def test_a_changed_an_extra_and_a_missing_file_are_named(
    project: Project,
    tmp_path: Path,
    form: str,
) -> None:
    pin(project)
    for name in ("a", "b", "c"):
        folder = model_folder(tmp_path / name)
        sign_bundle(folder) if form == "bundle" else write_manifest(folder)
    (tmp_path / "a" / "LICENSE").write_text("another\n")
    assert rules(admit(project, tmp_path / "a")) == [("LICENSE", "signature_changed")]
    (tmp_path / "b" / ".git").mkdir()
    (tmp_path / "b" / ".git" / "config").write_text("[core]\n")
    assert rules(admit(project, tmp_path / "b")) == [(".git/config", "signature_extra")]
    (tmp_path / "c" / "vocab.txt").unlink()
    assert rules(admit(project, tmp_path / "c")) == [("vocab.txt", "signature_missing")]
    assert scan_path(tmp_path / "c").outcome == "rejected"


def test_a_key_that_is_pinned_to_nobody_proves_nothing_and_says_so(
    project: Project,
    tmp_path: Path,
) -> None:
    pin(project)
    folder = model_folder(tmp_path / "m")
    sign_bundle(folder, STRANGER)
    admission = admit(project, folder)
    assert admission.admitted
    assert said_of(admission)["signature"] is None
    assert "proves nothing" in said_of(admission)["summary"]
    assert scan_path(folder).outcome == "admitted"
    bundle = (folder / "model.sig").read_bytes()
    (folder / "model.sig").unlink()
    valid = SignatureFiles(bundle=bundle, key=pem_of(STRANGER).encode())
    summary = said_of(admit(project, folder, signature=valid))["summary"]
    assert "is valid for the key" in summary
    assert "proves nothing" in summary
    other = SignatureFiles(bundle=bundle, key=pem_of(KEY).encode())
    assert rules(admit(project, folder, signature=other)) == [
        ("the signature", "signature_invalid")
    ]
    demand(project)
    (refused,) = admit(project, folder, signature=valid).scan.findings
    assert refused.rule == "signature_unpinned"
    assert "proves nothing" in refused.reason
    assert rules(admit(project, folder)) == [("the signature", "signature_missing")]


def test_a_signature_over_nothing_is_refused(project: Project, tmp_path: Path) -> None:
    pin(project)
    folder = tmp_path / "empty"
    folder.mkdir()
    write_manifest(folder)
    assert rules(admit(project, folder)) == [("the signature", "signature_empty")]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json.sig").unlink()
    (folder / "model.sig").write_bytes(_bundle_over_nothing())
    assert rules(admit(project, folder)) == [("the signature", "signature_empty")]
    assert scan_path(folder).outcome == "rejected"


def _bundle_over_nothing() -> bytes:
    bundle = json.loads(sign_model("m", digest_tree(Path(__file__).parent), KEY))
    envelope = bundle["dsseEnvelope"]
    said = json.loads(base64.b64decode(envelope["payload"]))
    said["predicate"]["resources"] = []
    said["subject"][0]["digest"]["sha256"] = (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    payload = canonical_json(said)
    message = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(by_p256(message)).decode()
    return json.dumps(bundle).encode()


def test_an_expired_key_does_not_count(project: Project, tmp_path: Path) -> None:
    pin(project, expires=NOW.date().isoformat())
    folder = model_folder(tmp_path / "m")
    write_manifest(folder)
    assert admit(project, folder).admitted
    (finding,) = admit(project, folder, now=NOW + timedelta(days=1)).scan.findings
    assert finding.rule == "signature_expired"
    assert NOW.date().isoformat() in finding.reason


def test_an_older_version_is_refused(project: Project, tmp_path: Path) -> None:
    pin(project, base=2)
    for version in (1, 2, 3):
        folder = model_folder(tmp_path / str(version))
        (folder / "LICENSE").write_text(f"licence {version}\n")
        write_manifest(folder, version=version)
    assert rules(admit(project, tmp_path / "1")) == [("the signature", "signature_rollback")]
    assert admit(project, tmp_path / "2").admitted
    last = admit(project, tmp_path / "3")
    assert last.admitted
    (finding,) = admit(project, tmp_path / "2").scan.findings
    assert "admitted here before" in finding.reason
    folder = model_folder(tmp_path / "sums")  # versions cannot be dodged by another form
    text = "".join(f"{entry.sha256}  {entry.path}\n" for entry in digest_tree(folder)).encode()
    (folder / "SHA256SUMS").write_bytes(text)
    (folder / "SHA256SUMS.sig").write_bytes(by_p256(text))
    assert rules(admit(project, folder)) == [("the signature", "signature_version")]
    last.statements[-1].path.unlink()
    with pytest.raises(VerificationFailed, match="was deleted"):
        admit(project, tmp_path / "2")


@pytest.mark.parametrize(
    "bundle",
    [
        b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"dsseEnvelope": {}}', b'{"a": 1, "a": 2}',
        b'{"dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": "e30="}}',
    ],
)  # fmt: skip
def test_what_is_no_signature_refuses_the_folder(
    project: Project,
    tmp_path: Path,
    bundle: bytes,
) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "model.sig").write_bytes(bundle)
    assert rules(admit(project, folder)) == [("the signature", "signature_malformed")]
    assert scan_path(folder).outcome == "rejected"


@pytest.mark.parametrize(
    "changes", [{"version": -1}, {"version": "2"}, {"files": [{"path": "a", "sha256": "x"}]}]
)
def test_a_manifest_of_another_form_refuses_the_folder(
    project: Project,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    pin(project)
    folder = model_folder(tmp_path / "m")
    write_manifest(folder, **changes)
    assert rules(admit(project, folder)) == [("the signature", "signature_malformed")]


def test_an_edited_manifest_is_signed_by_nobody(
    project: Project,
    tmp_path: Path,
) -> None:
    pin(project)
    demand(project)
    folder = model_folder(tmp_path / "m")
    write_manifest(folder)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"version": 2', '"version": 9'))
    assert rules(admit(project, folder)) == [("the signature", "signature_unpinned")]


@pytest.mark.parametrize(
    ("publishers", "message"),
    [
        ({"acme": {"keys": []}}, "keys"),
        ({"acme": {"keys": [{"pem": "x"}]}}, "no public key"),
        ({n: {"keys": [{"pem": pem_of(KEY)}]} for n in ("acme", "emca")}, "signs for one"),
    ],
)
def test_a_file_of_publishers_that_is_wrong_is_refused(
    tmp_path: Path, publishers: dict[str, Any], message: str
) -> None:
    (tmp_path / "trust").mkdir()
    text = yaml.safe_dump({"publishers": publishers})
    (tmp_path / "trust" / "publishers.yaml").write_text(text)
    with pytest.raises(PedigreeError, match=message):
        load_publishers(tmp_path)


def test_the_command_takes_signatures_from_elsewhere(
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pin(project)
    demand(project)
    folder = model_folder(tmp_path / "m")
    write_manifest(folder)
    for name in ("manifest.json", "manifest.json.sig"):
        (folder / name).rename(tmp_path / name)
    command = ["-C", str(project.root), "admit", str(folder), "--json"]
    assert main(command) == 1
    assert "signature_missing" in capsys.readouterr().out
    more = ["--signature", str(tmp_path / "manifest.json.sig")]
    assert main([*command, *more, "--manifest", str(tmp_path / "manifest.json")]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "admitted"
    assert main([*command, "--manifest", str(tmp_path / "manifest.json")]) == 2
    assert main([*command, "--signature", str(tmp_path / "missing")]) == 2
    assert "cannot be read" in capsys.readouterr().err
