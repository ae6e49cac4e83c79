"""`card.md`: a model card with Hugging Face metadata, from signed statements alone.

What no statement says is not made up: the card says that it is not recorded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pedigree.digests import hex_of
from pedigree.exports.facts import Facts


def write_card(facts: Facts) -> str:
    """Return the card: YAML metadata between two lines ``---``, then Markdown."""
    parts = (_uses(), _made_of(facts), _data(facts), _results(facts), _release(facts), _verify())
    metadata = yaml.safe_dump(_metadata(facts), sort_keys=True, allow_unicode=True)
    title = f"# {escape_text(facts.record.model_name)}\n\nModel `{facts.model}`.\n"
    return "\n".join([f"---\n{metadata}---\n", title, *parts])


def _metadata(facts: Facts) -> dict[str, Any]:
    record = facts.record
    said: dict[str, Any] = {
        "pipeline_tag": "text-classification",
        "library_name": "transformers",
        "tags": ["pedigree"],
        "license": "unknown",  # the Hub's word: no statement says how the model is licensed
        "datasets": sorted({str(one["source"]) for one in facts.sources}),
    }
    if record.inputs.params.method != "scratch":
        said["base_model"] = record.inputs.base.id
    if facts.evaluation is not None:
        result = {
            "task": {"type": "text-classification"},
            "dataset": {
                "name": "evaluation snapshot",
                # The Hub takes no colon here; the digest is what tells which data it was.
                "type": "evaluation_snapshot",
                "revision": hex_of(record.evaluation_snapshot.digest),
            },
            "metrics": [{"type": "accuracy", "value": facts.evaluation.predicate["accuracy"]}],
        }
        said["model-index"] = [{"name": record.model_name, "results": [result]}]
    return said


def escape_text(value: object) -> str:
    """Return `value` on one line, with what Markdown and HTML would read as markup escaped."""
    line = " ".join(str(value).split())
    return "".join(f"\\{char}" if char in "\\|<>[]`*_#" else char for char in line)


def format_table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table whose cells are plain text."""
    lines = [
        heading,
        ["---"] * len(heading),
        *[[escape_text(cell) for cell in row] for row in rows],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _uses() -> str:
    return (
        "## Intended use and limits\n\nNot recorded: no signed statement says for which uses the "
        "model is meant, or what its limits, risks and biases are.\n"
    )


def _made_of(facts: Facts) -> str:
    base, params = facts.base, facts.record.inputs.params
    code = facts.record.inputs.code
    rows: list[tuple[str, object]] = [
        ("base model", f"{base['base']} ({base['digest']})"),
        ("weights from", base.get("from", "none: trained from scratch")),
        ("licence of the base", base.get("licence", facts.record.inputs.base.licence)),
        ("licence of this model", "not recorded"),
        ("method", params.method),
        ("adapter", facts.record.adapter_digest or "none"),
        ("labels", ", ".join(facts.record.inputs.labels)),
        ("epochs, seed, mode", f"{params.epochs}, {params.seed}, {params.mode}"),
        ("code", f"commit {code.commit}" + (", with uncommitted changes" if code.dirty else "")),
        ("trained on", f"{facts.record.started_on} to {facts.record.finished_on}"),
    ]
    return "## What it is made of\n\n" + format_table(("what", "value"), rows)


def _data(facts: Facts) -> str:
    heading = ("source", "rows", "labelling batch", "guideline", "annotators", "licence", "sha256")
    keys = (
        "source",
        "rows",
        "label_batch",
        "guideline_version",
        "annotators",
        "licence",
        "sha256",
    )
    rows = [[source[key] for key in keys] for source in facts.sources]
    return (
        f"## Training data\n\n{facts.record.inputs.training.rows} rows, snapshot "
        f"`{facts.record.inputs.training.digest}`.\n\n{format_table(heading, rows)}"
    )


def _results(facts: Facts) -> str:
    if facts.evaluation is None:
        accuracy = "Accuracy is not recorded: the model was never evaluated.\n"
    else:
        measured: Mapping[str, Any] = facts.evaluation.predicate["evaluation"]
        accuracy = (
            f"Accuracy {facts.evaluation.predicate['accuracy']} on {measured['rows']} rows, "
            f"snapshot `{facts.record.evaluation_snapshot.digest}`.\n"
        )
    rows = [(one["result"], one["check"], one["on"], one["summary"]) for one in facts.verdicts]
    checks = format_table(("verdict", "check", "on", "summary"), rows)
    return f"## Evaluation and checks\n\n{accuracy}\n{checks}"


def _release(facts: Facts) -> str:
    if not facts.promotions:
        return "## Release\n\nPromoted to no environment.\n"
    rows = [
        (one.environment, f"{one.name}:{one.version}", one.promoted_on, ", ".join(one.approvals))
        for one in facts.promotions
    ]
    marked = [(*row[:3], row[3] or "no one: the policy demanded no approval") for row in rows]
    return "## Release\n\n" + format_table(
        ("environment", "version", "since", "approved by"), marked
    )


def _verify() -> str:
    return (
        "## Verify\n\n`sh verify.sh KEY.pem [MODEL_FOLDER]` with the public key that you trust, "
        "from anywhere but this folder. Every fact above is in a signed statement in "
        "`claims.jsonl`.\n"
    )
