"""Adapters from outside: declared, checked against their base, registered, and approved."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pedigree.admission.adapter_files import find_problems, read_lora
from pedigree.admission.adapters import register_adapter, require_mergeable
from pedigree.admission.gate import Admission, Gate, admit_artifact, open_gate
from pedigree.admission.keeping import open_artifact
from pedigree.cli import main
from pedigree.errors import GateClosed, PedigreeError, VerificationFailed
from pedigree.project import Project
from tests.conftest import NOW


@pytest.fixture
def gate(project: Project) -> Gate:
    return open_gate(project)


@pytest.fixture
def base(gate: Gate, tmp_path: Path, tiny_base: Path) -> Admission:
    """The tiny base model, admitted; it also lies unpacked in `tmp_path / "base"`."""
    folder = tmp_path / "base"
    with zipfile.ZipFile(tiny_base) as archive:
        archive.extractall(folder)
    admission = admit_artifact(folder, gate, NOW)
    assert admission.admitted
    return admission


def declare(folder: Path, base: str, /, **changes: object) -> None:
    values = {
        "id": "tone",
        "base": base,
        "scope": "reviews in English",
        "publisher": "tests",
        "training": "one step on two rows",
        "licence": "CC0-1.0",
        **changes,
    }
    kept = {name: value for name, value in values.items() if value is not None}
    (folder / "adapter.yaml").write_text(yaml.safe_dump(kept))


@pytest.fixture
def adapter(tmp_path: Path, base: Admission) -> Path:
    """An adapter as PEFT itself saves it, with the path of the base on this machine in it."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS, r=4, target_modules=["query", "value"],
        modules_to_save=["classifier"],
    )  # fmt: skip
    folder = tmp_path / "adapter"
    peft.get_peft_model(model, settings).save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    declare(folder, base.digest)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def test_an_adapter_is_registered_with_its_base_by_digest(
    gate: Gate, base: Admission, adapter: Path, tmp_path: Path
) -> None:
    before = json.loads((adapter / "adapter_config.json").read_text())
    assert before["base_model_name_or_path"] == str(tmp_path / "base")
    registered = register_adapter(adapter, gate, NOW)
    kept = open_artifact(registered.digest, gate.project.admitted, "admit it")
    after = json.loads((kept.path / "adapter_config.json").read_text())
    assert after == {**before, "base_model_name_or_path": base.digest, "revision": None}
    assert str(tmp_path) not in (kept.path / "adapter_config.json").read_text()
    weights = "adapter_model.safetensors"
    assert (kept.path / weights).read_bytes() == (adapter / weights).read_bytes()
    said = registered.statement.predicate
    assert said["base"] == {"sha256": base.digest.removeprefix("sha256:")}
    assert (said["rank"], sorted(said["targetModules"])) == (4, ["query", "value"])
    assert said["scope"] == "reviews in English"
    (converted,) = [
        one.predicate
        for one in registered.admission.statements
        if one.predicate["state"] == "converted"
    ]
    assert converted["parent"] == said["received"]
    again = register_adapter(kept.path, gate, NOW)
    assert again.digest == registered.digest


def test_merging_needs_the_right_base_and_an_approval(
    gate: Gate, base: Admission, adapter: Path
) -> None:
    registered = register_adapter(adapter, gate, NOW)
    digest = registered.digest

    def approved(_digest: str) -> list[str]:
        return ["somebody"] if _digest == digest else []

    opened, opened_base, declaration = require_mergeable(gate, digest, base.digest, approved)
    assert (opened.digest, opened_base.digest) == (digest, base.digest)
    assert declaration.id == "tone"
    with pytest.raises(GateClosed, match="nobody approved it"):
        require_mergeable(gate, digest, base.digest, lambda _: [])
    with pytest.raises(GateClosed, match=f"meant for {base.digest}"):
        require_mergeable(gate, digest, "sha256:" + "0" * 64, approved)
    original = admit_artifact(adapter, gate, NOW)
    with pytest.raises(GateClosed, match="no statement registers it"):
        require_mergeable(gate, original.digest, base.digest, approved)
    path = opened.path / "adapter_model.safetensors"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(VerificationFailed, match="was changed"):
        require_mergeable(gate, digest, base.digest, approved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, r"lora_A of .*query is \[4, 32\]: expected \[8, 32\]"),
        ({"r": 0}, "rank r is 0: expected 1 to 1024"),
        ({"r": True}, "rank r is True"),
        ({"rank_pattern": {"query": 2}}, r"query is \[4, 32\]: expected \[2, 32\]"),
        ({"target_modules": ["query"]}, "value is no target module"),
        ({"target_modules": ["query", "value", "key"]}, "target module key has no tensors"),
        ({"target_modules": ".*"}, "expected a list of names"),
        ({"modules_to_save": None}, "classifier.* is of no target module"),
        ({"peft_type": "IA3"}, "expected LORA"),
        ({"use_dora": True}, "uses use_dora: only plain LoRA"),
        ({"bias": "all"}, "only plain LoRA"),
        ({"fan_in_fan_out": True, "target_modules": ["query", "value"]}, None),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    gate: Gate, base: Admission, adapter: Path, changes: dict[str, object], message: str | None
) -> None:
    edit_config(adapter, **changes)
    if message is None:  # square matrices fit either way
        assert register_adapter(adapter, gate, NOW)
        return
    with pytest.raises(VerificationFailed, match=message):
        register_adapter(adapter, gate, NOW)
    assert list(gate.store.all("adapter")) == []


