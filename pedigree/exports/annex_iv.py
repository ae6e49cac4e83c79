"""Technical documentation in the order of Annex IV of Regulation (EU) 2024/1689 (Article 11(1)).

Headings paraphrase the nine points of the annex and keep its numbers and letters. Pedigree knows a
model and how it was made, not the system that it becomes part of: much of points 1, 3 and 5 to 9
can only be said by who builds that.
"""

from collections.abc import Mapping
from typing import Any, cast

from pedigree.evidence.store import Statement
from pedigree.exports.card import escape_text, format_table
from pedigree.exports.croissant_rai import find_curation
from pedigree.exports.facts import Facts
from pedigree.exports.reports import Field, Section, bullets, cite

TITLE = "Technical documentation (Annex IV of Regulation (EU) 2024/1689)"


def list_sections(facts: Facts) -> list[Section]:
    """Return the nine points."""
    return [
        Section("1. General description of the AI system", _describe_system(facts)),
        Section("2. Elements of the AI system and its development", _describe_making(facts)),
        Section("3. Monitoring, functioning and control", _describe_control(facts)),
        Section("4. Appropriateness of the performance metrics", [_metrics()]),
        Section("5. Risk management system (Article 9)", [_risks()]),
        Section("6. Changes made through the lifecycle", [_changes(facts)]),
        Section("7. Harmonised standards and other specifications applied", [_standards()]),
        Section("8. EU declaration of conformity (Article 47)", [_declaration()]),
        Section("9. Post-market monitoring (Article 72)", [_monitoring()]),
    ]


def _describe_system(facts: Facts) -> list[Field]:
    record = facts.record
    versions = [f"{one.name}:{one.version} in {one.environment}" for one in facts.promotions]
    stack = record.inputs.environment.distributions
    main = [f"{name} {stack[name]}" for name in ("torch", "transformers") if name in stack]
    identity = [
        f"name: {escape_text(record.model_name)}",
        f"digest: `{facts.model}`",
        f"versions: {escape_text(', '.join(versions) or 'none was released')}",
        f"base model: {escape_text(record.inputs.base.id)}, publisher "
        f"{escape_text(record.inputs.base.publisher)}",
    ]
    files = [f"{escape_text(one.path)}, {one.size} bytes" for one in record.model_files]
    return [
        Field(
            "1(a) Intended purpose, provider, version",
            bullets(identity),
            "the intended purpose, the name of the provider, and how this version relates to "
            "previous ones",
            cite(facts, "training", "promotion"),
        ),
        Field(
            "1(b) Interaction with hardware or software that is not part of the system",
            missing="what the model is used with, other AI systems included",
        ),
        Field(
            "1(c) Versions of relevant software, and requirements on updates",
            f"{len(stack)} Python distributions, each with its version in `bom.cdx.json`: "
            f"{escape_text(', '.join(main))} and others.",
            "requirements on updates",
            cite(facts, "training"),
        ),
        Field(
            "1(d) Forms in which it is placed on the market or put into service",
            "The model is a folder of files:\n\n" + bullets(files),
            "in which forms the system reaches its users",
            cite(facts, "training"),
        ),
        Field("1(e) Hardware on which it is intended to run", missing="the intended hardware"),
        Field(
            "1(f) Where it is a component of products: their look, marking and layout",
            missing="whether it is a component of a product, and of which",
        ),
        Field("1(g) User interface for the deployer", missing="the user interface"),
        Field("1(h) Instructions for use for the deployer", missing="instructions for use"),
    ]


def _describe_making(facts: Facts) -> list[Field]:
    return [
        _method(facts),
        _design(facts),
        _architecture(facts),
        _data(facts),
        Field(
            "2(e) Assessment of the human oversight measures (Article 14)",
            missing="which measures let people oversee the system, and their assessment",
        ),
        Field(
            "2(f) Pre-determined changes to the system and its performance",
            missing="pre-determined changes, and what keeps the system compliant through them",
        ),
        _testing(facts),
        _security(facts),
    ]


