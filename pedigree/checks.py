"""The checks there are: what each claims, about what, and which code decides it.

A verdict carries the digest of that code, so that a verdict reached by other code is stale.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pedigree.digests import digest_file, digest_manifest
from pedigree.errors import PedigreeError

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Check:
    """One check: its claim, its subject, and the files that implement it."""

    name: str
    subject: Literal["snapshot", "model"]
    claim: str
    code: tuple[str, ...]

    def code_digest(self) -> str:
        """Return the digest of the files that decide this check."""
        return digest_code(*self.code)


@cache
def digest_code(*files: str) -> str:
    """Return the digest of files of this package: which code did something."""
    return digest_manifest(
        tuple(digest_file(_PACKAGE / name).model_copy(update={"path": name}) for name in files)
    )


NEIGHBOURS = tuple(
    f"neighbours/{name}.py" for name in ("normalisation", "kernel", "overlap", "local")
)


def _poisoning(*modules: str) -> tuple[str, ...]:
    return tuple(f"poisoning/{name}.py" for name in modules)


_JUDGED = _poisoning("features", "judging")

_CHECKS = (
    Check(
        "schema_holds",
        "snapshot",
        "columns, types, texts and labels are as declared",
        ("integrity.py", "curation.py"),
    ),
    Check(
        "snapshot_digest_matches",
        "snapshot",
        "bytes, rows and DVC pointer are the ones that the digest names",
        ("integrity.py", "snapshots.py", "digests.py"),
    ),
    Check(
        "near_duplicate_label_conflicts",
        "snapshot",
        "near-copies of a text do not dispute its label beyond what is natural",
        (*NEIGHBOURS, "poisoning/near_duplicates.py"),
    ),
    Check(
        "near_duplicate_floods",
        "snapshot",
        "no text is there in many near-copies, and no source is made of them",
        (*NEIGHBOURS, "poisoning/floods.py"),
    ),
    Check(
        "trigger_ngrams",
        "snapshot",
        "no word, phrase or part of a word is tied to a label as a trigger would be",
        _poisoning(
            "triggers",
            "ngrams",
            "out_of_fold",
            "insertion",
            "candidates",
            "selection",
            "attribution",
        ),
    ),
    Check(
        "label_issues",
        "snapshot",
        "no label and no source holds far more wrong labels than the rest of the corpus",
        (*NEIGHBOURS, *_JUDGED, *_poisoning("labels", "trigger_blind")),
    ),
    Check(
        "anomalous_clusters",
        "snapshot",
        "no rows of one label, alike in form, say something else than their label",
        (*NEIGHBOURS, *_JUDGED, *_poisoning("labels", "clusters", "form")),
    ),
    Check(
        "influential_rows",
        "snapshot",
        "the rows that bend a model most are listed",
        _poisoning("labels", "features", "influence"),
    ),
    Check(
        "flattering_rows",
        "snapshot",
        "no label of the evaluation data gathers rows that the training data contradicts",
        (*NEIGHBOURS, *_JUDGED, *_poisoning("labels")),
    ),
    Check(
        "annotator_manipulation",
        "snapshot",
        "no annotators push a label on texts with a word",
        (
            "votes.py",
            *_poisoning(
                "annotators", "consensus", "crowd", "crowd_charges", "targeting", "target_charges"
            ),
        ),
    ),
    Check(
        "quarantine_window",
        "snapshot",
        "no more rows than the policy allows are younger than its quarantine",
        _poisoning("source_shift"),
    ),
    Check(
        "snapshot_changes",
        "snapshot",
        "few labels changed since the snapshot of the last promoted model",
        _poisoning("source_shift", "crowd"),
    ),
    Check(
        "source_drift",
        "snapshot",
        "sources whose new rows differ from their old ones are reported",
        _poisoning("source_shift", "crowd", "consensus"),
    ),
    Check(
        "hidden_text",
        "snapshot",
        "no characters are there that a reader does not see or takes for others",
        _poisoning("hidden_text", "characters", "homoglyphs", "invisible"),
    ),
    Check(
        "embedded_instructions",
        "snapshot",
        "no text gives instructions to a model",
        _poisoning("instructions", "cues", "characters"),
    ),
    Check(
        "secrets",
        "snapshot",
        "keys, account numbers and personal data are reported as the policy says",
        _poisoning("secrets", "characters"),
    ),
    Check(
        "evaluation_leakage",
        "snapshot",
        "no evaluation row is a near-copy of a training row",
        (*NEIGHBOURS, "poisoning/leakage.py"),
    ),
    Check("weights_are_finite", "model", "every weight is a finite number", ("integrity.py",)),
    Check(
        "environment_matches_lock",
        "model",
        "every installed distribution is the locked one, file by file",
        ("dependencies/installed.py",),
    ),
    Check(
        "evaluation_accuracy",
        "model",
        "accuracy is above its floor and not below production's, overall and per source",
        tuple(f"training/{name}.py" for name in ("evaluation", "assessment", "worker", "model")),
    ),
)
# What a drill says depends on every check that it drills.
_DRILLED = {file for check in _CHECKS if check.subject == "snapshot" for file in check.code}
_FLOOR = Check(
    "detection_floor",
    "snapshot",
    "known attacks planted in a copy are seen from as few rows as the policy demands",
    (*sorted(_DRILLED), "drilling.py", "inspection.py", *_poisoning("drill", "attacks")),
)
CHECKS = {check.name: check for check in (*_CHECKS, _FLOOR)}


def find_check(name: str) -> Check:
    """Return a check by its name.

    Raises:
        PedigreeError: there is none, for example because a policy names one that does not exist.
    """
    if name not in CHECKS:
        raise PedigreeError(f"There is no check {name!r}: known are {', '.join(CHECKS)}.")
    return CHECKS[name]
