"""The Croissant RAI 1.0 fields (https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html).

Each is filled from a signed statement, or says "Not recorded" and what would have to be recorded:
a field that is left out would look like one that nobody thought of.
"""

from collections.abc import Iterable
from typing import Any, cast

from pedigree.digests import JSON
from pedigree.exports.facts import Facts

CONFORMS_TO = "http://mlcommons.org/croissant/RAI/1.0"

# Which check's verdict speaks to which field.
_ANNOTATION_CHECKS = (
    "label_issues", "flattering_rows", "near_duplicate_label_conflicts", "annotator_manipulation",
)  # fmt: skip
_PERSONAL_CHECKS = ("secrets",)


def describe_responsibly(facts: Facts) -> dict[str, JSON]:
    """Return the RAI fields of the training snapshot, by their name with prefix."""
    sources = facts.sources
    return {
        "rai:dataCollection": _sentences(
            f"{one['source']}: {one['rows']} rows of kind {one['kind']}, collected by "
            f"{one['collector']}, fetched on {one['fetchedOn']}"
            for one in sources
        ),
        "rai:dataCollectionMissingData": _describe_dropped(facts),
        "rai:dataCollectionRawData": _sentences(
            f"{one['source']}: sha256 {one['sha256']}" for one in sources
        ),
        "rai:dataPreprocessingProtocol": _list_preprocessing(facts),
        "rai:dataAnnotationProtocol": [
            f"{one['source']}: labelling batch {one['label_batch']}, guideline "
            f"{one['guideline_version']}."
            for one in sources
        ],
        "rai:dataAnnotationAnalysis": _summaries(
            facts, _ANNOTATION_CHECKS, "a check of the labels, demanded by the policy"
        ),
        "rai:annotationsPerItem": _sentences(
            f"{one['source']}: annotators {one['annotators']}" for one in sources
        ),
        "rai:annotatorDemographics": [_missing("who the annotators were")],
        "rai:personalSensitiveInformation": _summaries(
            facts, _PERSONAL_CHECKS, "a check for personal data, demanded by the policy"
        ),
        "rai:dataUseCases": [
            f"Training of the model {facts.model}; validated for no other use.",
        ],
        "rai:dataBiases": [_missing("a study of the data's biases")],
        "rai:dataLimitations": [_missing("a study of the data's limits")],
        "rai:dataSocialImpact": _missing("an assessment of the data's impact on people"),
        "rai:dataReleaseMaintenancePlan": (
            "The snapshot is frozen: its digest names these rows for good. Other rows are another "
            "snapshot."
        ),
    }


def find_curation(facts: Facts) -> dict[str, Any]:
    """Return what the curation statement behind the training snapshot says."""
    curated = facts.snapshot.predicate["curated"]["sha256"]
    return next(
        claim.predicate
        for claim in facts.claims
        if claim.kind == "curation" and claim.subjects[0]["digest"]["sha256"] == curated
    )


def _sentences(parts: Iterable[str]) -> str:
    return "; ".join(parts) + "."


def _missing(what: str) -> str:
    return f"Not recorded: {what} would have to be recorded."


def _list_preprocessing(facts: Facts) -> list[JSON]:
    curation = find_curation(facts)
    limits = ", ".join(f"{name} {value}" for name, value in curation["params"].items())
    counts = ", ".join(f"{step}: {rows}" for step, rows in curation["funnel"])
    split = cast(dict[str, Any], facts.snapshot.predicate["split"])
    shares = ", ".join(f"{name} {value}" for name, value in split.items() if value is not None)
    return [
        f"Texts were brought to a canonical form and filtered ({limits}); rows left: {counts}.",
        f"Rows were split into training and evaluation by their key ({shares}); near-duplicates "
        "stay on one side.",
    ]


def _describe_dropped(facts: Facts) -> str:
    read, kept = (
        sum(int(one[key]) for one in find_curation(facts)["bySource"]) for key in ("read", "kept")
    )
    return f"{read - kept} of {read} rows were dropped in curation."


def _summaries(facts: Facts, checks: tuple[str, ...], missing: str) -> list[JSON]:
    found: list[JSON] = [
        f"{one['check']}: {one['result']}. {one['summary']}"
        for one in facts.verdicts
        if one["check"] in checks and one["on"] == "training_snapshot"
    ]
    return found or [_missing(missing)]
