"""`bom.cdx.json`: a CycloneDX 1.7 ML-BOM of a model, written as JSON.

The model is the subject, its files and adapter within it; base model, snapshots, sources and the
recorded environment's distributions are its components. Digests that are no file's sha256 (of
folders and snapshots) are properties, as `hashes` would promise that a file hashes to them.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from pedigree.digests import JSON, hex_of
from pedigree.exports.facts import Facts
from pedigree.exports.licences import find_spdx
from pedigree.fetching import describe_uri

SPEC_VERSION = "1.7"
# Serial numbers are UUIDs (version 5) of the model's digest in this namespace.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:pedigree:bom:v1")

Object = dict[str, JSON]


def describe_bom(facts: Facts, now: datetime) -> Object:
    """Return the bill of materials; `now` is its timestamp."""
    record = facts.record
    distributions = [
        _distribution(name, version)
        for name, version in sorted(record.inputs.environment.distributions.items())
    ]
    data = [
        _snapshot("training", record.inputs.training.digest, record.inputs.training.rows),
        _snapshot("evaluation", record.evaluation_snapshot.digest, record.evaluation_snapshot.rows),
        *[_source(source) for source in facts.sources],
    ]
    parts: list[Object] = [_base(facts), *data, *distributions]
    refs = [cast(str, part["bom-ref"]) for part in parts]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, hex_of(facts.model) + now.isoformat())}",
        "version": 1,
        "metadata": {
            "timestamp": now.astimezone(UTC).isoformat(timespec="seconds"),
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "pedigree",
                        "version": record.inputs.code.version,
                    }
                ]
            },
            "component": _model(facts),
        },
        "components": parts,
        "dependencies": [
            {"ref": facts.model, "dependsOn": refs},
            *[{"ref": ref} for ref in refs],
        ],
    }


def _properties(values: Mapping[str, object]) -> list[JSON]:
    return [
        {"name": f"pedigree:{name}", "value": str(value)}
        for name, value in values.items()
        if value is not None
    ]


def _model(facts: Facts) -> Object:
    record = facts.record
    code = record.inputs.code
    files: list[JSON] = [
        {
            "type": "file",
            "bom-ref": f"file:{entry.path}",
            "name": entry.path,
            "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        }
        for entry in record.model_files
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": facts.model,
        "name": record.model_name,
        "version": facts.promotions[-1].version if facts.promotions else hex_of(facts.model)[:12],
        "components": files,
        "pedigree": {"ancestors": [_base(facts, ref="ancestor:")]},
        "modelCard": _card(facts),
        "properties": _properties(
            {
                "model": facts.model,
                "adapter": record.adapter_digest,
                "code:commit": code.commit,
                "code:dirty": str(code.dirty).lower(),
                "lock:sha256": record.inputs.environment.lock_sha256,
                "training:statement": facts.answers.answers[4]["attestation"],
                "environments": ", ".join(one.environment for one in facts.promotions) or "none",
            }
        ),
    }


def _card(facts: Facts) -> Object:
    labels = ", ".join(facts.record.inputs.labels)
    card: Object = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-classification",
            "datasets": [
                {"ref": facts.record.inputs.training.digest},
                {"ref": facts.record.evaluation_snapshot.digest},
            ],
            "inputs": [{"format": "string"}],
            "outputs": [{"format": f"one of: {labels}"}],
        },
        "properties": _properties(
            {
                f"parameter:{name}": value
                for name, value in facts.record.inputs.params.model_dump(mode="json").items()
            }
        ),
    }
    if facts.evaluation is not None:
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {
                    "type": "accuracy",
                    "value": str(facts.evaluation.predicate["accuracy"]),
                    "slice": f"evaluation snapshot {facts.record.evaluation_snapshot.digest}",
                }
            ]
        }
    return card


def _base(facts: Facts, ref: str = "") -> Object:
    base = facts.record.inputs.base
    # Trained from scratch, only the tokenizer is the base's.
    scratch = facts.record.inputs.params.method == "scratch"
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{ref}{base.digest}",
        "name": base.id,
        "publisher": base.publisher,
        "description": "Its tokenizer was used." if scratch else "Its weights were fine-tuned.",
        "licenses": _licences(base.licence),
        "properties": _properties(
            {
                "digest": base.digest,
                "uri": describe_uri(base.uri),
                "uri:sha256": base.uri_sha256,
            }
        ),
    }


def _licences(declared: str) -> list[JSON]:
    # As a name, where it is no identifier of SPDX.
    spdx = find_spdx(declared)
    return [{"license": {"id": spdx} if spdx else {"name": declared}}]


def _snapshot(zone: str, digest: str, rows: int) -> Object:
    return {
        "type": "data",
        "bom-ref": digest,
        "name": f"{zone} snapshot",
        "version": hex_of(digest)[:12],
        "data": [
            {"type": "dataset", "name": f"{zone} snapshot", "description": f"{rows} rows, frozen"}
        ],
        "properties": _properties({"digest": digest, "rows": rows, "zone": zone}),
    }


def _source(source: Mapping[str, Any]) -> Object:
    # A source may stand in a snapshot with several labelling batches.
    batch, guideline = source["label_batch"], source["guideline_version"]
    return {
        "type": "data",
        "bom-ref": f"source:{source['source']}:{batch}:{guideline}",
        "name": str(source["source"]),
        "data": [{"type": "dataset", "name": str(source["source"])}],
        "licenses": _licences(str(source["licence"])),
        "properties": _properties(
            {
                "uri": source["uri"],
                "sha256": source["sha256"],
                "collector": source["collector"],
                "kind": source["kind"],
                "label_batch": batch,
                "guideline_version": guideline,
                "annotators": source["annotators"],
                "rows": source["rows"],
            }
        ),
    }


def _distribution(name: str, version: str) -> Object:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "scope": "required",
    }
