"""The gate: each state is signed, the copy is what counts, and only what was admitted is loaded."""

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pedigree.admission import gate as gate_module
from pedigree.admission.gate import Gate, admit_artifact, open_gate, require_admitted
from pedigree.admission.keeping import open_artifact
from pedigree.admission.pins import Pin, find_differing_files
from pedigree.admission.receiving import Received
from pedigree.admission.scan import scan_path
from pedigree.admission.transitions import find_decision, find_manifest, read_passage
from pedigree.admission.verdict import Limits, Scan, ScannedFile
from pedigree.cli import main
from pedigree.digests import FileEntry, digest_manifest, digest_tree
from pedigree.errors import EvidenceMissing, GateClosed, PedigreeError, VerificationFailed
from pedigree.project import Project
from tests.conftest import NOW
from tests.unit.admission.artifacts import (
    hostile,
    model_folder,
    onnx_bytes,
    safetensors_bytes,
    zip_bytes,
)

REACHED = ["received", "pinned", "signature_verified", "tree_checked", "scanned", "admitted"]


@pytest.fixture
def gate(project: Project) -> Gate:
    return open_gate(project)


def states(gate: Gate, digest: str) -> list[str]:
    statements, problems = gate.store.about(digest, "admission")
    assert problems == []
    return sorted(one.predicate["state"] for one in statements)


def test_each_state_is_signed_and_names_the_one_before(gate: Gate, tmp_path: Path) -> None:
    admission = admit_artifact(model_folder(tmp_path / "m"), gate, NOW)
    assert admission.admitted
    assert admission.digest == digest_manifest(digest_tree(tmp_path / "m"))
    decision = require_admitted(gate.store, admission.digest, gate.policy)
    passage = read_passage(gate.store, decision)
    assert [one.predicate["state"] for one in passage] == REACHED
    assert states(gate, admission.digest) == sorted(REACHED)
    for one in passage:
        said = one.predicate
        names = {item["name"]: item["digest"]["sha256"] for item in said["configuration"]}
        assert f"sha256:{names['policy']}" == gate.policy.digest()
        assert said["tools"]["gate-code"].startswith("sha256:")
        assert said["isolation"]["level"] == gate.isolation.level.label
        assert said["decidedOn"] == NOW.isoformat()
    files = find_manifest(gate.store, admission.digest)
    assert files is not None
    assert digest_manifest(files) == admission.digest


def test_what_was_admitted_is_kept_read_only_and_verified_at_each_use(
    gate: Gate, tmp_path: Path
) -> None:
    admission = admit_artifact(model_folder(tmp_path / "m"), gate, NOW)
    root = gate.project.admitted
    artifact = open_artifact(admission.digest, root, "admit it")
    assert artifact.path == admission.kept
    names = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    assert {path.name: path.read_bytes() for path in artifact.path.iterdir()} == names
    assert all(not path.stat().st_mode & 0o222 for path in artifact.path.iterdir())
    assert list(gate.project.outside.iterdir()) == []
    (artifact.path / "config.json").chmod(0o600)
    (artifact.path / "config.json").write_text("{}")
    with pytest.raises(VerificationFailed, match="was changed"):
        open_artifact(admission.digest, root, "admit it")
    with pytest.raises(EvidenceMissing, match="admit it"):
        open_artifact("sha256:" + "0" * 64, root, "admit it")


