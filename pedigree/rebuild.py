"""Making a recorded model again: the recorded code, lock, data and parameters, a fresh process.

A git worktree at the recorded commit, an environment with the recorded distributions, the snapshot
by digest (from DVC where it is not here), the base model by its pin. What comes out is compared
with the recorded digest, and the verdict is signed:

    >>> rebuild_model(project, read_record_file(path), ...).verdict
    'bit-identical'
"""

import base64
import binascii
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from pydantic import TypeAdapter

from pedigree.admission.gate import Gate, admit_artifact, open_gate, require_admitted
from pedigree.admission.pins import Pin
from pedigree.admission.transitions import find_decision
from pedigree.base_models import admit_base_model, load_base_model_source, open_base_model
from pedigree.capture import find_code_root
from pedigree.digests import JSON, Manifest, digest_manifest, digest_tree, hex_of
from pedigree.environments import prepare_environment
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.store import EvidenceStore, Statement, open_store
from pedigree.locks import hold
from pedigree.project import Project
from pedigree.settings import parse_settings
from pedigree.snapshots import open_snapshot
from pedigree.training.assessment import evaluate_folder, find_evaluation
from pedigree.training.determinism import inherit, keep_pins
from pedigree.training.launch import run_worker
from pedigree.training.record import SnapshotInput, TrainingRecord, read_predicate
from pedigree.training.worker import RebuildRequest
from pedigree.versioning import restore

Verdict: TypeAlias = Literal["bit-identical", "within tolerance", "different"]

# Where bits differ for no reason but the machine: how far accuracy may lie apart. On 1,000 rows at
# an accuracy of .8 the standard error is .013, and most rows are predicted alike.
ACCURACY_TOLERANCE = 0.01


@dataclass(frozen=True)
class RecordedTraining:
    """A training record and whether somebody who is trusted signed it."""

    predicate: dict[str, Any]
    record: TrainingRecord
    signed: bool


@dataclass(frozen=True)
class Rebuild:
    """What came out of a rebuild.

    Attributes:
        recorded: digest of the model that the record describes.
        rebuilt: digest of the model that came out.
        verdict: bit-identical; within tolerance, where bits differ but no input does; different.
        reason: why it is that verdict, in a sentence.
        differences: which input or part of the machine differs from the record.
        accuracy: (recorded, rebuilt) on the evaluation snapshot, where both are known.
        environment: how the recorded distributions were had.
        promise: what the record's mode promises.
    """

    recorded: str
    rebuilt: str
    verdict: Verdict
    reason: str
    differences: tuple[str, ...]
    accuracy: tuple[float, float] | None
    environment: str
    promise: Verdict
    signed: bool

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return self.verdict == "bit-identical" or self.verdict == self.promise


