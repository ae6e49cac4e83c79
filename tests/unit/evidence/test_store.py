"""The store of statements: found by their subject, believed only as they were written."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pedigree.digests import sha256_hex
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.ledger import Ledger
from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.ledger_verification import verify_ledger
from pedigree.evidence.policy import load_policy
from pedigree.evidence.store import (
    PREDICATES,
    EvidenceStore,
    Statement,
    adopt_statements,
    open_store,
)
from pedigree.evidence.trust import register_key
from pedigree.project import Project
from tests.conftest import REPOSITORY

ONE, TWO = "1" * 64, "12" * 32
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(tmp_path / "evidence", (KEY.public_key(),), KEY)


def write(store: EvidenceStore, about: str = ONE, kind: str = "snapshot", **more: Any) -> Statement:
    return store.write(kind, [{"name": "it", "digest": {"sha256": about}}], {"n": 1, **more})


@pytest.mark.parametrize("kind", sorted(PREDICATES))
def test_a_statement_of_every_kind_is_found_by_its_subject(store: EvidenceStore, kind: str) -> None:
    written = write(store, kind=kind)
    assert store.about("sha256:" + ONE, kind) == ([written], [])
    assert list(store.all(kind)) == [written]
    assert store.about("sha256:" + TWO, kind) == ([], [])
    assert (written.kind, written.predicate) == (kind, {"n": 1})
    assert written.path.parent.name == ONE


def test_a_statement_is_an_in_toto_statement_named_by_its_envelope(store: EvidenceStore) -> None:
    written = write(store)
    data = written.path.read_bytes()
    assert written.digest == "sha256:" + sha256_hex(data)
    assert written.path.name == f"snapshot-{sha256_hex(data)}.dsse.json"
    assert store.verify(data) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "it", "digest": {"sha256": ONE}}],
        "predicateType": PREDICATES["snapshot"],
        "predicate": {"n": 1},
    }


def test_writing_the_same_twice_keeps_one_file(store: EvidenceStore) -> None:
    assert write(store).path == write(store).path
    assert len(list(store.folder.rglob("*.json"))) == 1
    assert write(store, n=2).path != write(store).path


def test_only_the_first_subject_is_what_a_statement_is_found_by(store: EvidenceStore) -> None:
    subjects: list[dict[str, Any]] = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in (("a", ONE), ("b", TWO))
    ]
    written = store.write("training", subjects, {})
    assert written.subjects == tuple(subjects)
    assert store.about(ONE, "training")[0] == [written]
    assert store.about(TWO, "training")[0] == []


def test_no_kind_begins_like_another() -> None:
    """Files are found as `<kind>-*`: a kind "base" would find those of "base-model"."""
    assert not [
        (one, other) for one in PREDICATES for other in PREDICATES if other.startswith(one + "-")
    ]


def test_a_changed_file_is_refused(store: EvidenceStore) -> None:
    path = write(store).path
    data = path.read_bytes()
    for position in range(0, len(data), 17):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(VerificationFailed, match="changed after it was written"):
            store.read(path)
    path.write_bytes(data)
    assert store.read(path)


def test_a_changed_file_under_a_name_that_fits_is_refused(store: EvidenceStore) -> None:
    path = write(store).path
    envelope = json.loads(path.read_bytes())
    envelope["payload"] = envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]
    data = json.dumps(envelope).encode()
    forged = path.with_name(f"snapshot-{sha256_hex(data)}.dsse.json")
    forged.write_bytes(data)
    with pytest.raises(VerificationFailed, match="is not trusted"):
        store.read(forged)


@pytest.mark.parametrize("how", ["to another subject", "to another kind", "to another name"])
def test_a_statement_that_was_moved_is_refused(store: EvidenceStore, how: str) -> None:
    path = write(store).path
    if how == "to another subject":
        target = store.folder / TWO / path.name
        target.parent.mkdir()
    elif how == "to another kind":
        target = path.with_name(path.name.replace("snapshot-", "verdict-"))
    else:
        target = path.with_name(f"snapshot-{'0' * 64}.dsse.json")
    shutil.copy(path, target)
    with pytest.raises(VerificationFailed):
        store.read(target)
    about, kind = target.parent.name, target.name.partition("-")[0]
    trusted, problems = store.about(about, kind)
    assert target not in [one.path for one in trusted]
    assert str(target) in problems[0]


def test_a_statement_of_an_unknown_key_is_reported_and_never_returned(
    store: EvidenceStore,
) -> None:
    stranger = Ed25519PrivateKey.generate()
    other = EvidenceStore(store.folder, (stranger.public_key(),), stranger)
    mine, theirs = write(store), write(other, n=2)
    statements, problems = store.about(ONE, "snapshot")
    assert statements == [mine]
    assert len(problems) == 1
    assert str(theirs.path) in problems[0]
    assert "no trusted key signed it" in problems[0]
    with pytest.raises(VerificationFailed):
        store.verify(theirs.path.read_bytes())
    both = EvidenceStore(store.folder, (KEY.public_key(), stranger.public_key()))
    assert len(both.about(ONE, "snapshot")[0]) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"[]",
        b"\xff",
        pytest.param(
            b'{"payload":"","payloadType":5,"signatures":[]}',
        ),
    ],
)
def test_garbage_beside_a_statement_is_reported_and_hides_nothing(
    store: EvidenceStore, data: bytes
) -> None:
    mine = write(store)
    mine.path.with_name(f"snapshot-{sha256_hex(data)}.dsse.json").write_bytes(data)
    mine.path.with_name("snapshot-x.dsse.json").write_bytes(data)
    statements, problems = store.about(ONE, "snapshot")
    assert statements == [mine]
    assert len(problems) == 2


def test_half_written_files_are_not_looked_at(store: EvidenceStore) -> None:
    mine = write(store)
    mine.path.with_name(".partial-0123").write_bytes(b"half")
    assert store.about(ONE, "snapshot") == ([mine], [])


def test_all_refuses_a_statement_that_is_not_trusted(store: EvidenceStore) -> None:
    mine = write(store)
    mine.path.write_bytes(b"x")
    with pytest.raises(VerificationFailed):
        list(store.all("snapshot"))


def test_nothing_is_written_without_a_key(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path, (KEY.public_key(),))
    with pytest.raises(PedigreeError, match="no key to sign with"):
        write(store)
    assert list(tmp_path.iterdir()) == []


def test_a_subject_is_found_by_the_beginning_of_its_digest(store: EvidenceStore) -> None:
    write(store, ONE)
    write(store, TWO)
    assert store.find_subject("sha256:" + ONE, "snapshot") == "sha256:" + ONE
    assert store.find_subject(TWO[:12].upper(), "snapshot") == "sha256:" + TWO
    with pytest.raises(EvidenceMissing, match="No training evidence"):
        store.find_subject(ONE[:12], "training")
    with pytest.raises(EvidenceMissing):
        store.find_subject("0" * 12, "snapshot")


@pytest.mark.parametrize("prefix", ["", "1", ONE[:11], "production", "sha256:", "*" * 12, "1/../1"])
def test_a_short_or_malformed_beginning_is_refused(store: EvidenceStore, prefix: str) -> None:
    write(store)
    with pytest.raises(PedigreeError, match="at least 12 of its hex digits") as error:
        store.find_subject(prefix, "snapshot")
    assert error.value.exit_code == 2


def test_a_beginning_that_fits_two_digests_is_refused(store: EvidenceStore) -> None:
    write(store, "ab" * 32)
    write(store, "ab" * 10 + "0" * 44)
    with pytest.raises(PedigreeError, match="fits 2 digests"):
        store.find_subject("ab" * 10, "snapshot")
    assert store.find_subject("ab" * 11, "snapshot") == "sha256:" + "ab" * 32


def test_a_malformed_digest_finds_nothing_by_accident(store: EvidenceStore) -> None:
    with pytest.raises(PedigreeError, match="not a sha256 digest"):
        store.about("latest", "snapshot")


def test_the_policy_decides_whether_the_development_key_counts(tmp_path: Path) -> None:
    project = Project(tmp_path)
    policy = load_policy(REPOSITORY / "policy.yaml")
    assert policy.keys.accept_development_keys
    assert open_store(project, policy).trusted == ()
    assert not project.keys.exists()
    store = open_store(project, policy, write=True)
    statement = write(store)
    reader = open_store(project, policy)
    assert reader.signer is None
    assert reader.about(ONE, "snapshot")[0] == [statement]
    strict = policy.model_copy(
        update={"keys": policy.keys.model_copy(update={"accept_development_keys": False})}
    )
    for one in (open_store(project, strict), open_store(project, strict, write=True)):
        assert one.trusted == ()
        assert one.about(ONE, "snapshot")[0] == []
        with pytest.raises(PedigreeError, match="no key to sign with as builder"):
            write(one)


def test_a_key_is_not_shown_with_the_store(store: EvidenceStore) -> None:
    assert "signer" not in repr(store)


@pytest.fixture
def listed(tmp_path: Path) -> EvidenceStore:
    """A store whose statements are listed in a ledger."""
    keys = (KEY.public_key(),)
    ledger = Ledger(LocalFiles(tmp_path / "ledger"), keys, KEY)
    return EvidenceStore(tmp_path / "evidence", keys, KEY, ledger)


def test_every_statement_of_a_project_is_listed_in_its_ledger(tmp_path: Path) -> None:
    project = Project(tmp_path)
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    variables = {"PEDIGREE_KEY_REVIEWER": "env:PEM", "PEM": pem}
    project = Project(tmp_path, variables=variables)
    register_key(
        project.trust, KEY.public_key(), "ada", ("reviewer",), datetime(2020, 1, 1, tzinfo=UTC)
    )
    store = open_store(project, load_policy(REPOSITORY / "policy.yaml"), write=True)
    written = [write(store, kind=kind) for kind in sorted(PREDICATES)]
    write(store, kind="snapshot")
    assert store.ledger
    assert verify_ledger(store.ledger, LocalFiles(project.evidence)).size == len(PREDICATES)
    for statement in written:
        entry = store.ledger.find(f"{ONE}/{statement.path.name}")
        assert entry
        assert entry.predicate_type == PREDICATES[statement.kind]
        assert "sha256:" + entry.envelope == statement.digest
        made = statement.path.stat().st_mtime
        assert abs(datetime.fromisoformat(entry.time).timestamp() - made) < 1
    reader = open_store(project, load_policy(REPOSITORY / "policy.yaml"))
    assert reader.about(ONE, "verdict")[0] == store.about(ONE, "verdict")[0] != []


def test_a_statement_that_was_dropped_in_is_not_believed(listed: EvidenceStore) -> None:
    """Signed with the right key, as an old copy or another project's statement would be."""
    mine = write(listed)
    dropped = write(EvidenceStore(listed.folder, listed.trusted, KEY), n=2)
    statements, problems = listed.about(ONE, "snapshot")
    assert statements == [mine]
    assert len(problems) == 1
    assert f"{dropped.path} is not in the ledger" in problems[0]
    assert list(listed.all("snapshot")) == [mine]
    assert listed.find_unlisted() == [f"{ONE}/{dropped.path.name}"]


