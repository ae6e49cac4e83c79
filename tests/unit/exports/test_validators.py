"""What others wrote to read such files accepts ours: the export of a really trained project.

Nothing here reaches the network. Tools that run in this process or in Python are kept from it by
replacing `socket.connect`; the others (openssl) have no use for it.
"""

import base64
import copy
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub
import mlcroissant
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
from in_toto_attestation.predicates.vsa.v1.vsa_pb2 import VerificationSummary
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor_pb2 import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

from pedigree.evidence.signing import PUBLIC_KEY
from pedigree.evidence.store import open_store
from pedigree.exports import licences
from pedigree.exports.bundle import export_model
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.training.record import TrainingRecord, read_record

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# Begins a process that cannot connect to anything.
OFFLINE = """
import socket

def refuse(*_, **__):
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def project(trained: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy: the first export makes a key for model signatures."""
    root = tmp_path_factory.mktemp("validated") / "project"
    shutil.copytree(trained.root, root, symlinks=True)
    return Project(root, trained.downloads)


@pytest.fixture(scope="module")
def record(project: Project) -> TrainingRecord:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return read_record(find_training(store, promoted.model))


@pytest.fixture(scope="module")
def export(project: Project, record: TrainingRecord) -> Path:
    return export_model(project, record.model_digest, project.root.parent / "export", NOW).folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def _run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line `main` of a module, offline."""
    return subprocess.run(
        [sys.executable, "-c", f"{OFFLINE}\nfrom {module} import main; raise SystemExit(main())"]
        + [str(one) for one in arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def _claims(export: Path) -> list[dict[str, Any]]:
    """Return the envelopes of claims.jsonl."""
    return [json.loads(line) for line in (export / "claims.jsonl").read_bytes().splitlines()]


def _payload(envelope: dict[str, Any]) -> bytes:
    return base64.b64decode(envelope["payload"])


def test_nothing_here_can_reach_the_network() -> None:
    fetch = f"{OFFLINE}\nimport urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run(
        [sys.executable, "-c", fetch], capture_output=True, text=True, check=False
    )
    assert "no network in this test" in done.stderr
    with pytest.raises(OSError, match="no network in this test"):
        urllib.request.urlopen("http://127.0.0.1:9/")


def test_openssl_verifies_every_statement(export: Path, project: Project, tmp_path: Path) -> None:
    claims, key = _claims(export), str(project.keys / PUBLIC_KEY)
    assert len(claims) > 10
    for envelope in claims:
        payload, kind = _payload(envelope), envelope["payloadType"]
        message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        (tmp_path / "signature").write_bytes(signature)
        for data, holds in ((message, True), (message[:-1] + b"!", False)):
            (tmp_path / "message").write_bytes(data)
            done = subprocess.run(
                ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", key,
                 "-in", "message", "-sigfile", "signature"],
                cwd=tmp_path, capture_output=True, check=False,
            )  # fmt: skip
            assert (done.returncode == 0) is holds


def test_model_signing_accepts_the_model_and_no_other(
    export: Path, project: Project, record: TrainingRecord, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(project.root / record.location, model)

    def verify() -> subprocess.CompletedProcess[str]:
        return _run(
            "model_signing._cli", "verify", "key", model, "--signature", export / "model.sig",
            "--public_key", export / "model-signing.pub.pem",
        )  # fmt: skip

    done = verify()
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout
    weights = model / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify().returncode != 0
    weights.write_bytes(data)
    (model / "more.json").write_bytes(b"{}")
    assert verify().returncode != 0


def test_cyclonedx_accepts_the_bill_of_materials(export: Path) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_7)
    bom = json.loads((export / "bom.cdx.json").read_bytes())
    assert validator.validate_str((export / "bom.cdx.json").read_text()) is None
    licensed = [one["licenses"][0]["license"] for one in bom["components"] if "licenses" in one]
    assert {"id": "CC0-1.0"} in licensed
    bom["metadata"]["component"]["modelCard"]["invented"] = 1
    assert validator.validate_str(json.dumps(bom)) is not None


def test_every_licence_that_is_known_is_on_the_spdx_list() -> None:
    import cyclonedx.schema

    resources = Path(str(cyclonedx.schema.__file__)).parent / "_res"
    listed = json.loads((resources / "spdx.SNAPSHOT.schema.json").read_bytes())["enum"]
    known = [licences.find_spdx(name) for name in listed]
    assert len([one for one in known if one]) > 50
    for name, found in zip(listed, known, strict=True):
        assert found in (None, name)
        if found:
            assert licences.find_spdx(f" {name.upper()} ") == name
    assert licences.find_spdx("ask the publisher") is None
    address = licences.licence_address("apache-2.0")
    assert address == "https://spdx.org/licenses/Apache-2.0.html"


@pytest.fixture
def absl_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """What mlcroissant warns of through absl's logger."""
    logger = logging.getLogger("absl")
    logger.addHandler(caplog.handler)
    yield caplog.records
    logger.removeHandler(caplog.handler)


