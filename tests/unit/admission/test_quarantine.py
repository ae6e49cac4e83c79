"""Pickles are opened by waiver and in the sandbox only; what the unverified says stays marked."""

import hashlib
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pedigree.admission import gate as gate_module
from pedigree.admission.conversion import convert_artifact
from pedigree.admission.gate import Gate, admit_artifact, open_gate, require_admitted
from pedigree.admission.second_opinion import Opinion
from pedigree.admission.transitions import find_decision, read_passage
from pedigree.admission.trying import try_artifact
from pedigree.admission.verdict import Finding
from pedigree.cli import main
from pedigree.dataset import ingest_source
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.signers import make_key, open_signer
from pedigree.evidence.store import Statement
from pedigree.evidence.trust import list_keys, register_key
from pedigree.evidence.waivers import CONVERSION, waive
from pedigree.lineage import Answers, explain_admission
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


def allow(gate: Gate, digest: str, days: float = 7, reason: str = "no other form") -> Statement:
    """Sign, as a reviewer, that a quarantined artifact may be converted."""
    project, path = gate.project, gate.project.keys / "ada.pem"
    key = open_signer(f"file:{path}", {}) if path.exists() else make_key(path)
    if not any(one.owner == "ada" for one in list_keys(project.trust)):
        begin = NOW - timedelta(days=1)
        register_key(project.trust, key.public_key(), "ada", ("reviewer",), begin)
    decision, _ = find_decision(gate.store, digest, gate.policy)
    assert decision is not None
    store = open_gate(project).store
    until = NOW + timedelta(days=days)
    return waive(store, CONVERSION, decision, reason, until, key, gate.policy, NOW)


