"""modelaudit is asked in the sandbox, can only speak against, and is never clean by silence."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pedigree.admission.gate import Gate, admit_artifact, open_gate
from pedigree.admission.modelaudit import find_modelaudit
from pedigree.cli import main
from pedigree.errors import PedigreeError
from pedigree.project import Project
from pedigree.sandbox import Level
from tests.conftest import NOW, REPOSITORY
from tests.unit.admission.artifacts import hostile, model_folder, safetensors_bytes

# Answers in the form of the real one, by what a file holds; and tries to get out.
STAND_IN = """
import os, socket

def attempt(what):
    try:
        what()
    except OSError:
        return False
    return True

class Found:
    def __init__(self, target):
        out = [attempt(socket.socket), attempt(os.fork), attempt(lambda: os.listdir("/"))]
        self.said = {"issues": [], "checks": [], "files_scanned": 0, "success": True,
                     "has_errors": False, "file_metadata": {}}
        if any(out):
            self.add("a sandbox that lets out", target)
        places = [target] if os.path.isfile(target) else [
            os.path.join(folder, name) for folder, _, names in os.walk(target) for name in names
        ]
        for path in places:
            self.look(path)

    def add(self, message, path, severity="critical"):
        issue = {"severity": severity, "message": message, "location": path + " (pos 3)"}
        self.said["issues"].append(issue)

    def look(self, path):
        with open(path, "rb") as stream:
            data = stream.read()
        assert b"RAISE" not in data
        assert b"DIE" not in data or os._exit(3)
        self.add("nothing much", path, "warning")
        if b"CRITICAL" in data:
            self.add("it is bad\\x1b[31m", path)
        self.said["checks"].append({
            "name": "a check", "status": "skipped" if b"SKIP" in data else "passed",
            "location": path,
        })
        self.said["success"] &= b"FAIL" not in data
        self.said["has_errors"] |= b"ERROR" in data
        if b"NONE" not in data:
            self.said["file_metadata"][path] = {
                "scanner_dependency_ids": [] if b"UNKNOWN" in data else ["one"],
                "scan_outcome": "inconclusive" if b"PARTLY" in data else None,
                "scan_outcome_reasons": ["too_large"],
            }

    def model_dump(self, mode):
        return self.said

def scan_model_directory_or_file(path, skip_file_types, cache_enabled):
    assert os.environ["PROMPTFOO_DISABLE_TELEMETRY"] == "1"
    assert os.path.basename(path) in ("m", "m.safetensors")  # its name, which it goes by
    return Found(path)
