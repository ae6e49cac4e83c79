"""Public summary of training content, in the sections of the Commission's template of July 2025.

The template (Article 53(1)(d) of Regulation (EU) 2024/1689) is for general-purpose models. For a
model that was fine-tuned, what it asks is about the data of the fine-tuning; the base model's
provider answers for the rest. Headings paraphrase the template and keep its numbers.

Where a source belongs follows from its declared kind and address: `web` is scraped, `user` and
`log` are user data, `synthetic` is synthetic; `curated` at an address that anyone can reach is
public; everything else is under "other sources".
"""

from collections.abc import Mapping
from typing import Any

from pedigree.exports.card import escape_text, format_table
from pedigree.exports.croissant_rai import find_curation
from pedigree.exports.facts import Facts
from pedigree.exports.reports import Field, Section, bullets, cite

TITLE = "Public summary of training content (Article 53(1)(d) of Regulation (EU) 2024/1689)"
_OPEN = ("package:", "http://", "https://", "hf://")


def list_sections(facts: Facts) -> list[Section]:
    """Return the three sections."""
    return [
        Section("1. General information", _describe_model(facts)),
        Section("2. List of data sources", _list_sources(facts)),
        Section("3. Data processing aspects", _describe_processing(facts)),
    ]


def _describe_model(facts: Facts) -> list[Field]:
    record = facts.record
    versions = ", ".join(f"{one.name}:{one.version}" for one in facts.promotions)
    base = record.inputs.base
    scratch = record.inputs.params.method == "scratch"
    fetched = max((str(one["fetchedOn"]) for one in facts.sources), default="")
    return [
        Field(
            "1.1 Provider, its contact and authorised representative",
            missing="the provider's name and contact, and those of a representative in the Union",
        ),
        Field(
            "1.2 Versioned model name",
            f"{escape_text(versions or record.model_name)}, digest `{facts.model}`",
            evidence=cite(facts, "training", "promotion"),
        ),
        Field(
            "1.2 Model dependencies",
            "None: trained from scratch."
            if scratch
            else f"Fine-tuned from {escape_text(base.id)} of {escape_text(base.publisher)}, "
            f"`{base.digest}`, {escape_text(facts.base['from'])}.",
            "" if scratch else "the summary of training content of the base model",
            cite(facts, "training", "base-model"),
        ),
        Field(
            "1.2 Date of placement on the Union market",
            missing="that date; when the model was released inside is in `claims.jsonl`",
        ),
        Field(
            "1.3 Modality and size of the training data",
            f"Text: {record.inputs.training.rows} rows. {record.tokens} tokens were read in "
            f"training, repetitions included: {_size(record.tokens)}.",
            evidence=cite(facts, "training", "snapshot"),
        ),
        Field(
            "1.3 Latest date of data acquisition",
            f"{fetched}, when the last source was fetched." if fetched else "",
            "when the content itself was written or collected",
            cite(facts, "source"),
        ),
        Field("1.3 Languages of the training data", missing="the languages of each source"),
        Field(
            "1.3 Other characteristics of the training data",
            missing="demographic, geographic and cultural characteristics",
        ),
    ]


def _size(tokens: int) -> str:
    """Return the template's range for a number of tokens of text."""
    if tokens < 10**9:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= 10**13 else "more than 10 trillion tokens"


def _place(source: Mapping[str, Any]) -> str:
    kind, uri = source["kind"], str(source["uri"])
    if kind in ("web", "user", "log", "synthetic"):
        return "user" if kind == "log" else str(kind)
    return "public" if kind == "curated" and uri.startswith(_OPEN) else "other"


def _list_sources(facts: Facts) -> list[Field]:
    def ask(name: str, place: str, missing: str) -> Field:
        rows = [
            (
                one["source"],
                one["rows"],
                one["uri"],
                one["collector"],
                one["licence"],
                one["sha256"],
            )
            for one in facts.sources
            if _place(one) == place
        ]
        heading = ("source", "rows", "address", "collector", "licence", "sha256")
        none = "None of the sources of the training snapshot is declared to be of this kind."
        return Field(
            name,
            format_table(heading, rows) if rows else none,
            missing if rows else "",
            cite(facts, "snapshot", "source"),
        )

    return [
        ask("2.1 Publicly available datasets", "public", "a description of the content of each"),
        Field(
            "2.2.1 Datasets commercially licensed from rightsholders or their representatives",
            missing="whether a source was licensed commercially (declared licences are above)",
        ),
        Field(
            "2.2.2 Private datasets obtained from other third parties",
            missing="whether a source was obtained from a third party, and from whom",
        ),
        ask(
            "2.3 Data crawled and scraped from online sources",
            "web",
            "names, purpose and behaviour of crawlers, the period of collection, and the most "
            "relevant domain names",
        ),
        ask(
            "2.4 User data",
            "user",
            "from which services and interactions it was collected",
        ),
        ask(
            "2.5 Synthetic data",
            "synthetic",
            "which model generated it, and that model's own training content",
        ),
        ask(
            "2.6 Other sources of data",
            "other",
            "whether anyone can obtain it, and a description of the content of each",
        ),
    ]


def _describe_processing(facts: Facts) -> list[Field]:
    curation = find_curation(facts)
    steps = [f"{escape_text(step)}: {rows} rows" for step, rows in curation["funnel"]]
    found = [
        f"{one['check']}: {one['result']}. {escape_text(one['summary'])}"
        for one in facts.verdicts
        if one["on"] == "training_snapshot"
    ]
    return [
        Field(
            "3.1 Respect of reservations of rights from text and data mining",
            missing="how reservations of rights (Article 4(3) of Directive (EU) 2019/790) were "
            "identified and respected when the sources were collected",
        ),
        Field(
            "3.2 Removal of illegal content",
            missing="measures against illegal content; no check of this pipeline looks for it",
        ),
        Field(
            "3.3 Other information",
            "Filters, with what each left:\n\n"
            + bullets(steps)
            + "\n\nChecks of the training data:\n\n"
            + bullets(found),
            evidence=cite(facts, "curation", "verdict"),
        ),
    ]
