"""The record of a merge: which adapters went into which base, in which order, as SLSA provenance.

The statement is of kind `merge`, about the merged model's folder. Whoever merges signs it; tracing
reads it, so that a merged model descends from everything that its adapters were trained on::

    >>> record_merge(store, MergeRecord(name="legal", model_files=files, base=base, ...))
    >>> read_merge(statement).adapters
    (MergedAdapter(name='tone', digest='sha256:3646…', weight=1.0),)
"""

from typing import Any, cast

from pydantic import Field

from pedigree.capture import Code
from pedigree.digests import JSON, Manifest, digest_manifest, hex_of
from pedigree.errors import VerificationFailed
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.settings import Settings, parse_settings

BUILD_TYPE = "urn:pedigree:build:merge:v1"
BUILDER = "urn:pedigree:builder:local:v1"


class MergedAdapter(Settings):
    """One adapter of a merge, and how much of it was added."""

    name: str
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    weight: float


class MergeRecord(Settings):
    """One finished merge; the adapters are in the order in which they were applied.

    `base` is the digest of a base model, or of a model that was trained or merged here.
    """

    name: str
    model_files: Manifest
    base: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    adapters: tuple[MergedAdapter, ...] = Field(min_length=1)
    method: str
    dtype: str
    code: Code
    started_on: str
    finished_on: str
    invocation: str

    @property
    def model_digest(self) -> str:
        """The identity of the merged model's folder."""
        return digest_manifest(self.model_files)


def record_merge(store: EvidenceStore, record: MergeRecord) -> Statement:
    """Sign the record of a merge.

    Raises:
        PedigreeError: there is no builder's key to sign with.
    """
    values = record.model_dump(mode="json")
    external: dict[str, JSON] = {
        "repository": record.code.repository,
        "ref": record.code.commit,
        **{key: values.pop(key) for key in ("name", "base", "adapters", "method", "dtype")},
    }
    times = {key: values.pop(key) for key in ("started_on", "finished_on", "invocation")}
    return store.write(
        "merge",
        [
            {"name": record.name, "digest": {"sha256": hex_of(record.model_digest)}},
            *[
                cast(dict[str, JSON], {"name": one.path, "digest": {"sha256": one.sha256}})
                for one in record.model_files
            ],
        ],
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": values,
                "resolvedDependencies": [
                    {"name": "code", "digest": {"sha256": hex_of(record.code.files_digest)}},
                    {"name": "base_model", "digest": {"sha256": hex_of(record.base)}},
                    *[
                        {"name": f"adapter:{one.name}", "digest": {"sha256": hex_of(one.digest)}}
                        for one in record.adapters
                    ],
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"pedigree": record.code.version}},
                "metadata": {
                    "invocationId": times["invocation"],
                    "startedOn": times["started_on"],
                    "finishedOn": times["finished_on"],
                },
            },
        },
    )


def read_merge(statement: Statement) -> MergeRecord:
    """Return the record that a merge statement carries.

    Raises:
        VerificationFailed: it is about another model than it describes.
        PedigreeError: it is no merge of this form.
    """
    definition: dict[str, Any] = statement.predicate["buildDefinition"]
    metadata: dict[str, Any] = statement.predicate["runDetails"]["metadata"]
    external = dict(definition["externalParameters"])
    external.pop("repository")
    external.pop("ref")
    values = {
        **definition["internalParameters"],
        **external,
        "started_on": metadata["startedOn"],
        "finished_on": metadata["finishedOn"],
        "invocation": metadata["invocationId"],
    }
    record = parse_settings(MergeRecord, values, "The merge record")
    subject = "sha256:" + str(statement.subjects[0]["digest"]["sha256"])
    if record.model_digest != subject:
        raise VerificationFailed(
            f"The statement {statement.digest} is about {subject} but describes "
            f"{record.model_digest}."
        )
    return record