def _method(facts: Facts) -> Field:
    record, base = facts.record, facts.base
    code, scratch = record.inputs.code, record.inputs.params.method == "scratch"
    lines = [
        "trained from scratch; only the tokenizer is the base model's"
        if scratch
        else f"LoRA fine-tuning of the pre-trained model {escape_text(base['base'])} "
        f"(`{base['digest']}`), weights from {escape_text(base['from'])}, licence "
        f"{escape_text(base['licence'])}; the adapter (`{record.adapter_digest}`) was merged",
        f"code: commit {code.commit or 'not known'} of "
        f"{escape_text(code.repository or 'a repository without a remote')}",
        f"from {record.started_on} to {record.finished_on}: {record.steps} steps, {record.tokens} "
        f"tokens, final loss {record.final_loss}",
    ]
    return Field(
        "2(a) Methods and steps of development, use of pre-trained systems",
        bullets(lines),
        evidence=cite(facts, "training", "base-model"),
    )


def _design(facts: Facts) -> Field:
    inputs = facts.record.inputs
    params = inputs.params.model_dump(mode="json")
    rows = [(name, value) for name, value in sorted(params.items())]
    labels = ", ".join(inputs.labels)
    return Field(
        "2(b) Design specifications: general logic, key choices, what is optimised for",
        f"Text classification into the labels {escape_text(labels)}. Parameters:\n\n"
        + format_table(("parameter", "value"), rows),
        "the rationale and assumptions behind these choices, about whom the system is used on, and "
        "trade-offs that were made",
        cite(facts, "training"),
    )


def _architecture(facts: Facts) -> Field:
    hardware = facts.record.hardware
    rows = [(name, value) for name, value in sorted(hardware.items())]
    return Field(
        "2(c) System architecture, and computational resources of development",
        "Resources of training:\n\n" + format_table(("part", "value"), rows),
        "how software components build on each other in the system that uses the model, and the "
        "resources of its operation",
        cite(facts, "training"),
    )


def _data(facts: Facts) -> Field:
    heading = ("source", "rows", "kind", "collector", "licence", "batch", "guideline", "annotators")
    keys = ("source", "rows", "kind", "collector", "licence", "label_batch", "guideline_version",
            "annotators")  # fmt: skip
    curation = find_curation(facts)
    funnel = "; ".join(f"{step}: {rows}" for step, rows in curation["funnel"])
    said = (
        f"{facts.record.inputs.training.rows} rows, snapshot "
        f"`{facts.record.inputs.training.digest}`, described in `croissant.json`.\n\n"
        + format_table(heading, [[one[key] for key in keys] for one in facts.sources])
        + f"\nCleaning, rows left after each step: {escape_text(funnel)}. Near-duplicates of a row "
        "stay on its side of the split into training and evaluation."
    )
    return Field(
        "2(d) Data: provenance, scope, characteristics, selection, labelling, cleaning",
        said,
        "how the data was selected, whom it represents, and the labelling guidelines themselves",
        cite(facts, "snapshot", "curation", "source"),
    )


def _testing(facts: Facts) -> Field:
    rows = [(one["result"], one["check"], one["on"], one["summary"]) for one in facts.verdicts]
    checks = format_table(("verdict", "check", "on", "summary"), rows)
    return Field(
        "2(g) Validation and testing: procedures, data, metrics, test logs",
        f"{_accuracy(facts)}\n\nChecks, each signed and bound to the bytes it judged:\n\n{checks}",
        "measures of robustness and of discriminatory impact, and the responsible persons' "
        "signatures on test reports",
        cite(facts, "evaluation", "verdict"),
    )


def _accuracy(facts: Facts) -> str:
    if facts.evaluation is None:
        return "The model was never evaluated."
    said = facts.evaluation.predicate
    return (
        f"Accuracy {said['accuracy']} on the {said['evaluation']['rows']} rows of evaluation "
        f"snapshot `{facts.record.evaluation_snapshot.digest}`, measured on {said['evaluatedOn']}."
    )


