"""The training record: everything that a model was made of, as one SLSA provenance statement.

`externalParameters` and `resolvedDependencies` say what went in, `internalParameters` where and
how it ran. `TrainingRecord` is the same as a typed object; `to_predicate` and `read_record` go
back and forth, so a statement alone is enough to rebuild from. docs/evidence.md has the format.
"""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field

from pedigree.capture import Code, Environment
from pedigree.digests import JSON, FileEntry, Manifest, digest_json, digest_manifest, hex_of
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.store import Statement
from pedigree.evidence.verdicts import verdict_check
from pedigree.params import TrainingParams
from pedigree.settings import Settings, parse_settings
from pedigree.versioning import DvcPointer

BUILD_TYPE = "urn:pedigree:build:training:v1"
BUILDER = "urn:pedigree:builder:local:v1"


class SnapshotInput(Settings):
    """A snapshot that went in: what it is, and where DVC keeps its bytes."""

    digest: str
    manifest_digest: str
    rows: int
    zone: str
    dvc: DvcPointer


class BaseModelInput(Settings):
    """The base model that went in, and where its weights came from."""

    id: str
    digest: str
    uri: str
    uri_sha256: str
    licence: str
    publisher: str


class TrainingInputs(Settings):
    """All that decides the weights: equal inputs on an equal machine give equal bits."""

    params: TrainingParams
    labels: tuple[str, ...]
    training: SnapshotInput
    base: BaseModelInput
    code: Code
    environment: Environment

    def describe(self) -> dict[str, JSON]:
        """Return each input that decides the weights, by name, flat."""
        params = self.params.model_dump(mode="json")
        return {
            **{f"train.{name}": value for name, value in params.items()},
            "labels": list(self.labels),
            "training_snapshot": self.training.digest,
            "base_model": self.base.digest,
            "code": self.code.files_digest,
            "lock": self.environment.lock_sha256,
            "distributions": dict(self.environment.distributions),
        }

    def configuration(self) -> str:
        """Return the digest that binds a checkpoint to its run."""
        return digest_json(self.describe())

    def digests(self) -> dict[str, str]:
        """Return a digest of each input, so that a record can say which of them was changed."""
        return {name: digest_json(value) for name, value in self.describe().items()}


