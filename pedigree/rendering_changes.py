"""What `pedigree diff` and `pedigree retrain` print for people."""

from collections.abc import Sequence
from typing import Any, cast

from pedigree.comparing import Change, Comparison
from pedigree.digests import JSON
from pedigree.lineage import UNKNOWN
from pedigree.rendering import render_table
from pedigree.retraining import Retraining
from pedigree.row_changes import SourceRows

_PACKAGE = "package "
_FEW = 12


def render_comparison(found: Comparison) -> str:
    """Return everything that differs, by section; what could not be looked at comes last."""
    if found.identical:
        return f"Both are the same {found.kind}: {found.before}."
    lines = [f"before  {found.kind} {found.before}", f"after   {found.kind} {found.after}"]
    for zone, rows in found.rows.items():
        lines += ["", f"{zone} rows" if zone != "rows" else "rows", *_render_rows(rows)]
    for name, changes in found.changes.items():
        lines += ["", f"{name}: the same" if not changes else name, *_render_changes(changes)]
    if found.checks:
        lines += ["", "checks", *_render_checks(found.checks)]
    if found.metrics:
        lines += ["", "metrics, each on its own evaluation rows", *_render_metrics(found.metrics)]
    lines += [f"UNKNOWN  {what}" for what in found.missing]
    return "\n".join(lines)


def _render_rows(rows: "Sequence[SourceRows] | None") -> list[str]:
    if rows is None:
        return ["  UNKNOWN: a snapshot is not here"]
    heading = ["  source", *_COUNTS]
    table = [[f"  {one.source}", *(str(getattr(one, name)) for name in _COUNTS)] for one in rows]
    counts = [[getattr(one, name) for one in rows] for name in _COUNTS]
    total = ["  all", *(str(sum(column)) for column in counts)]
    return render_table([heading, *table, total]).splitlines()


_COUNTS = ("before", "after", "added", "removed", "relabelled", "edited")


def _render_changes(changes: Sequence[Change]) -> list[str]:
    packages = [one for one in changes if one.what.startswith(_PACKAGE)]
    others = [one for one in changes if not one.what.startswith(_PACKAGE)]
    shown = [*others, *packages[:_FEW]]
    lines = [f"  {one.what}: {_brief(one.before)} -> {_brief(one.after)}" for one in shown]
    if len(packages) > _FEW:
        lines.append(f"  … and {len(packages) - _FEW} more packages (see --json)")
    return lines


def _render_checks(checks: Sequence[Change]) -> list[str]:
    """Return what did not pass on both sides under one policy, and how many checks did."""
    policies = sorted({_policy(side) for one in checks for side in (one.before, one.after) if side})
    plain = [one for one in checks if one.before == one.after and _result(one.before) == "PASSED"]
    rows = [
        [f"  {one.what}", _result(one.before), "->", _result(one.after)]
        + (
            []
            if len(policies) == 1
            else [f"policy {_policy(one.before)}", "->", _policy(one.after)]
        )
        for one in checks
        if one not in plain
    ]
    lines = [f"  under policy {policies[0]}"] if len(policies) == 1 else []
    lines += render_table(rows).splitlines() if rows else []
    return [*lines, f"  {len(plain)} more are PASSED on both sides"] if plain else lines


def _result(said: JSON) -> str:
    if said is None:
        return "not made"
    verdict = cast(dict[str, Any], said)
    return str(verdict["result"]) if verdict["applicable"] else "NOT JUDGED"


def _policy(said: JSON) -> str:
    return "none" if said is None else _brief(cast(dict[str, Any], said)["policy"])


def _render_metrics(metrics: Sequence[Change]) -> list[str]:
    rows = [[f"  {one.what}", _number(one.before), "->", _number(one.after)] for one in metrics]
    return render_table(rows).splitlines()


def _number(value: JSON) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "none" if value is None else str(value)


def _brief(value: JSON) -> str:
    """Return a value on one line, a digest by its first digits."""
    if isinstance(value, list):
        return (
            ", ".join(_brief(one) for one in value[:5]) + (", …" if len(value) > 5 else "")
            or "none"
        )
    if value is None:
        return "none"
    text = " ".join(str(value).split())
    marker, _, digest = text.rpartition("sha256:")
    if len(digest) == 64 and not marker:
        return f"sha256:{digest[:12]}…"
    return f"{text[:12]}…" if len(text) in (40, 64) and text.isalnum() else text[:100]


def render_retraining(found: Retraining, revocation: str | None) -> str:
    """Return what differs before and after, and what is not clean."""
    without = ", ".join(found.without)
    if found.after is None:
        lines = [f"No new model without {without}: the run was refused; {found.before} stays."]
        for name in ("training_snapshot", "evaluation_snapshot"):
            if name in found.made:
                lines.append(f"  {name} without it: {found.made[name]}")
    elif found.after == found.before:
        lines = [f"The model is the same without {without}: no row of it was learned from."]
    else:
        lines = [f"made again without {without}"]
        if found.comparison is not None:
            lines.append(render_comparison(found.comparison))
        lines += ["", "trigger scan   before: not run   after: not run"]
    lines += ["", *_render_unclean(found)]
    if revocation is not None:
        lines += ["", f"revocation: {revocation}"]
    if found.after not in (None, found.before):
        lines += _render_next(found)
    return "\n".join(lines)


def _render_unclean(found: Retraining) -> list[str]:
    if not found.not_clean:
        lines = ["not clean: nothing is known that still descends from it"]
    else:
        lines = ["not clean, because it descends from what was excluded"]
        rows = [
            [f"  {one.kind}", one.name, f"from {one.because}", "REVOKED" if one.revoked else ""]
            for one in found.not_clean
        ]
        lines += render_table(rows).splitlines()
    return lines + [
        f"  {UNKNOWN}  the rows of snapshot {one} are not here" for one in found.unknown
    ]


def _render_next(found: Retraining) -> list[str]:
    code = found.comparison.changes["code"] if found.comparison else ()
    if any(one.what == "dirty" and one.after for one in code):
        promote = "It cannot be promoted, as it was made from files that are not committed (`git "
        promote += "status`): commit them, and retrain again."
    else:
        promote = f"pedigree promote {(found.after or '')[:19]} --env production"
    return [
        "",
        "next",
        f"  {promote}",
        "  A later `pedigree run` reads everything that sources/ declares: remove what is bad from "
        "there,",
        "  or name it under curation.exclude_… in params.yaml.",
    ]