def test_a_statement_that_was_deleted_is_missed(listed: EvidenceStore) -> None:
    kept, gone = write(listed), write(listed, n=2)
    write(listed, kind="verdict")
    gone.path.unlink()
    statements, problems = listed.about(ONE, "snapshot")
    assert statements == [kept]
    assert len(problems) == 1
    assert f"{ONE}/{gone.path.name} is listed in the ledger and was deleted" in problems[0]
    assert listed.about(ONE, "verdict")[1] == []
    assert len(list(listed.all("verdict"))) == 1
    with pytest.raises(VerificationFailed, match="was deleted"):
        list(listed.all("snapshot"))


def test_a_statement_whose_writer_was_killed_is_listed_when_it_is_written_again(
    listed: EvidenceStore,
) -> None:
    write(listed, n=0)
    bare = EvidenceStore(listed.folder, listed.trusted, KEY)
    write(bare)
    assert len(listed.about(ONE, "snapshot")[0]) == 1
    written = write(listed)
    assert written in listed.about(ONE, "snapshot")[0]
    assert listed.about(ONE, "snapshot")[1] == []


def test_statements_older_than_the_ledger_do_not_count_until_they_are_adopted(
    listed: EvidenceStore,
) -> None:
    bare = EvidenceStore(listed.folder, listed.trusted, KEY)
    old = [write(bare, n=2), write(bare, about=TWO)]
    statements, problems = listed.about(ONE, "snapshot")
    assert statements == []
    assert "it is older than the ledger" in problems[0]
    with pytest.raises(VerificationFailed, match="not in the ledger"):
        list(listed.all("snapshot"))
    new = write(listed, n=3)
    assert listed.about(ONE, "snapshot")[0] == [new]
    assert adopt_statements(listed) == [f"{one.path.parent.name}/{one.path.name}" for one in old]
    assert adopt_statements(listed) == []
    assert len(listed.about(ONE, "snapshot")[0]) == 2
    with pytest.raises(PedigreeError, match="no ledger"):
        adopt_statements(bare)


def test_removing_the_ledger_whole_makes_nothing_believed(listed: EvidenceStore) -> None:
    write(listed)
    assert listed.ledger
    shutil.rmtree(listed.ledger.files.place)
    assert listed.about(ONE, "snapshot")[0] == []


def test_a_statement_that_no_trusted_key_signed_is_not_adopted(listed: EvidenceStore) -> None:
    write(listed)
    stranger = Ed25519PrivateKey.generate()
    write(EvidenceStore(listed.folder, (stranger.public_key(),), stranger), n=2)
    with pytest.raises(VerificationFailed, match="no trusted key signed it"):
        adopt_statements(listed)
