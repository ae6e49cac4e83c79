"""The bill of materials, the Croissant description and the card, from a project's evidence."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from pedigree.evidence.store import open_store
from pedigree.exports.bom import describe_bom
from pedigree.exports.card import write_card
from pedigree.exports.croissant import describe_snapshot, read_parts
from pedigree.exports.facts import Facts, collect_facts
from pedigree.project import Project
from pedigree.registry import find_promoted

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# Of the CycloneDX 1.7 schema the parts that an export uses, strict: no property but the standard's.
_TEXT = {"type": "string"}
_REF = {"type": "string", "minLength": 1}
_PROPERTIES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": _TEXT, "value": _TEXT},
        "additionalProperties": False,
    },
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _array(items: Any, unique: bool = False) -> dict[str, Any]:
    return {"type": "array", "items": items, **({"uniqueItems": True} if unique else {})}


_CARD = _object(
    modelParameters=_object(
        approach=_object(
            type={
                "enum": [
                    "supervised",
                    "unsupervised",
                    "reinforcement-learning",
                    "semi-supervised",
                    "self-supervised",
                ]
            }
        ),
        task=_TEXT,
        datasets=_array(_object(ref=_REF)),
        inputs=_array(_object(format=_TEXT)),
        outputs=_array(_object(format=_TEXT)),
    ),
    quantitativeAnalysis=_object(
        performanceMetrics=_array(_object(type=_TEXT, value=_TEXT, slice=_TEXT))
    ),
    properties=_PROPERTIES,
)
_COMPONENT = _object(
    ("type", "name"),
    **{"bom-ref": _REF},
    type={"enum": ["application", "library", "file", "machine-learning-model", "data"]},
    name=_TEXT,
    version={"type": "string", "maxLength": 1024},
    description=_TEXT,
    publisher=_TEXT,
    purl=_TEXT,
    scope={"enum": ["required", "optional", "excluded"]},
    hashes=_array(
        _object(
            ("alg", "content"),
            alg={"enum": ["SHA-256"]},
            content={"type": "string", "pattern": "^[a-f0-9]{64}$"},
        )
    ),
    licenses=_array(_object(("license",), license=_object((), name=_TEXT, id=_TEXT))),
    components=_array({"$ref": "#/$defs/component"}, unique=True),
    pedigree=_object(ancestors=_array({"$ref": "#/$defs/component"})),
    data=_array(_object(("type",), type={"const": "dataset"}, name=_TEXT, description=_TEXT)),
    modelCard=_CARD,
    properties=_PROPERTIES,
)
_BOM = {
    **_object(
        ("bomFormat", "specVersion"),
        **{"$schema": {"const": "http://cyclonedx.org/schema/bom-1.7.schema.json"}},
        bomFormat={"const": "CycloneDX"},
        specVersion={"const": "1.7"},
        serialNumber={
            "type": "string",
            "pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        },
        version={"type": "integer", "minimum": 1},
        metadata=_object(
            timestamp={"type": "string", "format": "date-time"},
            tools=_object(components=_array({"$ref": "#/$defs/component"}, unique=True)),
            component={"$ref": "#/$defs/component"},
        ),
        components=_array({"$ref": "#/$defs/component"}, unique=True),
        dependencies=_array(
            _object(("ref",), ref=_REF, dependsOn=_array(_REF, unique=True)), unique=True
        ),
    ),
    "$defs": {"component": _COMPONENT},
}


@pytest.fixture(scope="module")
def facts(trained: Project) -> Facts:
    store = open_store(trained, trained.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return collect_facts(store, promoted.model)


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["bom-ref"]] if "bom-ref" in value else []
        return own + [ref for item in value.values() for ref in _refs(item)]
    return [ref for item in value for ref in _refs(item)] if isinstance(value, list) else []


def _strange(facts: Facts, **changes: str) -> Facts:
    """Return the facts with sources that are named, licensed and collected as `changes` say."""
    answers = [dict(answer) for answer in facts.answers.answers]
    training: Any = answers[2]["training"]
    sources = [{**source, **changes} for source in training["sources"][:1]]
    answers[2]["training"] = {**training, "sources": sources}
    return dataclasses.replace(facts, answers=dataclasses.replace(facts.answers, answers=answers))


def test_the_bill_of_materials_keeps_to_the_schema(facts: Facts) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    bom = describe_bom(facts, NOW)
    validator = jsonschema.Draft202012Validator(_BOM)
    assert [error.message for error in validator.iter_errors(json.loads(json.dumps(bom)))] == []
    refs = _refs(bom)
    assert len(refs) == len(set(refs))
    dependencies: Any = bom["dependencies"]
    for one in dependencies:
        assert {one["ref"], *one.get("dependsOn", [])} <= set(refs)
    card: Any = bom["metadata"]
    for dataset in card["component"]["modelCard"]["modelParameters"]["datasets"]:
        assert dataset["ref"] in refs
    assert bom["serialNumber"] == describe_bom(facts, NOW)["serialNumber"]


def test_a_model_that_was_neither_evaluated_nor_promoted_says_so(facts: Facts) -> None:
    bare = dataclasses.replace(facts, evaluation=None, promotions=())
    model: Any = describe_bom(bare, NOW)["metadata"]
    assert "quantitativeAnalysis" not in model["component"]["modelCard"]
    card = write_card(bare)
    assert "Accuracy is not recorded" in card
    assert "Promoted to no environment" in card
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])


def test_markup_in_names_stays_text(facts: Facts) -> None:
    evil = "x | y\n---\n<script>alert(1)</script> [a](http://b) `c`"
    text = write_card(_strange(facts, licence=evil, guideline_version=evil))
    head, body = text.split("---\n", 2)[1:]
    assert "<script>" not in body
    assert "\n---\n" not in body
    assert "](" not in body.replace("\\](", "")
    row = next(line for line in body.splitlines() if "script" in line)
    assert row.replace("\\|", "").count("|") == 8
    assert yaml.safe_load(head)


def test_a_snapshot_of_one_or_many_licences(facts: Facts, trained: Project) -> None:
    parts = read_parts(trained.snapshots("training"), facts)
    said = describe_snapshot(_strange(facts, licence="mit"), parts, NOW)
    assert said["license"] == ["https://spdx.org/licenses/MIT.html"]
    named = describe_snapshot(_strange(facts, licence="ask the publisher"), parts, NOW)
    assert named["license"] == ["ask the publisher"]
    ids = [one["@id"] for one in said["distribution"]]  # type: ignore[index,union-attr]
    assert ids == ["part-00000.parquet"]
    fields: Any = said["recordSet"][0]["field"]  # type: ignore[index]
    kinds = {field["name"]: (field["dataType"], field.get("isArray", False)) for field in fields}
    assert kinds["text"] == ("sc:Text", False)
    assert kinds["ratings"] == ("sc:Integer", True)
    context: Any = said["@context"]
    used = {key for key in _keys(said) if not key.startswith("@")} - {"@context"}
    schema_org = {
        "name", "description", "url", "license", "creator", "isBasedOn", "distribution",
        "contentUrl", "contentSize", "encodingFormat", "sha256", "datePublished", "version",
        "identifier",
    }  # fmt: skip
    responsible = {key for key in used if key.startswith("rai:")}
    assert used - schema_org - responsible <= set(context)


def test_responsible_fields_are_evidence_or_admit_that_there_is_none(
    facts: Facts, trained: Project
) -> None:
    said: Any = describe_snapshot(facts, read_parts(trained.snapshots("training"), facts), NOW)
    assert "forum: 128 rows of kind curated, collected by tests" in said["rai:dataCollection"]
    assert said["rai:dataCollectionMissingData"] == "0 of 320 rows were dropped in curation."
    assert said["rai:dataAnnotationProtocol"][0].startswith("forum: labelling batch batch-1")
    assert said["rai:dataAnnotationAnalysis"][0].startswith(
        "near_duplicate_label_conflicts: PASSED"
    )
    for field in ("rai:dataBiases", "rai:dataLimitations", "rai:annotatorDemographics"):
        assert said[field][0].startswith("Not recorded: ")


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        inner = [_keys(item) for key, item in value.items() if key != "@context"]
        return set(value) - {"@context"} | {key for keys in inner for key in keys}
    return {key for item in value for key in _keys(item)} if isinstance(value, list) else set()


def test_every_claim_is_about_something_on_the_way(facts: Facts) -> None:
    kinds = [claim.kind for claim in facts.claims]
    assert kinds[0] == "training"
    assert kinds.count("snapshot") == 2
    assert kinds.count("source") >= 2
    assert {"evaluation", "promotion", "verdict", "curation", "base-model"} <= set(kinds)
    assert len({claim.digest for claim in facts.claims}) == len(facts.claims)