def test_a_single_file_is_named_by_its_sha256(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "strange name!.safetensors"
    path.write_bytes(safetensors_bytes())
    admission = admit_artifact(path, gate, NOW)
    assert admission.digest == scan_path(path).digest
    artifact = open_artifact(admission.digest, gate.project.admitted, "admit it")
    assert [entry.path for entry in artifact.files] == ["artifact"]


def test_what_is_not_admitted_is_not_let_through(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(hostile(tmp_path / "canary"))
    bad = admit_artifact(tmp_path / "bad.pkl", gate, NOW)
    assert (bad.scan.outcome, bad.kept) == ("rejected", None)
    assert states(gate, bad.digest) == [
        "pinned", "received", "rejected", "signature_verified", "tree_checked",
    ]  # fmt: skip
    with pytest.raises(GateClosed, match=r"says rejected .*os\.system"):
        require_admitted(gate.store, bad.digest, gate.policy)
    (tmp_path / "notes.bin").write_bytes(bytes(range(256)) * 4)
    odd = admit_artifact(tmp_path / "notes.bin", gate, NOW)
    assert odd.scan.outcome == "quarantined"
    assert odd.kept is not None
    assert odd.kept.parent == gate.project.quarantined
    assert not gate.project.admitted.exists()
    with pytest.raises(GateClosed, match="says quarantined"):
        require_admitted(gate.store, odd.digest, gate.policy)
    with pytest.raises(GateClosed, match="is missing"):
        require_admitted(gate.store, "sha256:" + "0" * 64, gate.policy)
    assert not (tmp_path / "canary").exists()


def test_a_repository_with_code_is_rejected_by_the_tree_check_naming_each(
    gate: Gate, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m")
    config = {"model_type": "x", "auto_map": {"AutoModel": "modeling_x.XModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_x.py").write_text("import torch\n")
    (folder / "setup.py").write_text("from setuptools import setup\nsetup()\n")
    (folder / "run.sh").write_text("#!/bin/sh\nid\n")
    (folder / "fast.so").write_bytes(b"\x7fELF" + bytes(60))
    admission = admit_artifact(folder, gate, NOW)
    assert admission.scan.outcome == "rejected"
    named = {one.file for one in admission.scan.findings if one.rule.startswith("tree_")}
    assert named >= {"modeling_x.py", "setup.py", "run.sh", "fast.so"}
    assert any("auto_map" in one.reason for one in admission.scan.findings)
    assert "tree_checked" not in states(gate, admission.digest)
    said = admission.statements[-1].predicate["findings"]
    assert {one["file"] for one in said} >= named | {"config.json"}


def test_a_changed_an_extra_and_a_missing_file_have_reasons_of_their_own(
    gate: Gate, tmp_path: Path
) -> None:
    good = admit_artifact(model_folder(tmp_path / "m"), gate, NOW)
    pin = Pin(good.digest, "somebody", find_manifest(gate.store, good.digest))

    def refuse(name: str) -> list[tuple[str, str]]:
        admission = admit_artifact(tmp_path / name, gate, NOW, pin=pin)
        assert admission.scan.outcome == "rejected"
        assert "pinned" not in states(gate, admission.digest)
        return [(one.file, one.rule) for one in admission.scan.findings]

    flipped = model_folder(tmp_path / "a") / "model.safetensors"
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\x01")
    assert refuse("a") == [("model.safetensors", "pin_changed")]
    (model_folder(tmp_path / "b") / ".gitattributes").write_text("* filter=x\n")
    assert refuse("b") == [(".gitattributes", "pin_extra")]
    (model_folder(tmp_path / "c") / "vocab.txt").unlink()
    assert refuse("c") == [("vocab.txt", "pin_missing")]
    alone = Pin(good.digest, "somebody")
    (finding,) = admit_artifact(tmp_path / "c", gate, NOW, pin=alone).scan.findings
    assert finding.rule == "pin_digest"
    assert good.digest in finding.reason


def test_a_wrong_pin_says_nothing_about_the_bytes(gate: Gate, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    good = admit_artifact(folder, gate, NOW)
    wrong = Pin("sha256:" + "0" * 64, "a mistaken person")
    assert not admit_artifact(folder, gate, NOW, pin=wrong).admitted
    assert require_admitted(gate.store, good.digest, gate.policy)


def test_the_same_weights_in_other_company_are_recognised(gate: Gate, tmp_path: Path) -> None:
    first = admit_artifact(model_folder(tmp_path / "a"), gate, NOW)
    again = admit_artifact(model_folder(tmp_path / "b"), gate, NOW)
    assert (again.digest, again.same_weights) == (first.digest, ())
    (model_folder(tmp_path / "c") / "LICENSE").write_text("another licence\n")
    other = admit_artifact(tmp_path / "c", gate, NOW)
    assert other.digest != first.digest
    assert other.same_weights == (first.digest,)
    assert other.statements[-2].predicate["sameWeightsAs"] == [
        {"sha256": first.digest.removeprefix("sha256:")}
    ]


def test_a_file_that_is_swapped_after_it_was_hashed_changes_nothing(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_folder(tmp_path / "m") / "model.safetensors"
    scan = gate_module.scan_received

    def swap_first(received: Received, limits: Limits | None = None) -> Scan:
        path.unlink()
        path.write_bytes(hostile(tmp_path / "canary"))
        return scan(received, limits)

    monkeypatch.setattr(gate_module, "scan_received", swap_first)
    admission = admit_artifact(tmp_path / "m", gate, NOW)
    assert admission.admitted
    kept = open_artifact(admission.digest, gate.project.admitted, "admit it")
    assert (kept.path / "model.safetensors").read_bytes() == safetensors_bytes()


def test_a_file_that_changes_while_it_is_read_is_refused_and_not_held_against_its_digest(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes())
    good = admit_artifact(path, gate, NOW)
    copy = os.copy_file_range

    def touch(*arguments: int) -> int:
        done = copy(*arguments)
        os.utime(path, ns=(1, 1))
        return done

    monkeypatch.setattr(os, "copy_file_range", touch)
    changed = admit_artifact(path, gate, NOW)
    assert changed.scan.outcome == "rejected"
    assert [one.rule for one in changed.scan.findings] == ["changed"]
    assert changed.digest == good.digest
    assert require_admitted(gate.store, good.digest, gate.policy)


def test_another_policy_or_another_gate_makes_an_admission_stale(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = admit_artifact(model_folder(tmp_path / "m"), gate, NOW)
    path = gate.project.root / "policy.yaml"
    values = yaml.safe_load(path.read_text())
    values["checks"]["evaluation_leakage"]["max_rows"] = 1
    path.write_text(yaml.safe_dump(values))  # thresholds of data say nothing about weights
    assert require_admitted(gate.store, admission.digest, gate.project.policy())
    values["admission"]["formats"] = ["onnx"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(GateClosed, match="stale"):
        require_admitted(gate.store, admission.digest, gate.project.policy())
    monkeypatch.setattr("pedigree.admission.transitions.gate_code_digest", lambda: "sha256:other")
    with pytest.raises(GateClosed, match="other code"):
        require_admitted(gate.store, admission.digest, gate.policy)


def test_what_a_stricter_policy_quarantines_is_set_apart(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_bytes())
    first = admit_artifact(tmp_path / "m.onnx", gate, NOW)
    assert first.admitted
    admission_policy = gate.policy.admission.model_copy(update={"formats": ("safetensors",)})
    policy = gate.policy.model_copy(update={"admission": admission_policy})
    strict = open_gate(gate.project, policy)
    second = admit_artifact(tmp_path / "m.onnx", strict, NOW)
    assert [one.rule for one in second.scan.findings] == ["format"]
    with pytest.raises(EvidenceMissing):
        open_artifact(first.digest, gate.project.admitted, "admit it")
    assert open_artifact(first.digest, gate.project.quarantined, "admit it")


@pytest.mark.parametrize("way", ["deleted", "edited", "moved"])
def test_statements_that_were_tampered_with_close_the_gate(
    gate: Gate, tmp_path: Path, way: str
) -> None:
    admission = admit_artifact(model_folder(tmp_path / "m"), gate, NOW)
    path = admission.statements[-1].path
    if way == "deleted":
        path.unlink()
    elif way == "edited":
        path.write_bytes(path.read_bytes().replace(b"a", b"b"))
    else:
        target = path.parent.with_name("0" * 64)
        target.mkdir()
        path.rename(target / path.name)
    with pytest.raises(GateClosed):
        require_admitted(gate.store, admission.digest, gate.policy)
    assert find_decision(gate.store, admission.digest, gate.policy)[0] is None


def test_the_command_signs_within_a_project_and_only_judges_outside(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(model_folder(tmp_path / "m"))
    at_home = ["-C", str(project.root), "admit", folder, "--json"]
    assert main(at_home) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["states"]) == ("admitted", REACHED)
    assert Path(said["kept"]).parent == project.admitted
    assert main([*at_home, "--expect", said["digest"]]) == 0
    capsys.readouterr()
    (tmp_path / "m" / "LICENSE").unlink()
    assert main([*at_home, "--expect", said["digest"]]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["file"], finding["rule"]) == ("LICENSE", "pin_missing")
    assert main([*at_home, "--expect", "sha256:12"]) == 2
    assert "not a sha256 digest" in capsys.readouterr().err
    assert main(["-C", str(tmp_path), "admit", folder, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "admitted"
    assert "statements" not in said
    assert main(["-C", str(tmp_path), "admit", folder, "--expect", "sha256:12"]) == 2
    assert "need a project" in capsys.readouterr().err


def test_no_key_to_sign_with_is_an_error_and_nothing_is_kept(
    project: Project, tmp_path: Path
) -> None:
    path = project.root / "policy.yaml"
    values = yaml.safe_load(path.read_text())
    values["keys"] = {"accept_development_keys": False}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(PedigreeError, match="no key to sign with"):
        admit_artifact(model_folder(tmp_path / "m"), open_gate(project), NOW)
    assert not project.admitted.exists()


def test_a_second_opinion_is_heard_and_never_counts_as_clean(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = pytest.importorskip("picklescan.scanner")
    path = tmp_path / "numbers.pkl"
    path.write_bytes(b"\x80\x04K\x01.")
    said = admit_artifact(path, gate, NOW).statements[-2].predicate
    version = said["tools"]["picklescan"]
    assert version[0].isdigit()
    assert said["secondOpinions"] == [
        {"scanner": "picklescan", "version": version, "asked": 1, "incomplete": [], "against": 0}
    ]

    def fail(*_arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(scanner, "scan_pickle_bytes", fail)
    said = admit_artifact(path, gate, NOW).statements[-2].predicate
    assert said["secondOpinions"][0]["incomplete"] == ["numbers.pkl"]
    monkeypatch.undo()
    # Ours took it for harmless, say: the other one is asked, and rejects.
    (tmp_path / "bad.pkl").write_bytes(hostile(tmp_path / "canary"))
    digest = scan_path(tmp_path / "bad.pkl").digest
    quiet = Scan("quarantined", digest, (), (ScannedFile("bad.pkl", "pickle", 1, digest[7:]),))
    monkeypatch.setattr(gate_module, "scan_received", lambda *_: quiet)
    (finding,) = admit_artifact(tmp_path / "bad.pkl", gate, NOW).scan.findings
    assert (finding.rule, finding.outcome) == ("second_opinion", "rejected")
    assert "system" in finding.reason
    assert not (tmp_path / "canary").exists()


def bad_inputs(folder: Path) -> list[Path]:
    """Write one of each kind of input that is not what it should be."""
    nested = safetensors_bytes()
    for _ in range(50):
        nested = zip_bytes({"a": nested})
    whole = safetensors_bytes()
    files = {
        "truncated.safetensors": whole[:-3],
        "empty.safetensors": b"",
        "header.safetensors": struct.pack("<Q", 4 << 30) + whole[8:],
        "nested.zip": nested,
        "bomb.zip": zip_bytes({"a": bytes(300 << 20)}),
        "both.safetensors": whole + zip_bytes({"a": b"b"}),
        "line\nend.safetensors": whole,
        "cut.pkl": hostile(folder / "canary")[:-1],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    model_folder(folder / "loop").joinpath("again").symlink_to(folder / "loop")
    model_folder(folder / "odd").joinpath("a\nb.json").write_text("{}")
    (folder / "nothing").mkdir()
    return [folder / name for name in (*files, "loop", "odd", "nothing")]


def test_bad_input_gets_a_signed_reason_and_is_never_admitted(gate: Gate, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in bad_inputs(folder):
        admission = admit_artifact(path, gate, NOW)
        if path.name == "line\nend.safetensors":  # a file alone is not known by its name
            assert admission.admitted
            assert admission.kept is not None
            assert [one.name for one in admission.kept.iterdir()] == ["artifact"]
            continue
        assert not admission.admitted, path
        assert admission.scan.findings[0].reason
        said = admission.statements[-1].predicate
        assert said["state"] == admission.scan.outcome
        assert said["findings"][0]["reason"] == admission.scan.findings[0].reason
        with pytest.raises(GateClosed):
            require_admitted(gate.store, admission.digest, gate.policy)
    assert not (folder / "canary").exists()
    with pytest.raises(PedigreeError, match="nothing to admit"):
        admit_artifact(tmp_path / "missing", gate, NOW)
    assert list(gate.project.outside.iterdir()) == []


NAMES = st.sampled_from(["a", "b/c", ".gitattributes", "d.json", "e"])
TREES = st.dictionaries(NAMES, st.binary(max_size=2), min_size=1)


@given(TREES, TREES)
def test_each_difference_of_two_trees_is_named_once(
    found: dict[str, bytes], expected: dict[str, bytes]
) -> None:
    def manifest(tree: dict[str, bytes]) -> tuple[FileEntry, ...]:
        return tuple(
            FileEntry(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in tree.items()
        )

    named = {
        one.file: one.rule for one in find_differing_files(manifest(found), manifest(expected))
    }
    for name in found.keys() | expected.keys():
        if name not in expected:
            assert named.pop(name) == "pin_extra"
        elif name not in found:
            assert named.pop(name) == "pin_missing"
        elif found[name] != expected[name]:
            assert named.pop(name) == "pin_changed"
    assert named == {}
