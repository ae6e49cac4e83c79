"""From frozen data to a finished, recorded model: what the asset and a rebuild both call.

The order makes a crash harmless: gate, capture, train into a working folder, then into MLflow,
and the record last. Without a record nothing downstream sees the model.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pedigree.admission.gate import require_admitted
from pedigree.base_models import BaseModelSource, open_base_model
from pedigree.capture import capture_code, capture_environment, find_code_root, read_diff
from pedigree.digests import Manifest, digest_file, hex_of
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.revocations import require_not_revoked
from pedigree.evidence.store import open_store
from pedigree.evidence.verdicts import require_passed
from pedigree.fetching import describe_uri
from pedigree.files import write_atomically
from pedigree.locks import InUse, hold
from pedigree.params import Params
from pedigree.project import Project, Zone
from pedigree.snapshots import open_snapshot
from pedigree.sources import load_sources
from pedigree.tracking import tracked_run
from pedigree.training.determinism import worker_environment
from pedigree.training.launch import run_worker
from pedigree.training.record import (
    BaseModelInput,
    SnapshotInput,
    TrainingInputs,
    TrainingRecord,
    find_adapter_digest,
)
from pedigree.training.worker import TrainRequest
from pedigree.versioning import read_pointer
from pedigree.zones import confined

CHECKPOINT_EVERY = 50
_SETTINGS_FILES = ("params.yaml", "policy.yaml", "dvc.yaml", "dvc.lock")

Report = Callable[[dict[str, Any]], None]


def gather_inputs(
    project: Project, params: Params, training: str, base: str, source: BaseModelSource
) -> TrainingInputs:
    """Open what training reads, by digest, and describe all that decides the weights."""
    root = find_code_root(project.root)
    open_base_model(base, project.admitted)
    return TrainingInputs(
        params=params.train,
        labels=declared_labels(project),
        training=describe_snapshot(project, training, "training"),
        base=BaseModelInput(
            id=source.id,
            digest=base,
            uri=describe_uri(source.uri, project.root),
            uri_sha256=source.sha256,
            licence=source.licence,
            publisher=source.publisher,
        ),
        code=capture_code(root),
        environment=capture_environment(root),
    )


def declared_labels(project: Project) -> tuple[str, ...]:
    """Return every label that a training or evaluation source declares, sorted."""
    sources = load_sources(project.root / "sources").values()
    return tuple(sorted({name for s in sources if s.labels for name in s.labels.names}))


def describe_snapshot(project: Project, digest: str, zone: Zone) -> SnapshotInput:
    """Return what a record says of a snapshot.

    Raises:
        EvidenceMissing: DVC has no pointer for it, so nobody could restore it later.
    """
    snapshot = open_snapshot(digest, project.snapshots(zone))
    pointer = read_pointer(project.root, snapshot.path)
    if pointer is None:
        raise EvidenceMissing(
            f"DVC does not track {snapshot.path}: materialise the snapshot again."
        )
    return SnapshotInput(
        digest=digest,
        manifest_digest=snapshot.manifest_digest,
        rows=snapshot.rows,
        zone=zone,
        dvc=pointer,
    )


def train_model(
    project: Project,
    params: Params,
    *,
    training: str,
    evaluation: str,
    base: str,
    source: BaseModelSource,
    invocation: str,
    clock: Callable[[], datetime],
    report: Report,
    inherited: Mapping[str, str],
) -> TrainingRecord:
    """Pass the gate, train, log to MLflow, and write the record.

    Args:
        project: where everything lies.
        params: parameters of the run.
        training: digest of the training snapshot.
        evaluation: digest of the evaluation snapshot that belongs to it; never read here.
        base: digest of the base model.
        source: its declaration.
        invocation: id of the Dagster run.
        clock: returns the time.
        report: receives progress.
        inherited: environment for the worker to take its few harmless variables from.

    Raises:
        GateClosed: a verdict that the policy requires of the data is missing, failed or stale, or
            the base model was not admitted.
    """
    policy = project.policy()
    store = open_store(project, policy)
    require_not_revoked(
        store,
        {"training snapshot": training, "evaluation snapshot": evaluation, "base model": base},
        "training",
    )
    require_passed(
        store,
        training,
        policy.training.required_checks,
        policy,
        "training",
        clock(),
        {"evaluation_snapshot": evaluation},
    )
    require_admitted(store, base, policy)
    with confined("training"):
        inputs = gather_inputs(project, params, training, base, source)
    diff = read_diff(find_code_root(project.root), inputs.code.changed_files)
    started = clock()
    configuration = inputs.configuration()
    work = project.work / hex_of(configuration)[:32]
    tags = {
        "pedigree.training_snapshot": training,
        "pedigree.evaluation_snapshot": evaluation,
        "pedigree.base_model": base,
        "pedigree.code_commit": str(inputs.code.commit),
        "pedigree.code_dirty": str(inputs.code.dirty),
        "pedigree.lock_sha256": str(inputs.environment.lock_sha256),
        "pedigree.configuration": configuration,
        "pedigree.invocation": invocation,
    }
    run_params = params.train.model_dump(mode="json")
    with _alone(work), tracked_run(project, params.model_name, run_params, tags) as run:

        def follow(record: dict[str, Any]) -> None:
            run.log_progress(record)
            report(record)

        out = work / "model"
        request = TrainRequest(
            code_root=find_code_root(project.root),
            params=params.train,
            labels=inputs.labels,
            snapshots=project.snapshots("training"),
            snapshot=training,
            base_models=project.admitted,
            base=base,
            configuration=configuration,
            checkpoints=work / "checkpoints",
            checkpoint_every=CHECKPOINT_EVERY,
            out=out,
        )
        remove_folder(out)
        result = run_worker(request, follow, worker_environment(params.train, inherited))
        files = TypeAdapter(Manifest).validate_python(result["files"])
        digest = str(result["model_digest"])
        model_id, location = run.log_model(params.model_name, out, digest, tags)
        record = TrainingRecord(
            model_name=params.model_name,
            model_files=files,
            adapter_digest=find_adapter_digest(files),
            inputs=inputs,
            evaluation_snapshot=describe_snapshot(project, evaluation, "evaluation"),
            hardware=result["hardware"],
            environment_variables=worker_environment(params.train),
            steps=result["steps"],
            tokens=result["tokens"],
            final_loss=result["final_loss"],
            started_on=started.astimezone(UTC).isoformat(),
            finished_on=clock().astimezone(UTC).isoformat(),
            invocation=invocation,
            mlflow_run=run.run_id,
            mlflow_model=model_id,
            location=_relative(location, project.root),
            settings_files={
                name: digest_file(project.root / name).sha256
                for name in _SETTINGS_FILES
                if (project.root / name).is_file()
            },
            input_digests=inputs.digests(),
            resumed_from=result["resumed_from"],
            isolation=result["isolation"],
        )
        text = record.model_dump_json(indent=2)
        run.log_results(
            {"final_loss": record.final_loss, "steps": record.steps, "tokens": record.tokens},
            {
                "pedigree/training_record.json": text,
                **({"pedigree/dirty.diff": diff} if inputs.code.dirty else {}),
            },
            clock(),
        )
        write_atomically(_record_path(project, digest), text.encode())
    remove_folder(work)
    return record


def load_record(project: Project, digest: str) -> TrainingRecord:
    """Return the record of a trained model that is not attested yet.

    Raises:
        EvidenceMissing: no model of that digest was trained here.
    """
    path = _record_path(project, digest)
    if not path.is_file():
        raise EvidenceMissing(f"No training record is known of {digest}: train it first.")
    return TrainingRecord.model_validate_json(path.read_bytes())


@contextmanager
def _alone(work: Path) -> Generator[None]:
    """Hold a working folder; another process that trains the same configuration is refused."""
    try:
        with hold(work / "lock", shared=False):
            yield
    except InUse:
        raise PedigreeError(
            f"Another process trains this very configuration (it holds {work}/lock): wait until it "
            "has ended."
        ) from None


def _record_path(project: Project, digest: str) -> Path:
    return project.root / ".pedigree" / "records" / f"{hex_of(digest)}.json"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def remove_folder(folder: Path) -> None:
    """Remove a working folder if it is there."""
    import shutil

    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
