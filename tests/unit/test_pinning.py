"""Moving a pin on purpose: what is shown, and what is left alone when something is wrong."""

import shutil
from pathlib import Path

import pytest

from pedigree.dataset import ingest_source
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.pinning import repin_source
from pedigree.project import Project
from pedigree.sources import find_source
from tests.conftest import NOW, REPOSITORY, declare_source, review_rows, write_csv

ROWS = review_rows(30)
Rows = list[tuple[str, str, str]]


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project with one source and the policy; pinning needs neither git nor DVC."""
    shutil.copy(REPOSITORY / "policy.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text("base_model: none\n")
    declare(tmp_path, serve(tmp_path, ROWS))
    return Project(tmp_path)


def serve(root: Path, rows: Rows) -> str:
    """Let the source serve these rows; return the sha256 of its file."""
    return write_csv(root / "inbox" / "shop.csv", rows)


def declare(root: Path, pin: str | None) -> Path:
    return declare_source(root, "shop", str(root / "inbox" / "shop.csv"), pin)


def read_documents_of(project: Project) -> None:
    ingest_source(project, find_source(project.root / "sources", "shop"), NOW)


def pin_of(project: Project) -> str | None:
    return find_source(project.root / "sources", "shop").sha256


def test_a_first_pin_is_the_sha256_of_what_is_served(bare: Project) -> None:
    served = pin_of(bare)
    declare(bare.root, None)
    with pytest.raises(PedigreeError, match="`pedigree sources pin shop`"):
        read_documents_of(bare)
    change = repin_source(bare, "shop", NOW)
    assert (change.old, change.new, change.rows) == (None, served, 30)
    assert change.labels == {"negative": 15, "positive": 15}
    assert (change.added, change.removed, change.changed) == (None, None, None)
    assert pin_of(bare) == served
    read_documents_of(bare)


def test_a_moved_pin_shows_what_was_added_removed_and_changed(bare: Project) -> None:
    read_documents_of(bare)
    old = pin_of(bare)
    key, text, _ = ROWS[3]
    served = serve(
        bare.root,
        [*ROWS[:3], (key, text, "negative"), ("r00004", "another text", "negative"), *ROWS[7:],
         ("new", "a new text", "positive")],
    )  # fmt: skip
    with pytest.raises(VerificationFailed):
        read_documents_of(bare)
    change = repin_source(bare, "shop", NOW)
    assert (change.old, change.new, change.source) == (old, served, "shop")
    assert (change.added, change.removed, change.changed, change.rows) == (1, 2, 2, 29)
    shown = "\n".join(change.examples)
    assert f"changed: [positive] {text!r} -> [negative] {text!r}" in shown
    assert f"changed: [negative] {ROWS[4][1]!r} -> [negative] 'another text'" in shown
    assert "added: [positive] 'a new text'" in shown
    for removed in ROWS[5:7]:
        assert f"removed: [{removed[2]}] {removed[1]!r}" in shown
    assert len(change.examples) == 5
    assert pin_of(bare) == served
    read_documents_of(bare)


def test_examples_are_few_and_short_however_much_changed(bare: Project) -> None:
    read_documents_of(bare)
    serve(bare.root, [(key, "x" * 500, label) for key, _, label in ROWS])
    change = repin_source(bare, "shop", NOW)
    assert change.changed == 30
    assert len(change.examples) == 5
    assert all(len(example) < 300 for example in change.examples)


def test_a_pin_that_still_fits_leaves_the_file_alone(bare: Project) -> None:
    read_documents_of(bare)
    path = bare.root / "sources" / "shop.yaml"
    before = (path.read_bytes(), path.stat().st_ino)
    change = repin_source(bare, "shop", NOW)
    assert change.old == change.new
    assert (change.added, change.removed, change.changed) == (0, 0, 0)
    assert (path.read_bytes(), path.stat().st_ino) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"id,text,label\n1,a,oops\n", "label 'oops'"),
        (b"id,words,label\n1,a,positive\n", "no column 'text'"),
        (b"id,text,label\n1,a,positive\n1,b,positive\n", "rows with the key '1'"),
        (b"id,text,label\n1,\xff,positive\n", "UTF-8"),
        (None, "cannot be reached"),
    ],
)
def test_a_source_that_cannot_be_read_keeps_its_old_pin(
    bare: Project, content: bytes | None, message: str
) -> None:
    path = bare.root / "sources" / "shop.yaml"
    before = path.read_bytes()
    file = bare.root / "inbox" / "shop.csv"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PedigreeError, match=message):
        repin_source(bare, "shop", NOW)
    assert path.read_bytes() == before


def test_pinning_keeps_no_unverified_bytes(bare: Project) -> None:
    repin_source(bare, "shop", NOW)
    store = bare.fetched("training")
    assert not store.exists() or list(store.iterdir()) == []


def test_an_unknown_source_is_named_with_the_known_ones(bare: Project) -> None:
    with pytest.raises(PedigreeError, match="no source 'shoop': known are shop"):
        repin_source(bare, "shoop", NOW)
