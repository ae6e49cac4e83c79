"""The one gate: an outside file or folder is copied, compared, scanned, and kept, or refused.

    gate = open_gate(project)
    admission = admit_artifact(Path("model/"), gate, now)
    require_admitted(gate.store, admission.digest, gate.policy)

It is copied first, read-only, into a folder that nobody else writes. Hash, scan and every later use
are of that copy, so nobody can put other bytes between check and use. Each state that is reached is
a signed statement. What is loaded later is loaded by digest, behind `require_admitted`.
"""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from pedigree.admission.keeping import discard, keep, set_apart
from pedigree.admission.modelaudit import ModelAudit, ask_modelaudit, find_modelaudit
from pedigree.admission.pins import Pin, compare_with_pin
from pedigree.admission.publishers import Publishers, load_publishers
from pedigree.admission.receiving import Received, receive
from pedigree.admission.scan import scan_received
from pedigree.admission.second_opinion import Opinion, ask_picklescan, hear
from pedigree.admission.signature_files import SignatureFiles, take_signature
from pedigree.admission.signatures import SignatureVerdict, verify_signature
from pedigree.admission.transitions import Passage, find_decision
from pedigree.admission.verdict import Finding, Limits, Scan, worst
from pedigree.digests import JSON, digest_json, hex_of
from pedigree.errors import GateClosed
from pedigree.evidence.policy import Policy
from pedigree.evidence.store import EvidenceStore, Statement, open_store
from pedigree.files import explain_disk_errors
from pedigree.project import Project
from pedigree.sandbox import Isolation, level_of, probe_isolation, require_level

_WEIGHTS = ("safetensors", "onnx", "gguf")
_TREE_RULES = ("tree_", "link", "special_file", "changed", "unreadable")


@dataclass(frozen=True)
class Gate:
    """What every admission of a project needs, found once."""

    project: Project
    policy: Policy
    store: EvidenceStore = field(repr=False)
    isolation: Isolation
    publishers: Publishers
    modelaudit: ModelAudit | None = None


@dataclass(frozen=True)
class Conversion:
    """How an artifact was made here from another.

    Attributes:
        parent: the other's digest.
        reason: why it was made.
        tensors: how many.
        dequantised: how many of them were quantised there and are not here.
        waiver: digest of the waiver by which the other was opened; None where that was not needed.
    """

    parent: str
    reason: str
    tensors: int | None
    dequantised: int = 0
    waiver: str | None = None


@dataclass(frozen=True)
class Admission:
    """What became of one artifact.

    Attributes:
        scan: outcome, digest, findings and files. Where a pin or signature refused it, nothing
            was scanned, and there are no files.
        statements: what was signed, the decision last.
        kept: the folder where it is kept; None for what was rejected.
        same_weights: digests of admitted artifacts with the very same weights in other company.
    """

    scan: Scan
    statements: tuple[Statement, ...]
    kept: Path | None
    same_weights: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return the artifact's digest."""
        return self.scan.digest

    @property
    def admitted(self) -> bool:
        """Return whether it may be used."""
        return self.scan.outcome == "admitted"

    def require(self, what: str) -> None:
        """Refuse what was not admitted; `what` names it.

        Raises:
            GateClosed: it is quarantined or rejected; the message says why.
        """
        if not self.admitted:
            reasons = [f"{one.file}: {one.reason.rstrip('.')}" for one in self.scan.findings]
            shown = "; ".join(reasons[:10]) + ("; ..." if len(reasons) > 10 else "")
            raise GateClosed(
                f"{what} ({self.digest}) was {self.scan.outcome}: {shown}. Nothing may load it; "
                "look at where it comes from, or take another."
            )

    def describe(self) -> dict[str, JSON]:
        """Return the admission for `--json`: the scan, and what was signed and kept."""
        return {
            **self.scan.describe(),
            "states": [cast(str, one.predicate["state"]) for one in self.statements],
            "statements": [one.digest for one in self.statements],
            "kept": str(self.kept) if self.kept else None,
            "same_weights": list(self.same_weights),
        }


def open_gate(project: Project, policy: Policy | None = None) -> Gate:
    """Open a project's gate: policy (the project's), evidence, what the sandbox can hold here.

    Raises:
        PedigreeError: the policy asks a scanner that is not there, or cannot be run here.
    """
    policy = policy or project.policy()
    store, isolation = open_store(project, policy, write=True), probe_isolation()
    auditor = None
    if "modelaudit" in policy.admission.second_opinions:
        auditor = find_modelaudit(project.modelaudit)
        require_level(isolation, level_of(policy.admission.minimum_isolation))
    return Gate(project, policy, store, isolation, load_publishers(project.root), auditor)


