"""Reports for regulators, from the same signed facts as the rest of an export.

    report-annex-iv.md       technical documentation, Annex IV of Regulation (EU) 2024/1689
    report-gpai-summary.md   public summary of training content, Article 53(1)(d), in the sections
                             of the Commission's template of July 2025

A field is filled from a statement, which it names, or says what would have to be recorded. Nobody
is asked and nothing is concluded: whether the law applies to a model is not for a report to say.

    >>> write_report("annex-iv", facts, now).splitlines()[0]
    '# Technical documentation (Annex IV of Regulation (EU) 2024/1689)'
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias, cast, get_args

from pedigree.exports.card import escape_text
from pedigree.exports.facts import Facts

Report: TypeAlias = Literal["annex-iv", "gpai-summary"]
REPORTS: tuple[Report, ...] = get_args(Report)


@dataclass(frozen=True)
class Field:
    """One thing that is asked for.

    Attributes:
        name: what is asked for, with its number where it has one.
        said: what evidence says, as Markdown; empty where it says nothing.
        missing: what would have to be recorded, or what of it still would.
        evidence: digests of the statements that say it.
    """

    name: str
    said: str = ""
    missing: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """One numbered section of a report."""

    title: str
    fields: Sequence[Field]


def name_file(report: Report) -> str:
    """Return what a report is called in an export."""
    return f"report-{report}.md"


def write_report(report: Report, facts: Facts, now: datetime) -> str:
    """Return a report as Markdown; `now` is its date."""
    from pedigree.exports import annex_iv, gpai_summary

    module = annex_iv if report == "annex-iv" else gpai_summary
    sections = module.list_sections(facts)
    fields = [field for section in sections for field in section.fields]
    silent = sum(not field.said for field in fields)
    head = (
        f"# {module.TITLE}\n\n"
        f"Model {escape_text(facts.record.model_name)}, `{facts.model}`. Written on "
        f"{now.astimezone(UTC).date().isoformat()} from {len(facts.claims)} signed statements, "
        f"which are in `claims.jsonl`. Of {len(fields)} fields evidence fills "
        f"{len(fields) - silent}; the others say what would have to be recorded.\n{_warn(facts)}"
    )
    return "\n".join([head, *map(_format_section, sections)])


def _warn(facts: Facts) -> str:
    """Return what weakens everything below, a paragraph each."""
    release = facts.answers.answers[4]
    environments = cast(list[dict[str, object]], release["environments"])
    warnings: list[str] = []
    if any(one["development_keys"] for one in environments):
        warnings.append(
            "Part of the evidence is signed with a development key, which anybody who can read the "
            "project's folder can use."
        )
    if not environments:
        warnings.append("The model was released to no environment.")
    if facts.record.inputs.code.dirty:
        warnings.append("The code differed from its commit when the model was trained.")
    warnings += [f"Revoked: {escape_text(one)}" for one in cast(list[object], release["revoked"])]
    return "".join(f"\n**{line}**\n" for line in warnings)


def _format_section(section: Section) -> str:
    return "\n".join([f"## {section.title}\n", *map(_format_field, section.fields)])


def _format_field(field: Field) -> str:
    parts = [f"### {field.name}", field.said.strip()]
    if field.missing:
        parts.append(f"Not recorded: {field.missing}.")
    if field.said and field.evidence:
        shown = ", ".join(f"`{digest}`" for digest in field.evidence[:3])
        more = f" and {len(field.evidence) - 3} more" if len(field.evidence) > 3 else ""
        parts.append(f"Evidence: {shown}{more}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def cite(facts: Facts, *kinds: str) -> tuple[str, ...]:
    """Return the digests of the exported statements of some kinds."""
    return tuple(claim.digest for claim in facts.claims if claim.kind in kinds)


def bullets(lines: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)