def read_record_file(path: Path, store: EvidenceStore) -> RecordedTraining:
    """Read a training statement (DSSE) or a bare predicate from a file.

    A statement whose signer is not known here is read all the same: a rebuild compares what comes
    out with what the record claims. The result says that nobody vouched for it.

    Raises:
        PedigreeError: the file is missing or holds neither.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PedigreeError(f"{path} is missing: name a training statement or record.") from None
    except OSError as error:
        raise PedigreeError(
            f"{path} cannot be read ({error.strerror}): name a training statement or record."
        ) from None
    except (ValueError, RecursionError):
        raise PedigreeError(f"{path} is not JSON: name a training statement or record.") from None
    signed = False
    if isinstance(content, dict) and "payload" in content:
        try:
            signed = bool(store.verify(path.read_bytes()))
        except VerificationFailed:
            signed = False
        try:
            content = json.loads(base64.b64decode(cast(str, content["payload"])))
        except (ValueError, TypeError, binascii.Error):
            raise PedigreeError(f"{path} is a broken envelope: no payload.") from None
    if isinstance(content, dict) and "predicate" in content:
        content = cast(dict[str, Any], content)["predicate"]
    if not isinstance(content, dict):
        raise PedigreeError(f"{path} holds no training statement or record.")
    predicate = cast(dict[str, Any], content)
    if "model_files" in predicate:  # the copy that MLflow keeps
        record = parse_settings(TrainingRecord, predicate, str(path))
        return RecordedTraining(cast(dict[str, Any], record.to_predicate([])), record, signed)
    return RecordedTraining(predicate, read_predicate(predicate), signed)


def read_statement(statement: Statement) -> RecordedTraining:
    """Return what a verified training statement records."""
    return RecordedTraining(statement.predicate, read_predicate(statement.predicate), True)


def rebuild_model(
    project: Project,
    recorded: RecordedTraining,
    *,
    clock: Callable[[], datetime],
    report: Callable[[dict[str, Any]], None],
    inherited: Mapping[str, str],
) -> Rebuild:
    """Train a recorded model again and sign how the result compares.

    Raises:
        PedigreeError: the record's code was not committed, its lock cannot be installed, or this
            machine does not offer the recorded instruction set.
        EvidenceMissing: the commit, the snapshot or the base model cannot be had.
        VerificationFailed: what was had is not what was recorded.
    """
    record = recorded.record
    # Held, or `pedigree doctor` would take the worktree for what a killed rebuild left.
    with hold(project.lock, shared=True), _worktree(project, record) as tree:
        python, how = prepare_environment(project, record, tree)
        _have_snapshot(project, record.inputs.training)
        _have_base(project, record, tree, clock())
        request = RebuildRequest(
            code_root=tree,
            predicate=recorded.predicate,
            snapshots=project.snapshots("training"),
            base_models=project.admitted,
            out=tree.parent / "model",
        )
        pins = {**inherit(inherited), **keep_pins(record.environment_variables)}
        result = run_worker(request, report, pins, python)
        rebuilt = digest_manifest(digest_tree(request.out))
        differences = _find_differences(record, result)
        accuracy = None
        if rebuilt != record.model_digest:
            accuracy = _compare_accuracy(project, record, request.out, rebuilt, inherited)
    verdict, reason = judge_rebuild(record, rebuilt, differences, accuracy)
    outcome = Rebuild(
        record.model_digest,
        rebuilt,
        verdict,
        reason,
        differences,
        accuracy,
        how,
        "bit-identical" if record.inputs.params.mode == "strict" else "within tolerance",
        recorded.signed,
    )
    _sign(project, record, outcome, result, clock())
    return outcome


def judge_rebuild(
    record: TrainingRecord,
    rebuilt: str,
    differences: tuple[str, ...],
    accuracy: tuple[float, float] | None,
) -> tuple[Verdict, str]:
    """Return the verdict and why it is that one."""
    if rebuilt == record.model_digest:
        return "bit-identical", f"all {len(record.model_files)} files are the recorded ones"
    from_inputs = [one for one in differences if not one.startswith("machine")]
    if from_inputs:
        return "different", f"an input differs: {'; '.join(from_inputs)}"
    if accuracy is None:
        return "different", "the bits differ, and no recorded accuracy is known to compare with"
    apart = abs(accuracy[0] - accuracy[1])
    said = f"the bits differ, and accuracy is {apart:.4f} apart, where {ACCURACY_TOLERANCE} may be"
    return ("within tolerance" if apart <= ACCURACY_TOLERANCE else "different"), said


@contextmanager
def _worktree(project: Project, record: TrainingRecord) -> Generator[Path]:
    """Yield a git worktree at the recorded commit; it is gone afterwards."""
    code = record.inputs.code
    if code.commit is None or code.dirty:
        what = ", ".join(code.changed_files[:5]) or "no commit"
        raise PedigreeError(
            f"Model {record.model_digest} was trained from code that was not committed ({what}), "
            "so it cannot be rebuilt: train it again from a commit."
        )
    root = find_code_root(project.root)
    folder = project.rebuilds / uuid.uuid4().hex
    tree = folder / "tree"
    folder.mkdir(parents=True)
    try:
        added = _git(root, "worktree", "add", "--detach", str(tree), code.commit)
        if added.returncode != 0:
            raise EvidenceMissing(
                f"The recorded commit {code.commit} is not in the repository {root} "
                f"({' '.join(added.stderr.split())[-200:]}): fetch it, for example with `git fetch "
                "--all`."
            )
        yield tree
    finally:
        _git(root, "worktree", "remove", "--force", str(tree))
        shutil.rmtree(folder, ignore_errors=True)
        _git(root, "worktree", "prune")


def _git(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )


def _have_snapshot(project: Project, snapshot: SnapshotInput) -> None:
    """Make sure that a snapshot is here and verified, from DVC's cache or remote if need be."""
    zone = cast(Literal["training", "evaluation"], snapshot.zone)
    root = project.snapshots(zone)
    try:
        open_snapshot(snapshot.digest, root)
    except EvidenceMissing:
        if (
            snapshot.dvc.path
            != (root / hex_of(snapshot.digest)).relative_to(project.root).as_posix()
        ):
            raise PedigreeError(
                f"The record keeps the snapshot {snapshot.digest} at {snapshot.dvc.path}, where "
                "none belongs: the record was changed."
            ) from None
        restore(project.root, snapshot.dvc)
        open_snapshot(snapshot.digest, root)