class TrainingRecord(Settings):
    """One finished training run."""

    model_name: str
    model_files: Manifest
    adapter_digest: str | None
    inputs: TrainingInputs
    evaluation_snapshot: SnapshotInput
    hardware: dict[str, Any]
    environment_variables: dict[str, str]
    steps: int
    tokens: int
    final_loss: float
    started_on: str
    finished_on: str
    invocation: str
    mlflow_run: str
    mlflow_model: str
    location: str
    settings_files: dict[str, str]
    input_digests: dict[str, str]
    resumed_from: int
    # What the process could reach; records from before it was confined do not say.
    isolation: dict[str, Any] = Field(default_factory=dict[str, Any])

    @property
    def model_digest(self) -> str:
        """The identity of the model's folder."""
        return digest_manifest(self.model_files)

    def ingredients(self) -> dict[str, str]:
        """Return the digest of the model and of all that it was made of, by what each is."""
        adapter = {"adapter": self.adapter_digest} if self.adapter_digest else {}
        return {
            "model": self.model_digest,
            "training snapshot": self.inputs.training.digest,
            "evaluation snapshot": self.evaluation_snapshot.digest,
            "base model": self.inputs.base.digest,
            **adapter,
        }

    def to_predicate(self, verdicts: list[Statement]) -> dict[str, JSON]:
        """Return the SLSA v1 provenance predicate; `verdicts` may hold waivers."""
        inputs = self.inputs
        # Each fact stands once: what a user chose is an external parameter and not repeated.
        internal = self.model_dump(mode="json")
        external: dict[str, JSON] = {
            "repository": inputs.code.repository,
            "ref": inputs.code.commit,
            "model_name": internal.pop("model_name"),
            "params": internal["inputs"].pop("params"),
            "labels": internal["inputs"].pop("labels"),
            "base_model": internal["inputs"]["base"].pop("id"),
            "adapters": [],
        }
        dependencies: list[JSON] = [
            {
                "name": "code",
                "uri": inputs.code.repository or "",
                "digest": {
                    **({"gitCommit": inputs.code.commit} if inputs.code.commit else {}),
                    "sha256": hex_of(inputs.code.files_digest),
                },
            },
            *[
                {
                    "name": name,
                    "uri": snapshot.dvc.path,
                    # md5 is where DVC keeps it; sha256 is what it must be.
                    "digest": {"sha256": hex_of(snapshot.digest), "md5": snapshot.dvc.md5},
                }
                for name, snapshot in (
                    ("training_snapshot", inputs.training),
                    ("evaluation_snapshot", self.evaluation_snapshot),
                )
            ],
            {
                "name": "base_model",
                "uri": inputs.base.uri,
                "digest": {"sha256": hex_of(inputs.base.digest)},
            },
            *[
                {
                    "name": f"{verdict.kind}:{verdict_check(verdict)}",
                    "digest": {"sha256": hex_of(verdict.digest)},
                }
                for verdict in verdicts
            ],
        ]
        if inputs.environment.lock_sha256 is not None:
            dependencies.append(
                {
                    "name": "lock",
                    "uri": inputs.environment.lock or "",
                    "digest": {"sha256": inputs.environment.lock_sha256},
                }
            )
        return {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": internal,
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"pedigree": inputs.code.version}},
                "metadata": {
                    "invocationId": self.invocation,
                    "startedOn": self.started_on,
                    "finishedOn": self.finished_on,
                },
                "byproducts": [
                    {"name": "mlflow-run", "uri": f"mlflow-run:{self.mlflow_run}"},
                    {"name": "mlflow-model", "uri": f"models:/{self.mlflow_model}"},
                ],
            },
        }

    def subjects(self) -> list[dict[str, JSON]]:
        """Return the statement's subjects: the folder first, then each file."""
        return [
            {"name": self.model_name, "digest": {"sha256": hex_of(self.model_digest)}},
            *[
                cast(dict[str, JSON], {"name": f.path, "digest": {"sha256": f.sha256}})
                for f in self.model_files
            ],
        ]


def read_predicate(predicate: Mapping[str, Any]) -> TrainingRecord:
    """Return the record that a provenance predicate carries.

    Raises:
        PedigreeError: it is no predicate of this form.
    """
    try:
        definition = predicate["buildDefinition"]
        internal, external = definition["internalParameters"], definition["externalParameters"]
        inputs = internal["inputs"]
        base = {**inputs["base"], "id": external["base_model"]}
        chosen = {"params": external["params"], "labels": external["labels"], "base": base}
        values = {
            **internal,
            "model_name": external["model_name"],
            "inputs": {**inputs, **chosen},
        }
    except (KeyError, TypeError) as error:
        raise PedigreeError(f"It is no training record: it lacks {error}.") from None
    return parse_settings(TrainingRecord, values, "The training record")


def read_record(statement: Statement) -> TrainingRecord:
    """Return the record that a training statement carries.

    Raises:
        VerificationFailed: its parts contradict each other.
    """
    record = read_predicate(statement.predicate)
    subject = "sha256:" + statement.subjects[0]["digest"]["sha256"]
    if record.model_digest != subject:
        raise VerificationFailed(
            f"The statement {statement.digest} is about {subject} but describes "
            f"{record.model_digest}."
        )
    return record


def find_adapter_digest(files: Manifest) -> str | None:
    """Return the digest of the `adapter/` folder in a model's manifest, or None without one."""
    inside = tuple(
        FileEntry(path=f.path.removeprefix("adapter/"), size=f.size, sha256=f.sha256)
        for f in files
        if f.path.startswith("adapter/")
    )
    return digest_manifest(inside) if inside else None
