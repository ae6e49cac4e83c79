"""Models and adapters from outside."""

import argparse
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.commands.common import (
    Commands,
    add_command,
    find_open_project,
    open_project,
    print_json,
)
from pedigree.errors import PedigreeError
from pedigree.locks import hold
from pedigree.project import Project

if TYPE_CHECKING:
    from pedigree.admission.signature_files import SignatureFiles
    from pedigree.admission.verdict import Scan
    from pedigree.digests import JSON
    from pedigree.evidence.policy import Policy


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    admit = add_command(commands, "admit", "judge an outside model; runs nothing", _admit)
    admit.add_argument("path", type=Path, metavar="PATH", help="a model's file or folder")
    admit.add_argument("--policy", type=Path, metavar="FILE", help="another policy.yaml")
    admit.add_argument(
        "--expect", metavar="DIGEST", help="refuse whatever is not the artifact of this digest"
    )
    admit.add_argument(
        "--signature", type=Path, metavar="FILE", help="model.sig, or the signature of --manifest"
    )
    admit.add_argument("--manifest", type=Path, metavar="FILE", help="JSON or SHA256SUMS")
    admit.add_argument("--key", type=Path, metavar="FILE", help="public key; shows validity only")
    admit.add_argument(
        "--convert",
        action="store_true",
        help="convert quarantined pickles to safetensors, in the sandbox, by a reviewer's waiver",
    )
    attempt = add_command(commands, "try", "run a quarantined classifier in the sandbox", _try)
    attempt.add_argument("digest", metavar="DIGEST", help="as `pedigree admit` printed it")
    attempt.add_argument("file", type=Path, metavar="FILE", help="CSV, TSV, JSONL or Parquet")
    attempt.add_argument("--text", default="text", metavar="COL", help="default: text")
    attempt.add_argument("--like", metavar="DIGEST", help="admitted model with the configuration")
    attempt.add_argument("--out", type=Path, metavar="FILE", help="predictions, as JSON lines")


def _admit(options: argparse.Namespace) -> int:
    from pedigree.rendering import render_table

    scan, more = _judge(options)
    if options.json:
        print_json({**scan.describe(), **more})
    else:
        print(f"{scan.outcome}  {scan.digest}  {options.path}")
        lines = [[one.outcome, one.rule, one.file, one.reason] for one in scan.findings]
        if lines:
            print(render_table([["OUTCOME", "RULE", "FILE", "REASON"], *lines]))
        if more.get("kept"):
            print(f"kept in {more['kept']}")
        if scan.outcome == "quarantined" and "statements" in more and _is_pickled(scan):
            print(
                "a reviewer may let it be converted: pedigree waive conversion "
                f"{scan.digest[7:19]} --until DATE --key KEY --reason TEXT; then pedigree admit "
                f"{options.path} --convert"
            )
        if more.get("adapter"):
            print(f"registered as the adapter {more['adapter']} of {more['base']}")
    return 0 if scan.outcome == "admitted" else 1


def _is_pickled(scan: "Scan") -> bool:
    from pedigree.admission.conversion import PICKLED

    return any(one.kind in PICKLED for one in scan.files)


def _judge(options: argparse.Namespace) -> tuple["Scan", dict[str, "JSON"]]:
    """Judge, and within a project sign and keep; return the scan and what else is to be said."""
    from pedigree.admission.gate import limit_formats
    from pedigree.admission.scan import scan_path
    from pedigree.evidence.policy import load_policy

    project = find_open_project(options)
    policy = load_policy(options.policy) if options.policy else None
    if project is not None:
        with hold(project.lock, shared=True):
            return _admit_into(project, policy, options)
    if options.expect or options.signature or options.convert:
        raise PedigreeError(
            "--expect, --signature and --convert need a project: call it in its folder."
        )
    if policy and "modelaudit" in policy.admission.second_opinions:
        raise PedigreeError(
            f"{options.policy} asks modelaudit, whose environment belongs to a project: call it in "
            "a project's folder, or take modelaudit out of `second_opinions`."
        )
    scan = scan_path(options.path)
    return (limit_formats(scan, policy) if policy else scan), {}


def _admit_into(
    project: Project, policy: "Policy | None", options: argparse.Namespace
) -> tuple["Scan", dict[str, "JSON"]]:
    from pedigree.admission.adapters import is_adapter, register_admitted
    from pedigree.admission.conversion import convert_artifact
    from pedigree.admission.gate import admit_artifact, open_gate
    from pedigree.admission.pins import Pin
    from pedigree.admission.transitions import find_manifest

    gate, now = open_gate(project, policy), datetime.now(UTC)
    pin = None
    if options.expect:
        pin = Pin(options.expect, "--expect", find_manifest(gate.store, options.expect))
    admission = admit_artifact(options.path, gate, now, pin=pin, signature=_read_signature(options))
    said: dict[str, JSON] = {}
    if options.convert and admission.scan.outcome == "quarantined":
        said = {"converted_from": admission.describe()}
        admission = convert_artifact(admission.digest, gate, now)
    if is_adapter(admission):
        adapter = register_admitted(admission, gate, now)
        said |= {"adapter": adapter.digest, "base": adapter.declaration.base}
    return admission.scan, {**admission.describe(), **said}


def _read_signature(options: argparse.Namespace) -> "SignatureFiles | None":
    from pedigree.admission.signature_files import SignatureFiles

    if options.signature is None:
        if options.manifest or options.key:
            raise PedigreeError("--manifest and --key need --signature FILE: name it.")
        return None
    signature, key = _read(options.signature), _read(options.key) if options.key else None
    if options.manifest:
        return SignatureFiles(manifest=_read(options.manifest), detached=signature, key=key)
    return SignatureFiles(bundle=signature, key=key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PedigreeError(f"{path} cannot be read ({error.strerror}): name a file.") from None


def _try(options: argparse.Namespace) -> int:
    from pedigree.admission.gate import open_gate
    from pedigree.admission.trying import try_artifact
    from pedigree.inspection import read_texts

    project, now = open_project(options), datetime.now(UTC)
    texts = read_texts(options.file, options.text)
    out = options.out or options.file.with_name(f"{options.file.stem}.unverified.jsonl")
    with hold(project.lock, shared=True):
        gate = open_gate(project)
        digest = gate.store.find_subject(options.digest, "admission")
        trial = try_artifact(digest, texts, gate, now, out=out, like=options.like)
    if options.json:
        print_json({"out": str(out), "statement": trial.statement.digest, "rows": trial.lines})
    else:
        labels = Counter(str(line["label"]) for line in trial.lines)
        counts = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
        print(f"{len(texts)} rows in {out}, each marked unverified: {counts}")
    return 0