def test_mlcroissant_accepts_the_description_and_reads_the_rows(
    export: Path, project: Project, record: TrainingRecord, tmp_path: Path,
    absl_warnings: list[logging.LogRecord],
) -> None:  # fmt: skip
    done = _run("mlcroissant.scripts.cli", "validate", "--jsonld", export / "croissant.json")
    assert done.returncode == 0, done.stderr
    assert "Done." in done.stderr
    assert "WARNING" not in done.stderr
    assert "warning(s)" not in done.stderr

    snapshot = open_snapshot(record.inputs.training.digest, project.snapshots("training"))
    shutil.copytree(snapshot.path, tmp_path / "there")
    path = shutil.copy(export / "croissant.json", tmp_path / "there")
    dataset = mlcroissant.Dataset(path)
    metadata: Any = dataset.metadata
    assert metadata.ctx.is_v1_1()
    assert metadata.conforms_to == [
        "http://mlcommons.org/croissant/1.1",
        "http://mlcommons.org/croissant/RAI/1.0",
    ]
    assert metadata.license == ["https://spdx.org/licenses/CC0-1.0.html"]
    assert metadata.data_collection
    assert "forum" in metadata.data_collection
    assert len(metadata.data_preprocessing_protocol) == 2
    assert metadata.personal_sensitive_information
    assert not absl_warnings
    rows = [
        {name.removeprefix("rows-00000/"): value for name, value in row.items()}
        for row in dataset.records("rows-00000")
    ]
    texts = {row["row_id"].decode(): row["text"].decode() for row in rows}
    wanted = snapshot.read().select(["row_id", "text"]).to_pylist()
    assert texts == {row["row_id"]: row["text"] for row in wanted}

    said = json.loads(Path(path).read_bytes())
    del said["name"], said["recordSet"][0]["field"][0]["dataType"]
    (tmp_path / "bad.json").write_text(json.dumps(said))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(str(tmp_path / "bad.json"))


# Fields of ours beside the standard's. Consumers ignore what they do not know (in-toto's parsing
# rules, SLSA's "extension fields"); nothing else may be in a statement of a standard's type.
EXTENSIONS = {
    "https://slsa.dev/provenance/v1": set[str](),
    "https://slsa.dev/verification_summary/v1": {
        "approvals", "approvalsDemanded", "carries", "developmentKeys", "modelVersion", "trust",
        "waivers",
    },
    "https://in-toto.io/attestation/test-result/v0.1": {
        "applicable", "checkedOn", "counts", "summary",
    },
}  # fmt: skip
PROTOBUFS: dict[str, Any] = {
    "https://slsa.dev/provenance/v1": Provenance,
    "https://slsa.dev/verification_summary/v1": VerificationSummary,
    "https://in-toto.io/attestation/test-result/v0.1": TestResult,
}


def test_the_in_toto_protobufs_accept_every_statement(export: Path) -> None:
    seen: set[str] = set()
    for envelope in _claims(export):
        content = json.loads(_payload(envelope))
        empty: Any = statement_pb2
        parsed = json_format.ParseDict(content, empty.Statement())
        Statement.copy_from_pb(parsed).validate()
        assert parsed.subject[0].digest["sha256"] == content["subject"][0]["digest"]["sha256"]
        kind = content["predicateType"]
        if kind not in PROTOBUFS:
            assert kind.startswith("urn:pedigree:predicate:")
            continue
        seen.add(kind)
        said = copy.deepcopy(content["predicate"])
        for name in EXTENSIONS[kind]:
            said.pop(name, None)
        if kind == "https://slsa.dev/verification_summary/v1":
            # The specification has a list here; the package's protobuf (0.9.3) has one string.
            (said["verifiedLevels"],) = said["verifiedLevels"]
            # They are ResourceDescriptors by the specification; there the name has no field.
            for one in said["inputAttestations"]:
                json_format.ParseDict(one, ResourceDescriptor())
                del one["name"]
        message = json_format.ParseDict(said, PROTOBUFS[kind](), ignore_unknown_fields=False)
        assert message.ByteSize() > 0
    assert seen == set(PROTOBUFS)


def test_the_hub_library_accepts_the_card(export: Path, record: TrainingRecord) -> None:
    """The Hub's own validator is a web service; the library's types are what works offline."""
    text = (export / "card.md").read_text()
    card: Any = huggingface_hub.ModelCard(text, ignore_metadata_errors=False)
    written = yaml.safe_load(text.split("---\n")[1])
    assert yaml.safe_load(card.data.to_yaml()) == written
    (result,) = card.data.eval_results
    assert card.data.model_name == record.model_name
    assert (result.task_type, result.metric_type) == ("text-classification", "accuracy")
    assert result.dataset_revision == record.evaluation_snapshot.digest.removeprefix("sha256:")
    # What that service asks of names (https://huggingface.co/docs/hub/model-cards): no colon, say.
    for name in (result.dataset_type, card.data.base_model, *card.data.datasets):
        huggingface_hub.utils.validate_repo_id(name)
    assert card.data.license == "unknown"
    broken = text.replace("metrics:", "figures:", 1)
    with pytest.raises(ValueError, match="model_index"):
        huggingface_hub.ModelCard(broken, ignore_metadata_errors=False)


def test_what_is_listed_of_the_model_is_what_sha256sum_says(
    export: Path, project: Project, record: TrainingRecord
) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", str(export / "model.sha256")],
        cwd=project.root / record.location, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(record.model_files)
    digest = hashlib.sha256((export / "model.sha256").read_bytes()).hexdigest()
    assert digest in (export / "export.message").read_text()
