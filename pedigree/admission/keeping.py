"""Where artifacts are kept once they are judged, and how they are opened: by digest, verified.

    <root>/<digest>/config.json, model.safetensors, ...

The files are the very copies that were hashed and scanned, linked from the store into which they
were received. Nobody may write them; each use compares them with the digest all the same.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pedigree.admission.receiving import Received
from pedigree.digests import Manifest, digest_manifest, digest_tree, hex_of
from pedigree.errors import EvidenceMissing, VerificationFailed
from pedigree.files import folder_written_atomically

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,199}\Z")


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk, verified when this object was made; a single file has a folder too."""

    path: Path
    digest: str
    files: Manifest


def keep(received: Received, root: Path) -> Path:
    """Put the received copies under `root`, named by their digest; return the folder."""
    target = root / hex_of(received.digest)
    with folder_written_atomically(target) as folder:
        for entry in received.files:
            name = entry.path
            if not received.folder and not _NAME.match(name):
                name = "artifact"
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(received.store / entry.sha256, place)
    return target


def open_artifact(digest: str, root: Path, missing: str) -> Artifact:
    """Open an artifact after verifying every file.

    Args:
        digest: of the folder's manifest, or of a single file.
        root: where artifacts lie.
        missing: what to do where there is none, for the message.

    Raises:
        EvidenceMissing: there is none of that digest.
        VerificationFailed: a file is missing, extra or changed.
    """
    path = root / hex_of(digest)
    if not path.is_dir():
        raise EvidenceMissing(f"There is no admitted artifact {digest}: {missing}.")
    files = digest_tree(path)
    alone = len(files) == 1 and f"sha256:{files[0].sha256}" == digest
    if not alone and digest_manifest(files) != digest:
        raise VerificationFailed(
            f"The artifact in {path} was changed: it is {digest_manifest(files)} now. Remove the "
            f"folder and {missing}."
        )
    return Artifact(path, digest, files)


def discard(digest: str, root: Path) -> None:
    """Remove what is kept under a digest, if anything is."""
    shutil.rmtree(root / hex_of(digest), ignore_errors=True)


def set_apart(digest: str, admitted: Path, quarantined: Path) -> None:
    """Move what is kept under a digest out of what may be loaded, if anything is there."""
    source, target = admitted / hex_of(digest), quarantined / hex_of(digest)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        quarantined.mkdir(parents=True, exist_ok=True)
        source.rename(target)