def admit_artifact(
    path: Path,
    gate: Gate,
    now: datetime,
    *,
    pin: Pin | None = None,
    signature: SignatureFiles | None = None,
    origin: dict[str, JSON] | None = None,
    conversion: Conversion | None = None,
    limits: Limits | None = None,
) -> Admission:
    """Take in a file or folder, judge the copy, sign each state, and keep what was not rejected.

    Args:
        path: a file or a folder.
        gate: the project's gate.
        now: time of the admission.
        pin: what it has to be; anything else is refused before it is parsed.
        signature: its signature, if that does not lie in the folder itself.
        origin: where it comes from, as far as that is known, for the record.
        conversion: what it was made from here; nobody can have signed what is made here.
        limits: bounds of the work.

    Raises:
        PedigreeError: there is nothing at `path`, no room for the copy, or no key to sign with.
    """
    with _private_store(gate.project.outside) as store:
        received = receive(path, store)
        if signature is None:
            received, signature = take_signature(received)
        way = Passage(gate.store, gate.policy, gate.isolation, now, received.name, received.digest)
        return _pass_through(received, signature, gate, way, pin, origin or {}, conversion, limits)


def _pass_through(
    received: Received,
    signature: SignatureFiles | None,
    gate: Gate,
    way: Passage,
    pin: Pin | None,
    origin: dict[str, JSON],
    conversion: Conversion | None,
    limits: Limits | None,
) -> Admission:
    manifest = [cast(JSON, entry.model_dump()) for entry in received.files]
    way.reach("received", {"folder": received.folder, "files": manifest, "origin": origin})
    refused = compare_with_pin(received, pin) if pin else []
    if refused:
        return _refuse(way, refused)
    way.reach("pinned", {"pin": {"digest": pin.digest, "by": pin.said_by} if pin else None})
    signed = _verify_signature(received, signature, gate, way, conversion)
    if signed.findings:
        return _refuse(way, list(signed.findings))
    scan = scan_received(received, limits)
    opinions = _ask_others(received, scan, gate)
    scan = limit_formats(hear(scan, opinions), gate.policy)
    same = _find_same_weights(scan, gate)
    _reach_scanned(way, scan, same, [opinion.said for opinion in opinions])
    complete = not received.problems
    if conversion is not None and scan.outcome != "rejected":
        way.reach(
            "converted",
            {
                "parent": {"sha256": hex_of(conversion.parent)},
                "reason": conversion.reason,
                "tensors": conversion.tensors,
                "dequantised": conversion.dequantised,
                "waiver": {"sha256": hex_of(conversion.waiver)} if conversion.waiver else None,
            },
        )
    way.decide(scan.outcome, scan.findings, scan.unlisted, complete, signed.signature)
    kept = _keep(received, scan, gate, complete)
    return Admission(scan, tuple(way.written), kept, same)


def _ask_others(received: Received, scan: Scan, gate: Gate) -> list[Opinion]:
    """Ask the other scanners that the policy names; each only where nobody has rejected yet."""
    opinions: list[Opinion] = []
    if "picklescan" in gate.policy.admission.second_opinions:
        opinions.append(ask_picklescan(received, scan))
    if gate.modelaudit is not None:
        minimum = level_of(gate.policy.admission.minimum_isolation)
        heard = hear(scan, opinions)
        opinions.append(ask_modelaudit(gate.modelaudit, received, heard, gate.isolation, minimum))
    return opinions


def _verify_signature(
    received: Received,
    files: SignatureFiles | None,
    gate: Gate,
    way: Passage,
    conversion: Conversion | None,
) -> SignatureVerdict:
    """Judge the signature; sign `signature_verified` unless it refuses the artifact."""
    required = gate.policy.admission.require_signature and conversion is None
    signed = verify_signature(
        received, files, gate.publishers, way.now, required=required, earlier=gate.store
    )
    if not signed.findings:
        said: dict[str, JSON] = {
            "signature": signed.signature,
            "summary": signed.summary,
            "publishers": {"sha256": hex_of(gate.publishers.digest())},
        }
        way.reach("signature_verified", said)
    return signed


