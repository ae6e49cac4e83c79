"""The schemas of statements: one a kind, and every statement that is written keeps to its own."""

import base64
import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pedigree.errors import PedigreeError
from pedigree.evidence.schemas import list_kinds, read_schema
from pedigree.evidence.store import PREDICATES
from pedigree.project import Project

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat()
HEX = "ab" * 32
DIGEST = {"sha256": HEX}
SUMMARY = {
    "verifier": {"id": "urn:pedigree:verifier:local:v1"},
    "timeVerified": NOW,
    "resourceUri": "urn:pedigree:environment:production",
    "policy": {"uri": "policy.yaml", "digest": DIGEST},
    "slsaVersion": "1.0",
    "inputAttestations": [],
}
# Kinds that the trained project has no statement of, as docs/evidence.md describes them.
WRITTEN_BY_HAND: dict[str, dict[str, Any]] = {
    "approval": {
        "environment": "production", "tenant": None, "reason": "read the findings",
        "policy": DIGEST, "approvedOn": NOW, "expiresOn": None,
    },
    "allowed-source": {
        "id": "chats", "kind": "log", "pin": DIGEST, "reason": "users agreed", "approvedOn": NOW,
    },
    "waiver": {
        "check": "label_issues", "verdict": DIGEST, "policy": DIGEST, "reason": "looked at",
        "grantedOn": NOW, "expiresOn": NOW,
    },
    "revocation": {"reason": "poisoned", "revokedOn": NOW},
    "vulnerabilities": {
        "tool": "pip-audit", "report": DIGEST, "scannedOn": NOW, "recordedOn": NOW,
        "coverage": "stated",
        "found": [{"id": "CVE-1", "package": "a", "version": "1", "severity": "unknown"}],
    },
    "neighbour-index": {"kernel": DIGEST, "manifest": DIGEST, "rows": 10, "documents": 9},
    "rebuild": {
        "verdict": "within tolerance", "promise": "bit-identical", "rebuilt": DIGEST,
        "rebuiltFiles": [{"path": "model.safetensors", "size": 1, "sha256": HEX}],
        "differences": ["threads: 2, now 1"], "accuracy": [0.8, 0.81], "accuracyTolerance": 0.01,
        "commit": None, "environment": "this one", "hardware": {"threads": 1},
        "recordWasSigned": True, "rebuiltOn": NOW,
    },
    "adapter": {
        "id": "support", "scope": "tickets", "publisher": "us", "training": "on tickets",
        "licence": "MIT", "base": DIGEST, "rank": 4, "targetModules": ["query"],
        "modulesToSave": [], "tensors": 4, "received": DIGEST, "admission": DIGEST,
        "registeredOn": NOW,
    },
    "merge": {
        "buildDefinition": {
            "buildType": "urn:pedigree:build:merge:v1",
            "externalParameters": {
                "repository": None, "ref": None, "name": "merged", "base": f"sha256:{'b' * 64}",
                "adapters": [{"name": "a", "digest": f"sha256:{'a' * 64}", "weight": 0.5}],
                "method": "linear", "dtype": "float32",
            },
            "internalParameters": {
                "model_files": [{"path": "model.safetensors", "size": 3, "sha256": "c" * 64}],
                "code": {
                    "repository": None, "commit": None, "dirty": True, "changed_files": [],
                    "diff_sha256": None, "files_digest": f"sha256:{'d' * 64}", "version": "0.1.0",
                },
            },
            "resolvedDependencies": [{"name": "base_model", "digest": {"sha256": "b" * 64}}],
        },
        "runDetails": {
            "builder": {"id": "urn:pedigree:builder:local:v1", "version": {"pedigree": "0.1.0"}},
            "metadata": {"invocationId": "a", "startedOn": NOW, "finishedOn": NOW},
        },
    },
    "trial": {
        "unverified": True, "model": DIGEST, "rows": 3, "isolation": {"level": "landlock"},
        "triedOn": NOW,
    },
    "refusal": {**SUMMARY, "verificationResult": "FAILED", "reasons": ["weights are missing"]},
}  # fmt: skip


def _validator(kind: str) -> Any:
    return Draft202012Validator(read_schema(kind))


def _statement(kind: str, predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a", "digest": dict(DIGEST)}],
        "predicateType": PREDICATES[kind],
        "predicate": copy.deepcopy(predicate),
    }


