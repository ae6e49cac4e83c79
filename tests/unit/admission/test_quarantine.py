"""Pickles are opened by waiver and in the sandbox only; what the unverified says stays marked."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pedigree.admission.conversion import convert_artifact
from pedigree.admission.gate import Gate, admit_artifact, open_gate, require_admitted
from pedigree.admission.transitions import read_passage
from pedigree.admission.trying import try_artifact
from pedigree.cli import main
from pedigree.dataset import ingest_source
from pedigree.errors import GateClosed, PedigreeError
from pedigree.project import Project
from pedigree.sandbox import Isolation, Level
from pedigree.sources import load_sources
from tests.conftest import NOW, declare_source
from tests.unit.admission.artifacts import hostile, safetensors_bytes

TEXTS = ["a fine film in paris", "a dull film at home and the kettle", "superb", "awful cast"] * 9


@pytest.fixture
def gate(project: Project) -> Gate:
    gate = open_gate(project)
    if gate.isolation.level < Level.LANDLOCK_SECCOMP:
        pytest.skip(f"nothing is ever opened here: {gate.isolation.absent}")
    return gate


def checkpoint(path: Path) -> dict[str, Any]:
    import torch

    weights = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    torch.save({"state_dict": weights}, path)
    return weights


def classifier(tiny_base: Path, folder: Path) -> Any:
    """Write a tiny classifier, as a folder that is admitted; return the model."""
    import torch
    import transformers

    with zipfile.ZipFile(tiny_base) as archive:
        archive.extractall(folder)
    (folder / "tokenizer_config.json").unlink()
    config = transformers.AutoConfig.from_pretrained(folder)
    config.id2label, config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight)  # apart enough to be compared
    model.save_pretrained(folder)
    return model.eval()


def test_a_checkpoint_becomes_safetensors_with_the_original_as_its_parent(
    gate: Gate, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    weights = checkpoint(tmp_path / "model.pt")
    original = admit_artifact(tmp_path / "model.pt", gate, NOW)
    assert original.scan.outcome == "quarantined"
    converted = convert_artifact(original.digest, gate, NOW, waiver="never published otherwise")
    assert converted.admitted
    assert converted.kept is not None
    found = load_file(converted.kept / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    passage = read_passage(gate.store, require_admitted(gate.store, converted.digest, gate.policy))
    (said,) = [one.predicate for one in passage if one.predicate["state"] == "converted"]
    assert said["parent"] == {"sha256": original.digest.removeprefix("sha256:")}
    assert said["reason"] == "never published otherwise"
    assert said["isolation"]["level"] == gate.isolation.level.label
    with pytest.raises(GateClosed, match="says quarantined"):
        require_admitted(gate.store, original.digest, gate.policy)


def test_nothing_is_opened_without_a_reason_or_below_the_isolation_or_twice(
    gate: Gate, tmp_path: Path
) -> None:
    checkpoint(tmp_path / "model.pt")
    original = admit_artifact(tmp_path / "model.pt", gate, NOW)
    with pytest.raises(PedigreeError, match="explicit waiver"):
        convert_artifact(original.digest, gate, NOW, waiver="  ")
    bare = Isolation(Level.RLIMITS, ("rlimits",), 0, "x86_64", "6", ("This is macOS.",))
    low = Gate(gate.project, gate.policy, gate.store, bare, gate.publishers)
    with pytest.raises(PedigreeError, match=r"This is macOS.*nothing was opened"):
        convert_artifact(original.digest, low, NOW, waiver="a reason")
    (tmp_path / "m.safetensors").write_bytes(safetensors_bytes())
    admitted = admit_artifact(tmp_path / "m.safetensors", gate, NOW)
    with pytest.raises(GateClosed, match="it was admitted"):
        convert_artifact(admitted.digest, gate, NOW, waiver="a reason")
    with pytest.raises(GateClosed, match="is missing"):
        convert_artifact("sha256:" + "0" * 64, gate, NOW, waiver="a reason")
    (tmp_path / "data.bin").write_bytes(bytes(range(256)) * 4)
    odd = admit_artifact(tmp_path / "data.bin", gate, NOW)
    with pytest.raises(PedigreeError, match="only a single pickled checkpoint"):
        convert_artifact(odd.digest, gate, NOW, waiver="a reason")


def test_a_malicious_pickle_never_runs_on_any_way(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pt"
    path.write_bytes(hostile(canary, 2))
    bad = admit_artifact(path, gate, NOW)
    with pytest.raises(GateClosed, match="it was rejected"):
        convert_artifact(bad.digest, gate, NOW, waiver="a reason")
    with pytest.raises(GateClosed, match="it was rejected"):
        try_artifact(bad.digest, TEXTS, gate, NOW, out=tmp_path / "out.jsonl")
    root = str(gate.project.root)
    assert main(["-C", root, "admit", str(path), "--waiver", "please", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "rejected"
    assert not canary.exists()
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_converts_with_a_reason(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "model.pt")
    command = ["-C", str(gate.project.root), "admit", str(tmp_path / "model.pt"), "--json"]
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "quarantined"
    assert main([*command, "--waiver", "the only form there is"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["converted_from"]["state"]) == ("admitted", "quarantined")


def test_a_quarantined_model_is_tried_and_what_it_says_is_marked(
    gate: Gate, tmp_path: Path, tiny_base: Path
) -> None:
    import torch
    from tokenizers import Tokenizer

    model = classifier(tiny_base, tmp_path / "like")
    like = admit_artifact(tmp_path / "like", gate, NOW)
    assert like.admitted, like.scan.findings
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    tried = admit_artifact(tmp_path / "weights.pt", gate, NOW)
    out = tmp_path / "said.jsonl"
    trial = try_artifact(tried.digest, TEXTS, gate, NOW, out=out, like=like.digest)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == list(trial.lines)
    assert [line["text"] for line in lines] == TEXTS
    assert {line["unverified"] for line in lines} == {tried.digest}
    tokenizer = Tokenizer.from_file(str(tmp_path / "like" / "tokenizer.json"))
    for line in lines[:4]:  # one text at a time, without the sandbox
        ids = torch.tensor([tokenizer.encode(line["text"]).ids])
        with torch.no_grad():
            best = model(input_ids=ids).logits.softmax(-1)[0]
        assert line["label"] == ["bad", "good"][int(best.argmax())]
        assert line["score"] == pytest.approx(float(best.max()), abs=1e-4)
    said = trial.statement.predicate
    assert said["unverified"] is True
    assert said["model"] == {"sha256": tried.digest.removeprefix("sha256:")}
    assert trial.statement.subjects[0]["digest"]["sha256"] == _sha256(out)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_cannot_be_tried_is_said(gate: Gate, tmp_path: Path, tiny_base: Path) -> None:
    checkpoint(tmp_path / "model.pt")
    other = admit_artifact(tmp_path / "model.pt", gate, NOW)
    out = tmp_path / "out.jsonl"
    with pytest.raises(PedigreeError, match=r"tokenizer\.json is missing"):
        try_artifact(other.digest, TEXTS, gate, NOW, out=out)
    with pytest.raises(PedigreeError, match="no rows"):
        try_artifact(other.digest, [], gate, NOW, out=out)
    classifier(tiny_base, tmp_path / "like")
    like = admit_artifact(tmp_path / "like", gate, NOW)
    with pytest.raises(PedigreeError, match="not those of this configuration"):
        try_artifact(other.digest, TEXTS, gate, NOW, out=out, like=like.digest)
    with pytest.raises(GateClosed, match="it was admitted"):
        try_artifact(like.digest, TEXTS, gate, NOW, out=out)
    with pytest.raises(GateClosed, match="says quarantined"):
        try_artifact(other.digest, TEXTS, gate, NOW, out=out, like=other.digest)
    assert not out.exists()


@pytest.mark.parametrize("disguise", ["none", "renamed"])
def test_what_an_unverified_model_said_cannot_become_data(
    gate: Gate, tmp_path: Path, tiny_base: Path, disguise: str
) -> None:
    import torch

    model = classifier(tiny_base, tmp_path / "like")
    like = admit_artifact(tmp_path / "like", gate, NOW)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    tried = admit_artifact(tmp_path / "weights.pt", gate, NOW)
    out = tmp_path / "said.jsonl"
    try_artifact(tried.digest, TEXTS, gate, NOW, out=out, like=like.digest)
    changes: dict[str, Any] = {
        "format": {"type": "jsonl"},
        "columns": {"key": "row", "text": "text", "label": "label"},
        "labels": {"values": {"good": "positive", "bad": "negative"}},
    }
    if disguise == "none":  # the mark in each line
        out.write_text(out.read_text() + "\n")
        message = "36 rows with the mark 'unverified'"
    else:  # the statement about the file
        message = f"what the unverified model {tried.digest} said"
    declare_source(gate.project.root, "trials", str(out), _sha256(out), **changes)
    source = load_sources(gate.project.root / "sources")["trials"]
    with pytest.raises(GateClosed, match=message):
        ingest_source(gate.project, source, NOW)


def test_a_column_of_that_name_without_a_mark_is_no_trial(tmp_path: Path) -> None:
    from pedigree.documents import _refuse_unverified  # pyright: ignore[reportPrivateUsage]

    _refuse_unverified(pa.table({"unverified": pa.nulls(2, pa.string())}), "a source")
    with pytest.raises(GateClosed, match="1 rows"):
        _refuse_unverified(pa.table({"unverified": ["sha256:x", None]}), "a source")


def test_the_command_tries_a_file(
    gate: Gate, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    model = classifier(tiny_base, tmp_path / "like")
    like = admit_artifact(tmp_path / "like", gate, NOW)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    tried = admit_artifact(tmp_path / "weights.pt", gate, NOW)
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n" + "\n".join(TEXTS[:4]) + "\n")
    command = ["-C", str(gate.project.root), "try", tried.digest[:24], str(rows)]
    assert main([*command, "--like", like.digest]) == 0
    assert "each marked unverified" in capsys.readouterr().out
    assert (tmp_path / "rows.unverified.jsonl").is_file()
    assert main([*command, "--text", "words", "--like", like.digest]) == 2
    assert "words" in capsys.readouterr().err
