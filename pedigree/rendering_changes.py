"""What `pedigree diff` and `pedigree retrain` print for people."""

from collections.abc import Sequence

from pedigree.comparing import Change, Comparison, SourceChange
from pedigree.digests import JSON
from pedigree.rendering import render_table
from pedigree.retraining import Retraining, Unclean

_MOST = 12
_SHOWN = 60


def render_comparison(found: Comparison) -> str:
    """Return everything that differs between two models or snapshots."""
    lines = [f"before  {found.before}", f"after   {found.after}"]
    if found.identical:
        return "\n".join([*lines, "They are the same."])
    for zone, changes in found.rows.items():
        lines += ["", f"{zone} rows"]
        lines += _render_rows(changes) if _differs(changes) else ["  the same"]
    for heading, changes in (
        ("metrics", found.metrics),
        ("checks", found.checks),
        ("settings, code and environment", found.settings),
    ):
        if changes:
            lines += ["", heading, *_render_changes(changes)]
    if found.unknown:
        lines += ["", "UNKNOWN, because it is not here:", *[f"  {one}" for one in found.unknown]]
    return "\n".join(lines)


def _differs(changes: Sequence[SourceChange]) -> bool:
    return any(one.added or one.removed or one.relabelled or one.changed for one in changes)


def _render_rows(changes: Sequence[SourceChange]) -> list[str]:
    heading = ["  SOURCE", "ADDED", "REMOVED", "RELABELLED", "CHANGED", "KEPT"]
    numbers = [(one.added, one.removed, one.relabelled, one.changed, one.kept) for one in changes]
    totals = [sum(column) for column in zip(*numbers, strict=True)]
    rows = [[f"  {one.source}", *map(str, row)] for one, row in zip(changes, numbers, strict=True)]
    return render_table([heading, *rows, ["  all", *map(str, totals)]]).splitlines()


def _render_changes(changes: Sequence[Change]) -> list[str]:
    rows = [[f"  {one.name}", _show(one.before), _show(one.after)] for one in changes[:_MOST]]
    lines = render_table([["  WHAT", "BEFORE", "AFTER"], *rows]).splitlines()
    if len(changes) > _MOST:
        lines.append(f"  … and {len(changes) - _MOST} more (--json)")
    return lines


def _show(value: JSON) -> str:
    text = value if isinstance(value, str) else str(value)
    if text.startswith("sha256:"):
        text = f"{text[:19]}…"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def render_retraining(outcome: Retraining) -> str:
    """Return before and after, and what still descends from what was left out."""
    lines = [
        render_comparison(outcome.comparison),
        "",
        f"trigger scan  {outcome.trigger_scan}",
        "",
        "clean         no row that was left out is in the new snapshots (looked at, row by row)",
    ]
    if outcome.unclean:
        lines += ["not clean, because they were trained on what was left out:"]
        lines += [_render_unclean(one) for one in outcome.unclean]
    lines += [
        "",
        f"Next: pedigree promote {outcome.after[7:19]} --env ENV, and revoke what is not clean.",
    ]
    return "\n".join(lines)


def _render_unclean(one: Unclean) -> str:
    rows = (
        "UNKNOWN how many rows (its snapshot is not here)"
        if one.rows is None
        else (f"{one.rows} rows")
    )
    where = f" in {', '.join(one.environments)}" if one.environments else ""
    adapter = f", adapter {one.adapter[:19]}…" if one.adapter else ""
    revoked = ", revoked" if one.revoked else ""
    return f"  model {one.model[:19]}…{adapter}: {rows}{where}{revoked}"