def test_a_checkpoint_becomes_safetensors_with_the_original_as_its_parent(
    gate: Gate, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    weights = checkpoint(tmp_path / "model.pt")
    original = admit_artifact(tmp_path / "model.pt", gate, NOW)
    assert original.scan.outcome == "quarantined"
    waiver = allow(gate, original.digest, reason="never published otherwise")
    gate = open_gate(gate.project)
    converted = convert_artifact(original.digest, gate, NOW)
    assert converted.admitted
    assert converted.kept is not None
    found = load_file(converted.kept / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    passage = read_passage(gate.store, require_admitted(gate.store, converted.digest, gate.policy))
    (said,) = [one.predicate for one in passage if one.predicate["state"] == "converted"]
    assert said["parent"] == {"sha256": original.digest.removeprefix("sha256:")}
    assert said["reason"] == "never published otherwise"
    assert said["waiver"] == {"sha256": waiver.digest.removeprefix("sha256:")}
    assert (said["tensors"], said["dequantised"]) == (2, 0)
    assert said["isolation"]["level"] == gate.isolation.level.label
    with pytest.raises(GateClosed, match="says quarantined"):
        require_admitted(gate.store, original.digest, gate.policy)
    answers = Answers("a model", "reviews")
    told = explain_admission(gate.store, answers, converted.digest)
    assert f"converted here from {original.digest} (never published otherwise)" in told
    assert told.endswith("by a waiver of ada")
    assert answers.complete


def test_nothing_is_opened_without_a_waiver_or_below_the_isolation_or_twice(
    gate: Gate, tmp_path: Path
) -> None:
    checkpoint(tmp_path / "model.pt")
    original = admit_artifact(tmp_path / "model.pt", gate, NOW)
    with pytest.raises(GateClosed, match=r"by a reviewer's waiver only.*`pedigree waive conv"):
        convert_artifact(original.digest, gate, NOW)
    allow(gate, original.digest)
    gate = open_gate(gate.project)
    bare = Isolation(Level.RLIMITS, ("rlimits",), 0, "x86_64", "6", ("This is macOS.",))
    low = Gate(gate.project, gate.policy, gate.store, bare, gate.publishers)
    with pytest.raises(PedigreeError, match=r"This is macOS.*nothing was opened"):
        convert_artifact(original.digest, low, NOW)
    (tmp_path / "m.safetensors").write_bytes(safetensors_bytes())
    admitted = admit_artifact(tmp_path / "m.safetensors", gate, NOW)
    with pytest.raises(GateClosed, match="it was admitted"):
        convert_artifact(admitted.digest, gate, NOW)
    with pytest.raises(GateClosed, match="is missing"):
        convert_artifact("sha256:" + "0" * 64, gate, NOW)
    (tmp_path / "data.bin").write_bytes(bytes(range(256)) * 4)
    odd = admit_artifact(tmp_path / "data.bin", gate, NOW)
    with pytest.raises(PedigreeError, match="holds no pickled checkpoint"):
        convert_artifact(odd.digest, gate, NOW)


def test_a_waiver_of_a_conversion_expires_and_covers_what_its_reviewer_saw(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path / "model.pt")
    original = admit_artifact(tmp_path / "model.pt", gate, NOW)
    # A checker's key is not enough, and what was admitted needs none.
    decision, _ = find_decision(gate.store, original.digest, gate.policy)
    assert decision is not None
    key = make_key(tmp_path / "carol.pem")
    begin, until = NOW - timedelta(days=1), NOW + timedelta(days=7)
    register_key(gate.project.trust, key.public_key(), "carol", ("checker",), begin)
    store = open_gate(gate.project).store
    with pytest.raises(PedigreeError, match="cannot sign as reviewer"):
        waive(store, CONVERSION, decision, "please", until, key, gate.policy, NOW)
    allow(gate, original.digest)
    gate = open_gate(gate.project)
    assert convert_artifact(original.digest, gate, NOW + timedelta(days=6)).admitted
    with pytest.raises(GateClosed, match=r"none that counts \(its waiver expired on"):
        convert_artifact(original.digest, gate, NOW + timedelta(days=8))
    # Judged again with the same findings, it still holds; with another one, it does not.
    admit_artifact(tmp_path / "model.pt", gate, NOW + timedelta(hours=1))
    assert convert_artifact(original.digest, gate, NOW + timedelta(hours=1)).admitted
    worse = Finding("model.pt", "second_opinion", "quarantined", "something that nobody waived")
    opinion = Opinion((worse,), {"scanner": "picklescan", "asked": 1})
    monkeypatch.setattr(gate_module, "ask_picklescan", lambda *_: opinion)
    admit_artifact(tmp_path / "model.pt", gate, NOW + timedelta(hours=2))
    with pytest.raises(GateClosed, match="by a reviewer's waiver only"):
        convert_artifact(original.digest, gate, NOW + timedelta(hours=2))


def test_a_policy_can_let_nobody_waive_a_conversion(gate: Gate, tmp_path: Path) -> None:
    checkpoint(tmp_path / "model.pt")
    original = admit_artifact(tmp_path / "model.pt", gate, NOW)
    allow(gate, original.digest)
    never = gate.policy.waivers.model_copy(update={"never": (CONVERSION,)})
    strict = gate.policy.model_copy(update={"waivers": never})
    strict_gate = replace(open_gate(gate.project), policy=strict)
    with pytest.raises(GateClosed, match="given under another policy"):
        convert_artifact(original.digest, strict_gate, NOW)
    decision, _ = find_decision(gate.store, original.digest, gate.policy)
    assert decision is not None
    key = open_signer(f"file:{gate.project.keys / 'ada.pem'}", {})
    with pytest.raises(GateClosed, match="lets nobody waive conversion"):
        waive(
            strict_gate.store, CONVERSION, decision, "please", NOW + timedelta(days=1), key, strict,
            NOW,
        )  # fmt: skip


def sharded(folder: Path, tiny_base: Path) -> dict[str, Any]:
    """Write a repository as it was before safetensors: shards, an index, and the rest."""
    import torch

    model = classifier(tiny_base, folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = [names[::2], names[1::2]]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        shard = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return state


def test_a_repository_with_pickled_shards_becomes_one_that_a_library_loads(
    gate: Gate, tmp_path: Path, tiny_base: Path
) -> None:
    import torch
    import transformers

    state = sharded(tmp_path / "old", tiny_base)
    original = admit_artifact(tmp_path / "old", gate, NOW)
    assert original.scan.outcome == "quarantined", original.scan.findings
    allow(gate, original.digest)
    converted = convert_artifact(original.digest, open_gate(gate.project), NOW)
    assert converted.admitted, converted.scan.findings
    assert converted.kept is not None
    names = {path.name for path in converted.kept.iterdir()}
    assert "model-00001-of-00002.safetensors" in names
    assert "model.safetensors.index.json" in names
    assert not [name for name in names if ".bin" in name]
    # Everything else is as it was.
    for path in (tmp_path / "old").iterdir():
        if ".bin" not in path.name:
            assert (converted.kept / path.name).read_bytes() == path.read_bytes()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        converted.kept, local_files_only=True
    )
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_folder_that_cannot_be_converted_says_why_and_nothing_is_kept(
    gate: Gate, tmp_path: Path, tiny_base: Path
) -> None:
    import torch

    def convert(folder: Path) -> None:
        original = admit_artifact(folder, open_gate(gate.project), NOW)
        assert original.scan.outcome == "quarantined", original.scan.findings
        allow(gate, original.digest)
        convert_artifact(original.digest, open_gate(gate.project), NOW)

    sharded(tmp_path / "both", tiny_base)
    taken = tmp_path / "both" / "model-00001-of-00002.safetensors"
    taken.write_bytes(safetensors_bytes())
    with pytest.raises(PedigreeError, match="which is there already: take out"):
        convert(tmp_path / "both")
    for name, message in [("state", "holds no tensors"), ("other", "restricted reader does not")]:
        sharded(tmp_path / name, tiny_base)
        extra = tmp_path / name / "optimizer.bin"
        if name == "state":
            torch.save({"lr": 0.1}, extra)
        else:
            extra.write_bytes(b"\x80\x04}\x94\x8c\x02lrG?PbM\xd2\xf1\xa9\xfcs.")
        with pytest.raises(PedigreeError, match=f"optimizer.bin was not converted.*{message}"):
            convert(tmp_path / name)
    kept = gate.project.admitted
    assert not kept.exists() or not list(kept.iterdir())


def test_an_index_names_the_shards_beside_it_in_its_own_form(
    gate: Gate, tmp_path: Path, tiny_base: Path
) -> None:
    for shard, rule in {
        "pytorch_model-00003-of-00002.bin": "tree_missing",
        "pytorch_model-00001-of-00002.safetensors": "json",
        "../pytorch_model-00001-of-00002.bin": "json",
    }.items():
        folder = tmp_path / rule / shard[-30:].replace("/", "_")
        folder.parent.mkdir(exist_ok=True)
        sharded(folder, tiny_base)
        index = folder / "pytorch_model.bin.index.json"
        values = json.loads(index.read_text())
        values["weight_map"]["classifier.bias"] = shard
        index.write_text(json.dumps(values))
        scan = admit_artifact(folder, gate, NOW).scan
        assert scan.outcome == "rejected"
        assert [one.rule for one in scan.findings if one.outcome == "rejected"] == [rule]


def test_a_malicious_pickle_never_runs_on_any_way(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pt"
    path.write_bytes(hostile(canary, 2))
    bad = admit_artifact(path, gate, NOW)
    with pytest.raises(GateClosed, match="it was rejected"):
        convert_artifact(bad.digest, gate, NOW)
    with pytest.raises(GateClosed, match="it was rejected"):
        try_artifact(bad.digest, TEXTS, gate, NOW, out=tmp_path / "out.jsonl")
    root = str(gate.project.root)
    assert main(["-C", root, "admit", str(path), "--convert", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "rejected"
    assert not canary.exists()
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_converts_by_a_reviewers_waiver(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "model.pt")
    root = str(gate.project.root)
    command = ["-C", root, "admit", str(tmp_path / "model.pt")]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "pedigree waive conversion" in said
    assert main([*command, "--json"]) == 1
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert main([*command, "--convert"]) == 1
    assert "by a reviewer's waiver only" in capsys.readouterr().err
    key = str(tmp_path / "ada.pem")
    assert main(["-C", root, "keys", "new", "reviewer", "--owner", "ada", "--out", key]) == 0
    until = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    waiving = ["-C", root, "waive", "conversion", digest[:20], "--until", until]
    assert main([*waiving, "--key", f"file:{key}", "--reason", "the only form there is"]) == 0
    assert "may be converted until" in capsys.readouterr().out
    assert main([*command, "--convert", "--json"]) == 0
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
