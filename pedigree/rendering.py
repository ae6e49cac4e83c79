"""What the command line prints for people. `--json` prints the same facts as one document."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pedigree.findings import CheckResult
from pedigree.lineage import QUESTIONS, UNKNOWN, Answers, ModelLine

if TYPE_CHECKING:
    from pedigree.doctor import Diagnosis
    from pedigree.rebuild import Rebuild
    from pedigree.tracing import Trace


def render_answers(answers: Answers) -> str:
    """Return the five questions with their answers, and what is missing."""
    lines = [f"{answers.name}  {answers.model}"]
    for number, (question, answer) in enumerate(zip(QUESTIONS, answers.answers, strict=True), 1):
        lines += ["", f"{number}. {question}"]
        lines += _RENDERERS[number - 1](cast(dict[str, Any], answer))
    if answers.missing:
        lines += ["", "UNKNOWN, because no trusted statement says it:"]
        lines += [f"   - {what}" for what in answers.missing]
    return "\n".join(lines)


def _base(answer: dict[str, Any]) -> list[str]:
    lines = [f"   {answer['base']}  {answer['digest']}"]
    if "from" in answer:
        lines += [
            f"   from {answer['from']} (file sha256:{answer['file_sha256']})",
            f"   published by {answer['publisher']}, licence {answer['licence']}, fetched on "
            f"{answer['fetched_on']}",
            f"   admission: {answer['admission']}",
        ]
    return lines


def _changes(answer: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for step in answer["steps"]:
        params = step["parameters"]
        lines.append(
            f"   {step['step']}. {step['what']} on {step['on']}: {params['epochs']} epochs, seed "
            f"{params['seed']}, mode {params['mode']}"
        )
        if step["adapter"]:
            lines.append(f"      adapter {step['adapter']} (rank {params['lora_rank']})")
    lines.append("   adapters from outside: none; merges: none")
    return lines


def _data(answer: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for zone, snapshot in answer.items():
        lines.append(f"   {zone} snapshot {snapshot['digest']}")
        lines.append(f"      {snapshot['rows']} rows, DVC md5 {snapshot['dvc_md5']}")
        lines.append(f"      {snapshot['dvc_path']}.dvc")
        if isinstance(snapshot["sources"], str):
            lines.append(f"      sources: {snapshot['sources']}")
            continue
        for part in snapshot["sources"]:
            lines.append(
                f"      {part['source']}: {part['rows']} rows, batch {part['label_batch']}, "
                f"guideline {part['guideline_version']}, annotators {part['annotators']}, "
                f"licence {part['licence']}"
            )
            lines.append(f"         {part['uri']} (sha256:{part['sha256']})")
    return lines


def _checks(answer: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for verdict in answer["verdicts"]:
        if verdict["result"] == "UNKNOWN":
            lines.append(
                f"   UNKNOWN  {verdict['check']}: the verdict {verdict['verdict']} is missing"
            )
            continue
        lines.append(f"   {verdict['result']:<8} {verdict['check']} on {verdict['on']}")
        lines.append(f"            {verdict['digest']}")
        lines.append(f"            policy {verdict['policy']}")
        lines.append(f"            {verdict['summary']}")
    return lines or ["   UNKNOWN"]


def _release(answer: dict[str, Any]) -> list[str]:
    lines = [f"   attested by {answer['attestation']}, signed by {answer['trained_by']}"]
    lines += [f"   REVOKED: {one}" for one in answer["revoked"]]
    for place in answer["environments"]:
        who = ", ".join(place["approved_by"]) or "no one"
        lines += [
            f"   {place['environment']} as {place['model_version']} since {place['promoted_on']}",
            f"      approved by {who}: policy {place['policy']} demands "
            f"{place['approvals_demanded']} approvals; tenant: {place['tenant']}",
        ]
        if place["waivers"]:
            lines.append(f"      WAIVED: {', '.join(place['waivers'])}")
        if place["development_keys"]:
            lines.append("      some of its evidence is signed with a development key")
    if not answer["environments"]:
        lines.append("   promoted to no environment")
    for one in answer["refused"][-1:]:
        lines.append(f"   refused for {one['environment']} on {one['refused_on']}:")
        lines += [f"      - {reason}" for reason in one["reasons"]]
    rebuild = answer["rebuild"]
    can = "yes" if rebuild["possible"] else f"no: {'; '.join(rebuild['obstacles'])}"
    lines.append(
        f"   can be rebuilt: {can} (commit {rebuild['commit']}, lock sha256:"
        f"{rebuild['lock_sha256']}, mode {rebuild['mode']}; rebuild verdict: {rebuild['verdict']})"
    )
    return lines


_RENDERERS = (_base, _changes, _data, _checks, _release)


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def render_trace(trace: "Trace") -> str:
    """Return what something became, and what it was made of."""
    lines = [trace.thing]
    for place in trace.places:
        lines.append(
            f"  row {place.position} of {place.snapshot}: source {place.source}, batch "
            f"{place.label_batch or 'not recorded'}, annotator {place.annotator or 'not recorded'}"
        )
    for heading, links in (("went into", trace.forwards), ("was made of", trace.backwards)):
        found = [
            (f"  {_brief(one.source)}", one.what, _brief(one.target), _count(one.rows))
            for one in links
        ]
        rows = list(dict.fromkeys(found))  # a thing that was made twice is named once
        if rows:
            lines += [heading, render_table(rows)]
    if not (trace.forwards or trace.backwards or trace.places):
        lines.append("  nothing was made of it, and it was made of nothing that is recorded")
    lines += [f"  UNKNOWN  the rows of {one} are not here" for one in trace.unindexed]
    return "\n".join(lines)


def _brief(thing: str) -> str:
    """Return a thing with the first 12 digits of its digest, which are enough to ask again."""
    kind, marker, digest = thing.partition(":sha256:")
    return f"{kind}:{digest[:12]}" if marker else thing


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows} rows"


def render_models(models: Sequence[ModelLine]) -> str:
    """Return one line a model."""
    heading = [
        "MODEL",
        "NAME",
        "BASE",
        "ADAPTERS",
        "SNAPSHOTS",
        "ACCURACY",
        "ENVIRONMENT",
        "APPROVER",
    ]
    rows = [
        [
            _short(model.model),
            model.name,
            " ".join(_short(part) for part in model.base.split()),
            ", ".join(map(_short, model.adapters)) or "none",
            ", ".join(map(_short, model.snapshots)),
            UNKNOWN if model.accuracy is None else f"{model.accuracy:.3f}",
            ("REVOKED " if model.revoked else "") + (", ".join(model.environments) or "none"),
            ", ".join(model.approved_by) or "none",
        ]
        for model in models
    ]
    return render_table([heading, *rows])


def _short(digest: str) -> str:
    return digest[:19] if digest.startswith("sha256:") else digest


def render_results(results: Sequence[CheckResult]) -> str:
    """Return each check's outcome with the worst examples."""
    lines: list[str] = []
    for result in results:
        outcome = "NOT JUDGED" if not result.applicable else result.outcome
        lines.append(f"{outcome}  {result.check}: {result.summary}")
        grave = {"ERROR": 0, "WARN": 1, "INFO": 2}
        worst = sorted(result.findings, key=lambda f: (grave[f.severity], -f.score, f.row))
        lines += [f"        {f.severity} row {f.row}: {f.reason}" for f in worst[:10]]
        if len(result.findings) > 10:
            lines.append(f"        … and {len(result.findings) - 10} more (see --out)")
    return "\n".join(lines)


def render_rebuild(outcome: "Rebuild") -> str:
    """Return both digests, the verdict and what differs."""
    lines = [
        f"recorded  {outcome.recorded}",
        f"rebuilt   {outcome.rebuilt}",
        f"verdict   {outcome.verdict} (promised: {outcome.promise})",
        f"in        {outcome.environment}",
    ]
    if outcome.accuracy is not None:
        before, now = outcome.accuracy
        lines.append(f"accuracy  {before:.4f} recorded, {now:.4f} rebuilt")
    lines += [f"differs   {difference}" for difference in outcome.differences]
    if not outcome.signed:
        lines.append("note      no key that is trusted here signed the record")
    return "\n".join(lines)


def render_diagnosis(found: "Sequence[Diagnosis]") -> str:
    """Return one line a problem, and whether it was repaired."""
    if not found:
        return "Nothing is wrong."
    lines = [
        f"{'repaired' if one.repaired else 'found':<8}  {one.kind}: {one.what}"
        + ("" if one.repaired else f" ({one.remedy})")
        for one in found
    ]
    left = sum(not one.repaired for one in found)
    if left:
        lines.append(f"{left} to mend: `pedigree doctor --repair` does what it can.")
    return "\n".join(lines)