def _security(facts: Facts) -> Field:
    lock = facts.record.inputs.environment.lock_sha256
    isolation = ", ".join(f"{name} {value}" for name, value in facts.record.isolation.items())
    lines = [
        "statements are signed (ed25519, DSSE), and listed in a hash chain",
        "sources and base model are pinned by sha256 and refused when they differ",
        f"the lock of all dependencies: sha256 {lock or 'none'}",
        f"confinement of the training process: {escape_text(isolation) or 'not recorded'}",
    ]
    return Field(
        "2(h) Cybersecurity measures",
        bullets(lines),
        "measures that protect the system in operation",
        cite(facts, "training"),
    )


def _describe_control(facts: Facts) -> list[Field]:
    return [
        Field(
            "3 Capabilities and limits, accuracy for groups of persons, expected accuracy",
            _accuracy(facts) + _accuracy_by_group(facts.evaluation) if facts.evaluation else "",
            "accuracy for the persons or groups on which the system is used",
            cite(facts, "evaluation"),
        ),
        Field(
            "3 Foreseeable unintended outcomes, and risks to health, safety and rights",
            missing="an analysis of unintended outcomes and sources of risk",
        ),
        Field(
            "3 Human oversight measures (Article 14)",
            missing="how people oversee the system and interpret what it puts out",
        ),
        Field(
            "3 Specifications of input data",
            f"One text; at most {facts.record.inputs.params.max_tokens} tokens of it are read.",
            evidence=cite(facts, "training"),
        ),
    ]


def _accuracy_by_group(evaluation: Statement) -> str:
    measured = cast(dict[str, Mapping[str, list[int]]], evaluation.predicate["evaluation"])
    rows: list[tuple[Any, ...]] = [
        (what, name, total, f"{right / total:.3f}" if total else "none")
        for what, key in (("source", "by_source"), ("label", "by_label"))
        for name, (total, right) in measured[key].items()
    ]
    table = format_table(("by", "group", "rows", "accuracy"), rows)
    return f" These groups are sources and labels of the data, not groups of persons:\n\n{table}"


def _metrics() -> Field:
    return Field(
        "4 Why these metrics fit the system",
        missing="why accuracy is the right measure for the intended purpose",
    )


def _risks() -> Field:
    return Field(
        "5 Risk management system",
        missing="the risk management system; the checks under 2(g) are measures that it can name",
    )


def _changes(facts: Facts) -> Field:
    release = facts.answers.answers[4]
    rebuild = cast(dict[str, Any], release["rebuild"])
    lines = [
        f"trained on {facts.record.finished_on}, signed by {escape_text(release['trained_by'])}"
    ]
    lines += [
        f"released to {escape_text(one.environment)} on {one.promoted_on}, approved by "
        f"{escape_text(', '.join(one.approvals) or 'no one: the policy demanded no approval')}"
        for one in facts.promotions
    ]
    lines += [
        f"refused for {escape_text(one['environment'])} on {one['refused_on']}: "
        f"{escape_text('; '.join(one['reasons']))}"
        for one in cast(list[dict[str, Any]], release["refused"])
    ]
    lines.append(f"rebuild verdict: {escape_text(rebuild['verdict'])}")
    return Field(
        "6 Relevant changes",
        bullets(lines),
        "how this model differs from the one before it (`pedigree diff` compares two)",
        cite(facts, "training", "promotion", "refusal", "rebuild", "revocation"),
    )


def _standards() -> Field:
    return Field(
        "7 Standards",
        missing="harmonised standards applied under Article 40, or the solutions adopted instead",
    )


def _declaration() -> Field:
    return Field("8 Declaration", missing="the EU declaration of conformity")


def _monitoring() -> Field:
    return Field(
        "9 Post-market monitoring",
        missing="the post-market monitoring system and plan under Article 72(3)",
    )