"""


def ask_modelaudit_too(project: Project) -> None:
    path = project.root / "policy.yaml"
    values = yaml.safe_load(path.read_text())
    values["admission"]["second_opinions"] = ["picklescan", "modelaudit"]
    path.write_text(yaml.safe_dump(values))


def environment(project: Project) -> Path:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = project.modelaudit / "lib" / python / "site-packages"
    (packages / "modelaudit").mkdir(parents=True)
    (packages / "modelaudit" / "__init__.py").touch()
    (packages / "modelaudit" / "core.py").write_text(STAND_IN)
    information = packages / "modelaudit-9.8.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: modelaudit\nVersion: 9.8\n")
    return packages


@pytest.fixture
def gate(project: Project) -> Gate:
    ask_modelaudit_too(project)
    environment(project)
    gate = open_gate(project)
    if gate.isolation.level < Level.LANDLOCK_SECCOMP:
        pytest.skip(f"nothing is ever opened here: {gate.isolation.absent}")
    return gate


def test_it_finds_nothing_and_the_record_says_who_was_asked(gate: Gate, tmp_path: Path) -> None:
    admission = admit_artifact(model_folder(tmp_path / "m"), gate, NOW)
    assert admission.admitted, admission.scan.findings
    said = next(
        one.predicate for one in admission.statements if one.predicate["state"] == "scanned"
    )
    pickles, models = said["secondOpinions"]
    assert (pickles["scanner"], pickles["asked"]) == ("picklescan", 0)
    files = len(admission.scan.files)
    assert models == {
        "scanner": "modelaudit", "version": "9.8", "asked": files, "incomplete": [], "against": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("CRITICAL", "calls it critical: it is bad\\x1b[31m."),
        ("PARTLY", "it calls its scan inconclusive: too_large"),
        ("SKIP", "it skipped a check"),
        ("NONE", "it has no scanner for it"),
        ("UNKNOWN", "it has no scanner for it"),
        ("FAIL", "its scan failed"),
        ("ERROR", "its scan failed"),
        ("RAISE", "AssertionError"),
        ("DIE", "ended with 3"),
    ],
)
def test_what_it_finds_or_did_not_see_is_quarantined(
    gate: Gate, tmp_path: Path, word: str, reason: str
) -> None:
    tensor = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    header = {"__metadata__": {"note": word}, "weight": tensor}
    (tmp_path / "m.safetensors").write_bytes(safetensors_bytes(dict(header)))
    admission = admit_artifact(tmp_path / "m.safetensors", gate, NOW)
    (finding,) = admission.scan.findings
    assert (finding.rule, finding.outcome) == ("second_opinion", "quarantined")
    assert reason in finding.reason
    assert admission.scan.outcome == "quarantined"


def test_a_document_that_it_does_not_know_is_recorded_and_stops_nothing(
    gate: Gate, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "README.md").write_text("UNKNOWN to it")
    admission = admit_artifact(folder, gate, NOW)
    assert admission.admitted
    said = admission.statements[-2].predicate["secondOpinions"][1]
    assert said["incomplete"] == ["README.md"]


def test_in_a_folder_each_finding_goes_to_its_file(gate: Gate, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    tensor = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    for number, word in enumerate(["fine", "CRITICAL", "PARTLY", "fine"], 1):
        header: dict[str, object] = {"__metadata__": {"note": word}, f"w{number}": tensor}
        part = folder / f"model-{number:05}-of-00004.safetensors"
        part.write_bytes(safetensors_bytes(header))
    scan = admit_artifact(folder, gate, NOW).scan
    assert [(one.file[6:11], one.rule) for one in scan.findings] == [
        ("00002", "second_opinion"), ("00003", "second_opinion"),
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["FAIL", "ERROR"])
def test_a_failure_is_not_hidden_by_a_document_that_it_does_not_know(
    gate: Gate, tmp_path: Path, word: str
) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "README.md").write_text("UNKNOWN to it")
    (folder / "NOTICE.md").write_text(f"{word}, and it says of no file which")
    scan = admit_artifact(folder, gate, NOW).scan
    assert scan.outcome == "quarantined"
    assert "its scan failed" in scan.findings[0].reason


def test_what_it_skipped_of_one_file_is_no_gap_in_another(gate: Gate, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "README.md").write_text("SKIP")
    admission = admit_artifact(folder, gate, NOW)
    assert admission.admitted, admission.scan.findings
    said = admission.statements[-2].predicate["secondOpinions"][1]
    assert said["incomplete"] == ["README.md"]


def test_what_was_rejected_is_not_shown_to_it(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(hostile(tmp_path / "canary"))
    admission = admit_artifact(tmp_path / "bad.pkl", gate, NOW)
    assert admission.scan.outcome == "rejected"
    assert not [one for one in admission.scan.findings if "modelaudit" in one.reason]
    assert not (tmp_path / "canary").exists()


def test_a_policy_that_asks_it_where_it_is_not_admits_nothing(
    project: Project, tmp_path: Path
) -> None:
    ask_modelaudit_too(project)
    with pytest.raises(PedigreeError, match=r"asks modelaudit .*`make modelaudit`"):
        open_gate(project)
    packages = environment(project)
    assert find_modelaudit(project.modelaudit).version == "9.8"
    packages.parent.rename(packages.parent.with_name("python2.7"))  # of another interpreter
    with pytest.raises(PedigreeError, match="`make modelaudit`"):
        open_gate(project)


def test_outside_a_project_a_policy_that_asks_it_is_an_error(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask_modelaudit_too(project)
    policy, model = str(project.root / "policy.yaml"), str(model_folder(tmp_path / "m"))
    assert main(["-C", str(tmp_path), "admit", model, "--policy", policy]) == 2
    assert "belongs to a project" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_one_in_the_sandbox(project: Project, tmp_path: Path) -> None:
    """Installed as `make modelaudit` does it; skipped nowhere but where nothing is ever opened."""
    ask_modelaudit_too(project)
    venv = [sys.executable, "-m", "venv", "--without-pip", str(project.modelaudit)]
    subprocess.run(venv, check=True)
    packages = next(project.modelaudit.glob("lib/python*/site-packages"))
    lock = REPOSITORY / "constraints-modelaudit.txt"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target"]
    subprocess.run([*pip, str(packages), "--constraint", str(lock), "modelaudit"], check=True)
    gate = open_gate(project)
    if gate.isolation.level < Level.LANDLOCK_SECCOMP:
        pytest.skip(f"nothing is ever opened here: {gate.isolation.absent}")
    folder = model_folder(tmp_path / "m")
    for number in (1, 2):  # it reads shards in threads, from some size on
        tensor = {"dtype": "F32", "shape": [4_000_000], "data_offsets": [0, 16_000_000]}
        data = safetensors_bytes({f"w{number}": tensor}, bytes(16_000_000))
        (folder / f"part-{number:05}-of-00002.safetensors").write_bytes(data)
    admission = admit_artifact(folder, gate, NOW)
    assert admission.admitted, admission.scan.findings
    said = admission.statements[-2].predicate["secondOpinions"][1]
    assert (said["scanner"], said["against"]) == ("modelaudit", 0)
    assert not [name for name in said["incomplete"] if name.endswith(".safetensors")]
    assert said["asked"] == len(admission.scan.files)
    # Ours would have rejected this one; shown to it alone, it speaks against it.
    from pedigree.admission.modelaudit import ask_modelaudit
    from pedigree.admission.receiving import receive
    from pedigree.admission.scan import scan_received

    (tmp_path / "bad.pkl").write_bytes(hostile(tmp_path / "canary"))
    received = receive(tmp_path / "bad.pkl", tmp_path / "store")
    scan = replace(scan_received(received), outcome="quarantined")
    assert gate.modelaudit is not None
    opinion = ask_modelaudit(
        gate.modelaudit, received, scan, gate.isolation, Level.LANDLOCK_SECCOMP
    )
    assert "critical" in opinion.findings[0].reason
    assert not (tmp_path / "canary").exists()
    shutil.rmtree(project.modelaudit)
