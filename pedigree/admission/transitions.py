"""The states of an admission, each a signed statement about the artifact's digest.

    received -> pinned -> signature_verified -> tree_checked -> scanned -> [converted]
             -> admitted | quarantined | rejected

A statement is written for each state that was reached, and names the one before it. Where a step
refuses, the last statement is the decision, with every finding. `find_decision` reads it back.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from pedigree import __version__
from pedigree.admission.second_opinion import scanner_version
from pedigree.admission.verdict import Finding, Outcome, show
from pedigree.checks import digest_code
from pedigree.digests import JSON, FileEntry, Manifest, hex_of
from pedigree.errors import EvidenceMissing
from pedigree.evidence.policy import Policy
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.sandbox import Isolation

KIND = "admission"
PREDICATE_VERSION = 1
State: TypeAlias = Literal[
    "received", "pinned", "signature_verified", "tree_checked", "scanned", "converted",
    "admitted", "quarantined", "rejected",
]  # fmt: skip
DECISIONS: tuple[Outcome, ...] = ("admitted", "quarantined", "rejected")


AdmissionStep: TypeAlias = Literal["pin", "signature", "file_tree", "contents"]
_STEPS: dict[AdmissionStep, State] = {
    "pin": "pinned",
    "signature": "signature_verified",
    "file_tree": "tree_checked",
    "contents": "admitted",
}


@dataclass(frozen=True)
class StepResult:
    """What the newest admission of an artifact says of one step.

    Attributes:
        passed: whether the state behind the step was reached.
        summary: one sentence.
        statement: digest of the statement that says so.
        isolation: the level of the sandbox at that time.
        findings: up to 20 reasons against.
    """

    passed: bool
    summary: str
    statement: str
    isolation: str
    findings: list[dict[str, str]]


# They use what the gate decided, and do not bear on it.
_AFTER_THE_GATE = {"adapter_files.py", "adapters.py", "conversion.py", "trying.py"}


@cache
def gate_code_digest() -> str:
    """Return the digest of the code that decides: the files of this package up to the gate."""
    here = Path(__file__).parent
    names = {path.name for path in here.glob("*.py")} - _AFTER_THE_GATE
    workers = ["sandbox/workers/ask_modelaudit.py"]
    return digest_code(*sorted(f"{here.name}/{name}" for name in names), *workers)


def tool_versions() -> dict[str, JSON]:
    """Return which programs judged."""
    return {
        "pedigree": __version__,
        "gate-code": gate_code_digest(),
        "picklescan": scanner_version(),
        "python": platform.python_version(),
    }


@dataclass
class Passage:
    """Writes the statements of one artifact's way through the gate, each with its predecessor.

    Attributes:
        store: where they are written.
        policy: the policy in force.
        isolation: what the sandbox of this machine can hold.
        now: time of the admission.
        name: what the artifact is called, where it came from; only for people.
        digest: the artifact's digest.
    """

    store: EvidenceStore
    policy: Policy
    isolation: Isolation
    now: datetime
    name: str
    digest: str
    written: list[Statement] = field(default_factory=list[Statement])

    def reach(self, state: State, said: dict[str, JSON]) -> Statement:
        """Sign that a state was reached; `said` is what this state adds."""
        before = self.written[-1].digest if self.written else None
        predicate: dict[str, JSON] = {
            "version": PREDICATE_VERSION,
            "state": state,
            "previous": {"sha256": hex_of(before)} if before else None,
            "configuration": [
                {"name": "policy", "digest": {"sha256": hex_of(self.policy.digest())}},
                {
                    "name": "admission-policy",
                    "digest": {"sha256": hex_of(self.policy.admission.digest())},
                },
            ],
            "tools": tool_versions(),
            "isolation": cast(JSON, self.isolation.record()),
            "decidedOn": self.now.astimezone(UTC).isoformat(),
            **said,
        }
        subject: dict[str, JSON] = {
            "name": show(self.name, 200),
            "digest": {"sha256": hex_of(self.digest)},
        }
        statement = self.store.write(KIND, [subject], predicate)
        self.written.append(statement)
        return statement

    def decide(
        self,
        outcome: Outcome,
        findings: Sequence[Finding],
        unlisted: int,
        of_bytes: bool,
        signature: dict[str, JSON] | None = None,
    ) -> Statement:
        """Sign the decision.

        Args:
            outcome: what it is.
            findings: every reason against.
            unlisted: how many more there are.
            of_bytes: whether the digest's bytes were judged. A wrong pin, or a file that could
                not be read, is a refusal of what was asked, and says nothing about the digest.
            signature: the signature of a pinned publisher.
        """
        return self.reach(
            outcome,
            {
                "findings": [cast(JSON, dict(vars(finding))) for finding in findings],
                "unlisted": unlisted,
                "bytesJudged": of_bytes,
                "signature": signature,
            },
        )


def find_decision(
    store: EvidenceStore, digest: str, policy: Policy
) -> tuple[Statement | None, str]:
    """Return the newest decision about a digest's bytes that counts, or None and why there is none.

    It counts under the admission policy in force and from the gate's present code. Where a
    statement was deleted nobody knows whether another is the newest, so none counts.
    """
    if deleted := store.find_deleted(digest, KIND):
        return None, f"may not be the newest ({deleted[0].rstrip('.')})"
    statements, problems = store.about(digest, KIND)
    decided = [
        one
        for one in statements
        if one.predicate["state"] in DECISIONS and one.predicate["bytesJudged"]
    ]
    if not decided:
        problem = f"is not signed by a trusted key ({problems[0]})" if problems else "is missing"
        return None, problem
    newest = max(decided, key=_order)
    if newest.predicate["state"] == "rejected":
        return newest, ""  # a policy that changed does not undo a rejection
    if admission_policy(newest) != policy.admission.digest():
        return None, "is stale (another admission policy since)"
    if newest.predicate["tools"].get("gate-code") != gate_code_digest():
        return None, "is stale (other code of the gate since)"
    return newest, ""


def find_newest_passage(store: EvidenceStore, digest: str) -> list[Statement]:
    """Return the statements of the newest admission of a digest, of whatever policy and outcome.

    Raises:
        EvidenceMissing: there is none, or one of them is gone.
    """
    decided = [one for one in store.about(digest, KIND)[0] if one.predicate["state"] in DECISIONS]
    try:
        return read_passage(store, max(decided, key=_order))
    except (ValueError, KeyError):
        raise EvidenceMissing(
            f"There is no whole record of an admission of {digest}: admit it (`pedigree admit "
            "PATH`; for the base model, materialise base_model_admission)."
        ) from None


def _order(statement: Statement) -> tuple[str, int]:
    """Newest last; of two at the same moment the worse."""
    state = cast(Outcome, statement.predicate["state"])
    return str(statement.predicate["decidedOn"]), DECISIONS.index(state)


def admission_policy(statement: Statement) -> str:
    """Return the digest of the admission policy under which a statement was written."""
    items = cast(list[dict[str, Any]], statement.predicate["configuration"])
    found = [item["digest"]["sha256"] for item in items if item["name"] == "admission-policy"]
    return f"sha256:{found[0]}" if found else ""


def read_passage(store: EvidenceStore, decision: Statement) -> list[Statement]:
    """Return the statements that led to a decision, the first state first.

    Raises:
        KeyError: one of them is gone or not trusted.
    """
    about = f"sha256:{decision.subjects[0]['digest']['sha256']}"
    known = {one.digest: one for one in store.about(about, KIND)[0]}
    chain = [decision]
    while chain[-1].predicate["previous"]:
        chain.append(known[f"sha256:{chain[-1].predicate['previous']['sha256']}"])
    return chain[::-1]


def find_kinds(store: EvidenceStore, decision: Statement) -> dict[str, str]:
    """Return what each file of a judged artifact is, by its path; empty if it was not scanned."""
    for one in read_passage(store, decision):
        if one.predicate["state"] == "scanned":
            return {item["path"]: item["kind"] for item in one.predicate["kinds"]}
    return {}


def find_manifest(store: EvidenceStore, digest: str) -> Manifest | None:
    """Return the files of an artifact that was received before, or None."""
    for one in store.about(digest, KIND)[0]:
        if one.predicate["state"] == "received":
            files = cast(list[dict[str, Any]], one.predicate["files"])
            return tuple(FileEntry.model_validate(entry) for entry in files)
    return None


def explain_step(store: EvidenceStore, digest: str, step: AdmissionStep) -> StepResult:
    """Return what the newest admission of an artifact says of one step.

    Raises:
        EvidenceMissing: there is no whole record of an admission.
    """
    passage = find_newest_passage(store, digest)
    decision = passage[-1]
    reached = [one for one in passage if one.predicate["state"] == _STEPS[step]]
    isolation = str(decision.predicate["isolation"]["level"])
    if reached:
        summary = f"{_STEPS[step]}: {_say(step, reached[0])}"
        return StepResult(True, summary, reached[0].digest, isolation, [])
    findings = cast(list[dict[str, str]], decision.predicate["findings"])
    last = passage[-2].predicate["state"]
    shown = "; ".join(f"{one['file']}: {one['reason'].rstrip('.')}" for one in findings[:5])
    summary = (
        f"It was {decision.predicate['state']} and got as far as {last}: {shown or 'no reason'}. "
        "Look at where it comes from, or take another."
    )
    return StepResult(False, summary, decision.digest, isolation, findings[:20])


def _say(step: AdmissionStep, statement: Statement) -> str:
    said = statement.predicate
    if step == "pin":
        return f"as {said['pin']['by']} has it." if said["pin"] else "no pin was declared."
    if step == "signature":
        return str(said["summary"])
    return "nothing was found."