def _written(project: Project) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and content of every statement of a project."""
    for path in sorted(project.evidence.glob("*/*.dsse.json")):
        payload = json.loads(path.read_bytes())["payload"]
        yield path.name.rpartition("-")[0], json.loads(base64.b64decode(payload))


@pytest.fixture(scope="module")
def examples(trained: Project) -> dict[str, dict[str, Any]]:
    """One statement of each kind; of an admission the decision."""
    found = {kind: _statement(kind, said) for kind, said in WRITTEN_BY_HAND.items()}
    for kind, content in _written(trained):
        if content["predicate"].get("state", "admitted") == "admitted":
            found[kind] = content
    return found


def test_every_kind_has_a_valid_schema_and_no_other_has() -> None:
    assert list_kinds() == sorted(PREDICATES)
    for kind, predicate_type in PREDICATES.items():
        schema = read_schema(kind)
        Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["properties"]["predicateType"] == {"const": predicate_type}
        own = predicate_type.startswith("urn:pedigree:")
        closed = schema["properties"]["predicate"].get("additionalProperties") is False
        assert closed is own, kind
        assert schema["additionalProperties"] is False
    with pytest.raises(PedigreeError, match="known are adapter"):
        read_schema("../store")


def test_every_statement_of_a_trained_project_keeps_to_its_schema(trained: Project) -> None:
    kinds = set()
    for kind, content in _written(trained):
        errors = [f"{e.json_path}: {e.message}" for e in _validator(kind).iter_errors(content)]
        assert errors == [], kind
        kinds.add(kind)
    assert kinds | set(WRITTEN_BY_HAND) == set(PREDICATES)


@pytest.mark.parametrize("kind", sorted(PREDICATES))
def test_a_changed_statement_is_refused(kind: str, examples: dict[str, dict[str, Any]]) -> None:
    validator, whole = _validator(kind), examples[kind]
    validator.validate(whole)

    def refused(change: Any) -> bool:
        content = copy.deepcopy(whole)
        change(content)
        return not validator.is_valid(content)

    wrong: dict[type, Any] = {str: 7, bool: "yes", int: [], float: "1", list: {}, dict: "x"}
    required = read_schema(kind)["properties"]["predicate"]["required"]
    for name, value in whole["predicate"].items():
        other = wrong.get(type(value), 7)
        assert refused(lambda c, n=name, o=other: c["predicate"].update({n: o})), name
        if name in required:
            assert refused(lambda c, n=name: c["predicate"].pop(n)), name
    assert refused(lambda c: c.update(extra=1))
    assert refused(lambda c: c.update(subject=[]))
    assert refused(lambda c: c["subject"][0]["digest"].update(sha256=HEX.upper()))
    assert refused(lambda c: c.update(predicateType="urn:pedigree:predicate:other:v1"))
    assert refused(lambda c: c.update(_type="https://in-toto.io/Statement/v0.1"))
    extra = refused(lambda c: c["predicate"].update(extra=1))
    assert extra is PREDICATES[kind].startswith("urn:pedigree:")


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("snapshot", ("merkleRoot",), "ab"),
        ("snapshot", ("rows",), 0),
        ("snapshot", ("dvc", "extra"), 1),
        ("evaluation", ("accuracy",), 1.5),
        ("evaluation", ("evaluation", "by_label", "positive"), [1]),
        ("curation", ("funnel", 0), ["read", "many"]),
        ("source", ("kind",), "anything"),
        ("source", ("fetchedOn",), "yesterday"),
        ("training", ("buildDefinition", "internalParameters", "extra"), 1),
        ("training", ("buildDefinition", "internalParameters", "inputs", "base", "digest"), HEX),
        ("promotion", ("verificationResult",), "FAILED"),
        ("promotion", ("inputAttestations", 0, "digest"), {}),
        ("verdict", ("result",), "GOOD"),
        ("rebuild", ("verdict",), "reproducible"),
        ("trial", ("unverified",), False),
        ("admission", ("state",), "pinned"),
        ("admission", ("tools", "gate-code"), HEX),
    ],
)
def test_what_lies_deeper_is_looked_at_too(
    kind: str, path: tuple[str | int, ...], value: Any, examples: dict[str, dict[str, Any]]
) -> None:
    content = copy.deepcopy(examples[kind])
    place: Any = content["predicate"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        _validator(kind).validate(content)


@pytest.mark.slow
def test_the_wheel_has_the_schemas(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named 'hatchling'" in done.stderr:
        pytest.skip("hatchling is not installed here")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"pedigree/evidence/schemas/{kind}.json" for kind in PREDICATES} <= set(names)
