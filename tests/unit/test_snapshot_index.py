"""The kept sketches of a snapshot: made once, signed for, and refused when tampered with."""

import shutil
from pathlib import Path

import pytest

from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import open_store
from pedigree.neighbours import local
from pedigree.neighbours.index import DOCUMENTS, find_known_copies
from pedigree.project import Project
from pedigree.snapshot_index import open_snapshot_index
from pedigree.snapshots import list_snapshots, open_snapshot


@pytest.fixture
def digest(trained_copy: Project) -> str:
    return next(list_snapshots(trained_copy.snapshots("training")))


def index_files(project: Project) -> list[Path]:
    return sorted(project.indexes.glob("*/*/*.arrow"))


def test_an_index_is_made_once_and_signed_for(
    trained_copy: Project, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_snapshot_index(trained_copy, digest)
    rows = open_snapshot(digest, trained_copy.snapshots("training")).read()
    texts = rows.column("text").to_pylist()
    assert len(find_known_copies(index, texts[:5], 0.99).pairs) >= 5
    (statement,) = open_store(trained_copy, trained_copy.policy()).about(digest, "neighbour-index")[
        0
    ]
    assert statement.predicate["rows"] == len(texts)
    # The second time no row of the snapshot is looked at: not even the file is needed.
    shutil.rmtree(trained_copy.snapshots("training"))
    asked: list[int] = []
    hashed = local.band_keys
    monkeypatch.setattr(local, "band_keys", lambda t: (asked.append(len(t)), hashed(t))[1])
    again = open_snapshot_index(trained_copy, digest)
    find_known_copies(again, texts[:5], 0.99)
    assert sum(asked) <= 5


def test_an_index_that_was_changed_is_made_again(trained_copy: Project, digest: str) -> None:
    open_snapshot_index(trained_copy, digest)
    (path,) = (one for one in index_files(trained_copy) if one.name == DOCUMENTS)
    honest = path.read_bytes()
    changed = bytearray(honest)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(bytes(changed))
    open_snapshot_index(trained_copy, digest)
    assert path.read_bytes() == honest


def test_an_index_without_a_signed_statement_is_made_again(
    trained_copy: Project, digest: str
) -> None:
    open_snapshot_index(trained_copy, digest)
    store = open_store(trained_copy, trained_copy.policy())
    store.about(digest, "neighbour-index")[0][0].path.unlink()
    open_snapshot_index(trained_copy, digest)
    assert len(store.about(digest, "neighbour-index")[0]) == 1


def test_an_unknown_snapshot_is_missing_evidence(trained_copy: Project) -> None:
    with pytest.raises(EvidenceMissing, match="There is no snapshot"):
        open_snapshot_index(trained_copy, "sha256:" + "0" * 64)
