"""Who may sign what: roles, times, revocations, owners' names, and where private keys are."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.policy import load_policy
from pedigree.evidence.signers import make_key, open_signer
from pedigree.evidence.signing import Signer, key_id, sign_statement, verify_envelope
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.evidence.trust import (
    Role,
    list_keys,
    load_trust,
    parse_time,
    register_key,
    require_owner,
    revoke_key,
)
from pedigree.project import Project
from tests.conftest import REPOSITORY, present

ABOUT = "ab" * 32
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
STATEMENT = {"subject": [{"name": "x", "digest": {"sha256": ABOUT}}], "predicateType": "x"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def policy(accept: bool = True):
    found = load_policy(REPOSITORY / "policy.yaml")
    keys = found.keys.model_copy(update={"accept_development_keys": accept})
    return found.model_copy(update={"keys": keys})


def enlist(project: Project, owner: str, *roles: Role, **more: object) -> Signer:
    """Make a key in a file, register it, and return it."""
    signer = make_key(project.keys / f"{owner}.pem")
    valid_from = more.pop("valid_from", LONG_AGO)
    assert isinstance(valid_from, datetime)
    register_key(project.trust, signer.public_key(), owner, roles, valid_from, **more)  # type: ignore[arg-type]
    return signer


def write(store: EvidenceStore, kind: str, signer: Signer) -> None:
    store.write(kind, [{"name": "x", "digest": {"sha256": ABOUT}}], {"n": 1}, signer)


def open_writer(project: Project) -> EvidenceStore:
    return open_store(project, policy(), write=True)


@pytest.mark.parametrize(
    ("kind", "role", "other"),
    [
        ("verdict", "checker", "builder"),
        ("training", "builder", "checker"),
        ("approval", "reviewer", "builder"),
        ("waiver", "reviewer", "releaser"),
        ("revocation", "releaser", "builder"),
        ("promotion", "releaser", "reviewer"),
    ],
)
def test_a_statement_counts_only_from_a_key_with_its_role(
    project: Project, kind: str, role: Role, other: Role
) -> None:
    right, wrong = enlist(project, "ada", role), enlist(project, "bob", other)
    store = open_writer(project)
    write(store, kind, right)
    assert len(store.about(ABOUT, kind)[0]) == 1
    assert store.owner(store.about(ABOUT, kind)[0][0]) == "ada"
    with pytest.raises(
        VerificationFailed, match=rf"bob signed it, who is {other}, and a .* {kind}"
    ):
        write(store, kind, wrong)
    assert len(store.about(ABOUT, kind)[0]) == 1


def test_the_development_key_reviews_nothing_and_counts_only_where_the_policy_says(
    project: Project,
) -> None:
    store = open_writer(project)
    with pytest.raises(PedigreeError, match="no key to sign with as reviewer"):
        store.write("waiver", [{"name": "x", "digest": {"sha256": ABOUT}}], {"n": 1})
    store.write("verdict", [{"name": "x", "digest": {"sha256": ABOUT}}], {"n": 1})
    assert store.owner(store.about(ABOUT, "verdict")[0][0]) == "development"
    strict = open_store(project, policy(accept=False))
    found, problems = strict.about(ABOUT, "verdict")
    assert not found
    assert "no trusted key signed it" in problems[0] or "not trusted" in problems[0]


def test_a_registered_development_key_is_refused_by_a_production_policy(project: Project) -> None:
    ada = enlist(project, "ada", "checker", development=True)
    write(open_writer(project), "verdict", ada)
    assert open_store(project, policy()).about(ABOUT, "verdict")[0]
    assert not open_store(project, policy(accept=False)).about(ABOUT, "verdict")[0]


def test_a_key_counts_from_and_until_its_dates(project: Project) -> None:
    early = enlist(project, "ada", "checker", valid_until=LONG_AGO + timedelta(days=1))
    late = enlist(project, "bob", "checker", valid_from=present() + timedelta(days=1))
    store = open_writer(project)
    with pytest.raises(VerificationFailed, match="ada that signed it had expired"):
        write(store, "verdict", early)
    with pytest.raises(VerificationFailed, match="bob that signed it counts from"):
        write(store, "verdict", late)
    assert store.about(ABOUT, "verdict")[0] == []


def test_what_a_key_signed_before_it_was_revoked_stays_and_nothing_after(project: Project) -> None:
    ada = enlist(project, "ada", "checker")
    write(open_writer(project), "verdict", ada)
    ledger = open_writer(project).ledger
    assert ledger is not None
    head = ledger.read_signed_head()
    assert head is not None
    identifier = key_id(ada.public_key())
    revoke_key(project.trust, identifier[:12], "laptop lost", present(), head.size)
    after = open_writer(project)
    assert len(after.about(ABOUT, "verdict")[0]) == 1
    with pytest.raises(VerificationFailed, match=r"ada that signed it was revoked .*laptop lost"):
        after.write("verdict", [{"name": "x", "digest": {"sha256": ABOUT}}], {"n": 2}, ada)
    assert len(after.about(ABOUT, "verdict")[0]) == 1
    with pytest.raises(PedigreeError, match="revoked already"):
        revoke_key(project.trust, identifier, "again", present(), 0)


def test_a_key_that_was_stolen_earlier_counts_for_nothing_since(project: Project) -> None:
    ada = enlist(project, "ada", "checker")
    write(open_writer(project), "verdict", ada)
    revoke_key(project.trust, key_id(ada.public_key()), "stolen at once", present(), 0)
    assert open_writer(project).about(ABOUT, "verdict")[0] == []


@pytest.mark.parametrize(
    "owner",
    ["Ada", "аda", "ada\u200b", "ａda", "ada bob", "", "development", "../ada", "a" * 200],  # noqa: RUF001
)
def test_no_owner_looks_like_another(project: Project, owner: str) -> None:
    with pytest.raises(PedigreeError, match="lower-case ASCII"):
        require_owner(owner)
    key = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(PedigreeError, match="was not added"):
        register_key(project.trust, key, owner, ("reviewer",), LONG_AGO)
    assert not project.trust.exists()


def test_one_key_has_one_owner(project: Project) -> None:
    ada = enlist(project, "ada", "builder")
    before = project.trust.read_bytes()
    with pytest.raises(PedigreeError, match="listed once"):
        register_key(project.trust, ada.public_key(), "bob", ("reviewer",), LONG_AGO)
    assert project.trust.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "0" * 64}, "is not the sha256 of this public key"),
        ({"roles": ["king"]}, "roles"),
        ({"roles": []}, "roles"),
        ({"valid_from": "2020-01-01T00:00:00"}, "timezone"),
        ({"valid_until": "2019-01-01T00:00:00+00:00"}, "not after valid_from"),
        ({"revoked_on": "2020-01-02T00:00:00+00:00"}, "a revocation has"),
        ({"public_key": "none"}, "no ed25519 public key"),
        ({"nickname": "a"}, "nickname"),
    ],
)
def test_a_file_of_keys_that_is_not_valid_is_refused_whole(
    project: Project, change: dict[str, object], message: str
) -> None:
    enlist(project, "ada", "reviewer")
    content = json.loads(project.trust.read_text())
    content["keys"][0] |= change
    project.trust.write_text(json.dumps(content))
    with pytest.raises(PedigreeError, match=message):
        load_trust(project.trust, None, accept_development=True)
    project.trust.write_text("no json")
    with pytest.raises(PedigreeError, match="is not valid"):
        list_keys(project.trust)


def test_roles_have_keys_of_their_own_that_variables_name(tmp_path: Path) -> None:
    builder, checker = Ed25519PrivateKey.generate(), make_key(tmp_path / "checker.pem")
    pem = builder.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    project = Project(
        tmp_path,
        variables={
            "PEDIGREE_KEY_BUILDER": "env:BUILD_PEM",
            "BUILD_PEM": pem,
            "PEDIGREE_KEY_CHECKER": f"file:{tmp_path / 'checker.pem'}",
        },
    )
    strict = policy(accept=False)
    with pytest.raises(PedigreeError, match="cannot sign as builder"):
        open_store(project, strict, write=True)
    register_key(project.trust, builder.public_key(), "builder-1", ("builder",), LONG_AGO)
    register_key(project.trust, checker.public_key(), "checker-1", ("checker",), LONG_AGO)
    store = open_store(project, strict, write=True)
    assert pem.splitlines()[1] not in repr(store) + repr(project)
    about: list[dict[str, object]] = [{"name": "x", "digest": {"sha256": ABOUT}}]
    made = store.write("snapshot", about, {"n": 1})  # type: ignore[arg-type]
    judged = store.write("verdict", about, {"n": 1})  # type: ignore[arg-type]
    assert (store.owner(made), store.owner(judged)) == ("builder-1", "checker-1")
    assert not (project.keys / "development.pem").exists()
    with pytest.raises(PedigreeError, match="PEDIGREE_KEY_RELEASER"):
        store.write("promotion", about, {"n": 1})  # type: ignore[arg-type]


def test_a_key_that_cannot_be_opened_says_where_it_should_be_and_never_what_it_is(
    tmp_path: Path,
) -> None:
    with pytest.raises(PedigreeError, match="cannot be read"):
        open_signer(str(tmp_path / "none.pem"), {})
    with pytest.raises(PedigreeError, match="variable NAME is not set"):
        open_signer("env:NAME", {})
    with pytest.raises(PedigreeError, match="no ed25519 private key") as error:
        open_signer("env:NAME", {"NAME": "s3cret"})
    assert "s3cret" not in str(error.value)
    with pytest.raises(PedigreeError, match="no ssh-agent"):
        open_signer("ssh-agent:SHA256:x", {})
    with pytest.raises(PedigreeError, match="cannot be asked"):
        open_signer("ssh-agent:SHA256:x", {"SSH_AUTH_SOCK": str(tmp_path / "none")})
    make_key(tmp_path / "there.pem")
    with pytest.raises(PedigreeError, match="exists already"):
        make_key(tmp_path / "there.pem")
    assert (tmp_path / "there.pem").stat().st_mode & 0o077 == 0


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """A real ssh-agent with one ed25519 key and one of another kind; its variables and the key."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent (apt install openssh-client)")
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert process.poll() is None
        variables = {"SSH_AUTH_SOCK": str(path)}
        for kind in ("ecdsa", "ed25519"):
            key = str(tmp_path / kind)
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
            subprocess.run(["ssh-add", "-q", key], env={**os.environ, **variables}, check=True)
        line = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(tmp_path / "ed25519.pub")],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        yield variables, line.split()[1]
    finally:
        process.kill()
        process.wait()