def _have_base(project: Project, record: TrainingRecord, tree: Path, now: datetime) -> None:
    """Make sure that the base model is here and admitted, from the recorded pin if need be."""
    base = record.inputs.base
    gate = open_gate(project)
    if find_decision(gate.store, base.digest, gate.policy)[0] is None:
        try:  # what an older gate let in is judged again
            kept = open_base_model(base.digest, project.admitted)
            admit_artifact(kept.path, gate, now, pin=Pin(base.digest, "the training record"))
        except EvidenceMissing:
            _fetch_base(gate, record, tree, now)
    require_admitted(gate.store, base.digest, gate.policy)
    try:
        open_base_model(base.digest, project.admitted)
    except EvidenceMissing:
        _fetch_base(gate, record, tree, now)


def _fetch_base(gate: Gate, record: TrainingRecord, tree: Path, now: datetime) -> None:
    base = record.inputs.base
    source = load_base_model_source(tree / "base_models", base.id)
    found = admit_base_model(gate, source, tree, now)
    found.require(f"The base model {base.id} of the recorded commit")
    if found.digest != base.digest:
        raise VerificationFailed(
            f"The base model {base.id} of the recorded commit is {found.digest}, but the "
            f"record says {base.digest}."
        )


def _find_differences(record: TrainingRecord, result: Mapping[str, Any]) -> tuple[str, ...]:
    """Name every input and every part of the machine that is not as recorded."""
    now = record.inputs.digests()
    changed = [
        f"{name} in the record is not what the model was trained with"
        for name in sorted(now.keys() | record.input_digests.keys())
        if now.get(name) != record.input_digests.get(name)
    ]
    if result.get("code") not in (None, record.inputs.code.files_digest):
        changed.append("code of the recorded commit is not the recorded code")
    hardware = cast(dict[str, Any], result["hardware"])
    changed += [
        f"machine: {name} was {record.hardware.get(name)!r}, is {hardware.get(name)!r}"
        for name in sorted(record.hardware.keys() | hardware.keys())
        if record.hardware.get(name) != hardware.get(name)
    ]
    return tuple(changed)


def _compare_accuracy(
    project: Project,
    record: TrainingRecord,
    folder: Path,
    digest: str,
    inherited: Mapping[str, str],
) -> tuple[float, float] | None:
    """Return (recorded, rebuilt) accuracy, or None where no recorded one is known."""
    store = open_store(project, project.policy())
    snapshot = record.evaluation_snapshot
    before = find_evaluation(store, record.model_digest, snapshot.digest)
    if before is None:
        return None
    _have_snapshot(project, snapshot)
    now = evaluate_folder(project, record, folder, digest, snapshot.digest, inherited)
    return before.accuracy, now.accuracy


def _sign(
    project: Project,
    record: TrainingRecord,
    outcome: Rebuild,
    result: Mapping[str, Any],
    now: datetime,
) -> None:
    files = TypeAdapter(Manifest).dump_python(
        TypeAdapter(Manifest).validate_python(result["files"]), mode="json"
    )
    open_store(project, project.policy(), write=True).write(
        "rebuild",
        [{"name": record.model_name, "digest": {"sha256": hex_of(outcome.recorded)}}],
        {
            "verdict": outcome.verdict,
            "reason": outcome.reason,
            "promise": outcome.promise,
            "rebuilt": {"sha256": hex_of(outcome.rebuilt)},
            "rebuiltFiles": cast(JSON, files),
            "differences": list(outcome.differences),
            "accuracy": list(outcome.accuracy) if outcome.accuracy else None,
            "accuracyTolerance": ACCURACY_TOLERANCE,
            "commit": record.inputs.code.commit,
            "environment": outcome.environment,
            "hardware": cast(JSON, result["hardware"]),
            "recordWasSigned": outcome.signed,
            "rebuiltOn": now.astimezone(UTC).isoformat(),
        },
    )