def _refuse(way: Passage, findings: list[Finding]) -> Admission:
    """Decide against an artifact that is not what was asked for; nothing of it was parsed."""
    way.decide("rejected", findings, 0, of_bytes=False)
    scan = Scan("rejected", way.digest, tuple(findings), ())
    return Admission(scan, tuple(way.written), None)


def _reach_scanned(
    way: Passage, scan: Scan, same: tuple[str, ...], opinions: list[dict[str, JSON]]
) -> None:
    """Sign `tree_checked` and `scanned`, as far as nothing that they look at was rejected."""
    rejected = [one for one in scan.findings if one.outcome == "rejected"]
    if any(one.rule.startswith(_TREE_RULES) for one in rejected):
        return
    way.reach("tree_checked", {})
    if rejected:
        return
    kinds: list[JSON] = [{"path": one.path, "kind": one.kind} for one in scan.files]
    weights = digest_weights(scan)
    way.reach(
        "scanned",
        {
            "kinds": kinds,
            "weights": {"sha256": hex_of(weights)} if weights else None,
            "secondOpinions": cast(JSON, opinions),
            "sameWeightsAs": [{"sha256": hex_of(digest)} for digest in same],
        },
    )


def limit_formats(scan: Scan, policy: Policy) -> Scan:
    """Quarantine weights of a format that the policy does not list."""
    allowed = policy.admission.formats
    findings = [
        Finding(
            one.path,
            "format",
            "quarantined",
            f"the policy admits weights as {', '.join(allowed)}, and this is {one.kind}.",
        )
        for one in scan.files
        if one.kind in _WEIGHTS and one.kind not in allowed
    ]
    if not findings:
        return scan
    return replace(
        scan,
        outcome=worst([scan.outcome, "quarantined"]),
        findings=(*scan.findings, *findings),
    )


def digest_weights(scan: Scan) -> str | None:
    """Return the digest of the files with weights, whatever their names; None if there are none."""
    weights = sorted(one.sha256 for one in scan.files if one.kind in _WEIGHTS)
    return digest_json(weights) if weights else None


def _find_same_weights(scan: Scan, gate: Gate) -> tuple[str, ...]:
    """Return the admitted artifacts that have the same weights beside other files."""
    weights, root = digest_weights(scan), gate.project.admitted
    if weights is None or not root.is_dir():
        return ()
    same: list[str] = []
    for name in sorted(path.name for path in root.iterdir() if len(path.name) == 64):
        if f"sha256:{name}" == scan.digest:
            continue
        for one in gate.store.about(f"sha256:{name}", "admission")[0]:
            said = one.predicate.get("weights")
            if one.predicate["state"] == "scanned" and said == {"sha256": hex_of(weights)}:
                same.append(f"sha256:{name}")
                break
    return tuple(same)


def _keep(received: Received, scan: Scan, gate: Gate, complete: bool) -> Path | None:
    """Keep what was admitted or quarantined; of what was rejected, nothing stays."""
    project = gate.project
    if scan.outcome == "admitted":
        kept = keep(received, project.admitted)
        discard(scan.digest, project.quarantined)
        return kept
    if complete:  # an older policy or scanner may have let it in
        set_apart(scan.digest, project.admitted, project.quarantined)
    if scan.outcome == "quarantined" and received.files:
        return keep(received, project.quarantined)
    return None


@contextmanager
def _private_store(parent: Path) -> Generator[Path]:
    """Yield a folder that only this user may enter, gone afterwards."""
    with explain_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_admitted(store: EvidenceStore, digest: str, policy: Policy) -> Statement:
    """Return the decision that admitted an artifact, or refuse.

    Raises:
        GateClosed: the decision is missing, stale, unsigned, or not `admitted`.
    """
    decision, problem = find_decision(store, digest, policy)
    if decision is not None and decision.predicate["state"] == "admitted":
        return decision
    if decision is not None:
        findings = cast("list[dict[str, str]]", decision.predicate["findings"])
        reasons = "; ".join(f"{one['file']}: {one['reason'].rstrip('.')}" for one in findings[:5])
        problem = f"says {decision.predicate['state']} ({reasons})"
    raise GateClosed(
        f"The artifact {digest} may not be loaded: its admission {problem}. Admit it (`pedigree "
        "admit PATH`; for the base model, materialise base_model)."
    )
