"""The neighbour index of a snapshot: made once, signed for, verified at each use.

    >>> index = open_snapshot_index(project, digest)
    >>> find_known_copies(index, new_texts, similarity=0.8)

An index that was tampered with would hide copies, so its manifest is in a signed statement about
the snapshot. Verifying it reads its files once; the snapshot's rows are not hashed again.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pedigree.digests import digest_manifest, digest_tree, hex_of
from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.files import folder_written_atomically
from pedigree.neighbours.index import Index, build_index, kernel_digest, open_index
from pedigree.project import Project
from pedigree.snapshots import Snapshot, open_snapshot


def open_snapshot_index(project: Project, digest: str, redis: str | None = None) -> Index:
    """Open the index of a training or evaluation snapshot; make and sign it where there is none.

    Args:
        project: where snapshots, indexes and evidence lie.
        digest: the snapshot's, or at least its first 12 digits.
        redis: keep and look up the bands in this Redis server; it is filled where it is empty.

    Raises:
        EvidenceMissing: there is no such snapshot here.
        PedigreeError: nothing can sign the index, or Redis cannot be used.
    """
    store = open_store(project, project.policy(), write=True)
    if len(digest.removeprefix("sha256:")) < 64:
        digest = store.find_subject(digest, "snapshot")
    folder = project.indexes / hex_of(digest) / hex_of(kernel_digest())
    if not _is_vouched_for(store, digest, folder):
        _make_index(_find_snapshot(project, digest), folder, store)
    if redis is None:
        return open_index(folder)
    from pedigree.neighbours.redis_bands import fill_redis, holds_index, open_redis_index

    if not holds_index(redis, folder):
        fill_redis(redis, folder)
    return open_redis_index(redis, folder)


def _is_vouched_for(store: EvidenceStore, digest: str, folder: Path) -> bool:
    """Return whether a trusted statement names exactly the files that lie in `folder`."""
    if not folder.is_dir():
        return False
    found = digest_manifest(digest_tree(folder))
    return any(
        cast(dict[str, Any], one.predicate["manifest"])["sha256"] == hex_of(found)
        for one in store.about(digest, "neighbour-index")[0]
    )


def _make_index(snapshot: Snapshot, folder: Path, store: EvidenceStore) -> None:
    import shutil

    table = snapshot.read()
    shutil.rmtree(folder, ignore_errors=True)  # one that nobody vouches for
    with folder_written_atomically(folder) as partial:
        labels = cast(list[str | None], table.column("label").to_pylist())
        documents = build_index(partial, table.column("text"), labels)
    store.write(
        "neighbour-index",
        [
            {
                "name": f"{snapshot.manifest.zone}_snapshot",
                "digest": {"sha256": hex_of(snapshot.digest)},
            }
        ],
        {
            "kernel": {"sha256": hex_of(kernel_digest())},
            "manifest": {"sha256": hex_of(digest_manifest(digest_tree(folder)))},
            "rows": snapshot.rows,
            "documents": documents,
        },
    )


def _find_snapshot(project: Project, digest: str) -> Snapshot:
    for zone in ("training", "evaluation"):
        with suppress(EvidenceMissing):
            return open_snapshot(digest, project.snapshots(zone))
    raise EvidenceMissing(f"There is no snapshot {digest} here: give a digest from `pedigree why`.")