def test_an_agent_signs_without_showing_its_key(
    agent: tuple[dict[str, str], str], project: Project
) -> None:
    variables, fingerprint = agent
    signer = open_signer(f"ssh-agent:{fingerprint}", variables)
    envelope = sign_statement(STATEMENT, signer)  # type: ignore[arg-type]
    assert verify_envelope(envelope, [signer.public_key()]) == STATEMENT
    with pytest.raises(VerificationFailed):
        verify_envelope(envelope, [Ed25519PrivateKey.generate().public_key()])
    register_key(project.trust, signer.public_key(), "ada", ("reviewer",), LONG_AGO)
    with_agent = Project(
        project.root,
        variables={**variables, "PEDIGREE_KEY_REVIEWER": f"ssh-agent:{fingerprint}"},
    )
    store = open_store(with_agent, policy(), write=True)
    store.write("approval", [{"name": "x", "digest": {"sha256": ABOUT}}], {"n": 1}, signer)
    assert store.owner(store.about(ABOUT, "approval")[0][0]) == "ada"
    with pytest.raises(PedigreeError, match=f"it has {fingerprint}".replace("+", r"\+")):
        open_signer("ssh-agent:SHA256:other", variables)


def test_a_date_means_its_end() -> None:
    assert parse_time("2026-12-31") == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert parse_time("2026-12-31T12:00:00+01:00").utcoffset() == timedelta(hours=1)
    with pytest.raises(PedigreeError, match="is no date"):
        parse_time("soon")