def test_tensors_that_do_not_fit_are_refused(
    gate: Gate, base: Admission, adapter: Path, tmp_path: Path
) -> None:
    import torch

    query = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_{}.weight"

    def refuse(change: Any, message: str) -> None:
        folder = tmp_path / "other"
        shutil.copytree(adapter, folder)
        edit_tensors(folder, change)
        with pytest.raises(VerificationFailed, match=message):
            register_adapter(folder, gate, NOW)
        shutil.rmtree(folder)

    refuse(lambda t: t.pop(query.format("B")), "no whole pair")
    refuse(lambda t: t.update({query.format("A"): torch.ones(4, 16)}), r"expected \[4, 32\]")
    refuse(lambda t: t.update({"evil": torch.ones(2)}), "tensor evil is of no target module")
    deeper = query.replace("layer.0", "layer.7")
    both = {deeper.format("A"): torch.ones(4, 32), deeper.format("B"): torch.ones(32, 4)}
    refuse(lambda t: t.update(both), r"base has no module .*layer\.7")
    refuse(lambda t: [t.pop(name) for name in list(t) if "lora" in name], "no pair of lora_A")
    nan = {query.format("A"): torch.full((4, 32), float("nan"))}
    edit_tensors(adapter, lambda t: t.update(nan))
    with pytest.raises(GateClosed, match=r"rejected|quarantined"):
        register_adapter(adapter, gate, NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scope": None}, "scope"),
        ({"training": ""}, "training"),
        ({"base": "/models/base"}, "base"),
        ({"more": 1}, "more"),
    ],
)
def test_a_declaration_that_leaves_something_out_is_refused(
    gate: Gate, base: Admission, adapter: Path, changes: dict[str, object], message: str
) -> None:
    declare(adapter, base.digest, **changes)
    with pytest.raises(PedigreeError, match=rf"adapter\.yaml is not valid: .*{message}"):
        register_adapter(adapter, gate, NOW)


def test_the_base_must_be_admitted_and_the_folder_an_adapter(
    gate: Gate, base: Admission, adapter: Path
) -> None:
    declare(adapter, "sha256:" + "1" * 64)
    with pytest.raises(GateClosed, match="is missing"):
        register_adapter(adapter, gate, NOW)
    declare(adapter, base.digest)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(PedigreeError, match="no LoRA folder"):
        register_adapter(adapter, gate, NOW)
    (adapter / "adapter.yaml").unlink()
    with pytest.raises(PedigreeError, match="missing"):
        register_adapter(adapter, gate, NOW)


def test_a_base_without_the_heads_name_is_found_and_an_ambiguous_one_is_not(adapter: Path) -> None:
    lora = read_lora(adapter)
    modules = {
        name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        for name in lora.shapes
        if ".lora_" in name
    }
    full = {f"{module}.weight": (32, 32) for module in modules}
    assert find_problems(lora, full) == []
    assert find_problems(lora, {name.partition(".")[2]: s for name, s in full.items()}) == []
    assert find_problems(lora, {f"model.{name}": shape for name, shape in full.items()}) == []
    twice = {f"{head}.{name}": shape for name, shape in full.items() for head in ("a", "b")}
    assert len(find_problems(lora, twice)) == len(modules)


def test_the_command_registers_an_adapter(
    gate: Gate, base: Admission, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-C", str(gate.project.root), "admit", str(adapter)]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["base"] == base.digest
    assert said["adapter"] != said["digest"]
    assert main(command) == 0
    assert "registered as the adapter" in capsys.readouterr().out
    edit_config(adapter, r=3)
    assert main(command) == 1
    assert "does not fit its base" in capsys.readouterr().err
