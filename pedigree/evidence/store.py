"""Where signed statements lie, and how they are found: by the digest of what they speak about.

    <evidence>/<subject's 64 hex digits>/<kind>-<envelope's sha256>.dsse.json

A file is written once, whole, and never changed. A statement that no trusted key signed is
reported as such, never returned. Each is listed in the project's ledger when it is written; with
the ledger at hand, one that is not listed is not believed, and one that is gone is reported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pedigree.digests import JSON, hex_of, sha256_hex
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.ledger import Ledger
from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.policy import Policy
from pedigree.evidence.signers import open_signer
from pedigree.evidence.signing import (
    Signer,
    key_id,
    load_development_key,
    load_public_key,
    sign_statement,
    verify_envelope,
    verify_signed,
)
from pedigree.evidence.trust import DEVELOPMENT_ROLES, ROLES, Role, Trust, load_trust, roles_of
from pedigree.files import write_atomically
from pedigree.project import Project

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

# What a statement is about, by the file names' first part.
# Where a reader finds the digests that there are statements of.
_LISTED_BY = {
    "snapshot": "`pedigree why MODEL`",
    "verdict": "`pedigree why MODEL`",
    "adapter": "`pedigree trace base:ID`",
    "admission": "what `pedigree admit` printed",
}
PREDICATES = {
    "verdict": "https://in-toto.io/attestation/test-result/v0.1",
    "training": "https://slsa.dev/provenance/v1",
    "merge": "https://slsa.dev/provenance/v1",
    "promotion": "https://slsa.dev/verification_summary/v1",
    "evaluation": "urn:pedigree:predicate:evaluation:v1",
    "base-model": "urn:pedigree:predicate:base-model:v1",
    "admission": "urn:pedigree:predicate:admission:v1",
    "adapter": "urn:pedigree:predicate:adapter:v1",
    "trial": "urn:pedigree:predicate:trial:v1",
    "source": "urn:pedigree:predicate:source:v1",
    "curation": "urn:pedigree:predicate:curation:v1",
    "snapshot": "urn:pedigree:predicate:snapshot:v1",
    "neighbour-index": "urn:pedigree:predicate:neighbour-index:v1",
    "rebuild": "urn:pedigree:predicate:rebuild:v1",
    "approval": "urn:pedigree:predicate:approval:v1",
    "allowed-source": "urn:pedigree:predicate:allowed-source:v1",
    "waiver": "urn:pedigree:predicate:waiver:v1",
    "revocation": "urn:pedigree:predicate:revocation:v1",
    "vulnerabilities": "urn:pedigree:predicate:vulnerabilities:v1",
    "refusal": "https://slsa.dev/verification_summary/v1",
    "deployment": "urn:pedigree:predicate:deployment:v1",
}


class NotListed(VerificationFailed):
    """A trusted key signed a statement, and the ledger does not have it."""


@dataclass(frozen=True)
class Statement:
    """One verified statement: the digest of its envelope, what it says, and whose key signed it."""

    kind: str
    digest: str
    path: Path
    subjects: tuple[dict[str, Any], ...]
    predicate: dict[str, Any]
    content: dict[str, JSON]
    signer: str = ""


@dataclass(frozen=True)
class EvidenceStore:
    """The statements of one project, and the keys that are trusted to have signed them.

    `trust` says what each key may sign; without it every trusted key may sign everything. `ledger`
    is where each statement is listed; a store without one is for bare envelopes. `signers` has a
    key for each role that this process can act in, and `signer` signs where there is none.
    """

    folder: Path
    trusted: tuple[Ed25519PublicKey, ...]
    signer: Signer | None = field(default=None, repr=False)
    ledger: Ledger | None = None
    trust: Trust | None = None
    signers: Mapping[Role, Signer] = field(default_factory=dict[Role, Signer], repr=False)

    def write(
        self,
        kind: str,
        subjects: list[dict[str, JSON]],
        predicate: dict[str, JSON],
        signer: Signer | None = None,
    ) -> Statement:
        """Sign and keep a statement; its first subject is what it is found by.

        `signer` signs it instead of the key that this store has for such statements.

        Raises:
            PedigreeError: there is no key here that may sign such a statement.
        """
        signer = signer or self._find_signer(kind)
        content: dict[str, JSON] = {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATES[kind],
            "predicate": predicate,
        }
        envelope = sign_statement(content, signer)
        digest = sha256_hex(envelope)
        about = cast(dict[str, str], subjects[0]["digest"])["sha256"]
        path = self.folder / about / f"{kind}-{digest}.dsse.json"
        write_atomically(path, envelope)
        if self.ledger is not None:
            ledger = replace(self.ledger, signer=signer)
            ledger.append(f"{about}/{path.name}", envelope, _written_at(path))
        return self.read(path)

    def _find_signer(self, kind: str) -> Signer:
        found = [self.signers[role] for role in roles_of(kind) if role in self.signers]
        signer = found[0] if found else self.signer
        if signer is None:
            role = roles_of(kind)[0]
            raise PedigreeError(
                f"There is no key to sign with as {role}, which a statement of kind {kind} needs: "
                f"pass --key where a command has it, or set PEDIGREE_KEY_{role.upper()}, to a "
                "file or agent such as file:/run/secrets/key.pem or ssh-agent:SHA256:…"
            )
        return signer

    def owner(self, statement: Statement) -> str:
        """Return who signed a statement."""
        return self.trust.owner(statement.signer) if self.trust else statement.signer

    def read(self, path: Path) -> Statement:
        """Read one envelope.

        Raises:
            VerificationFailed: no trusted key signed it, it is not what its name says, or the
                ledger does not list it.
        """
        kind, _, rest = path.name.rpartition("-")
        data = path.read_bytes()
        if sha256_hex(data) != rest.removesuffix(".dsse.json"):
            raise VerificationFailed(
                f"The statement {path} was changed after it was written: restore it from a copy."
            )
        try:
            content, signer = verify_signed(data, self.trusted)
        except VerificationFailed as error:
            raise VerificationFailed(
                f"The statement {path} is not trusted: {error}. Restore it, or move it away if you "
                "know where it came from."
            ) from None
        subjects = cast(list[dict[str, Any]], content["subject"])
        if (
            content["predicateType"] != PREDICATES.get(kind)
            or path.parent.name != (subjects[0]["digest"]["sha256"])
        ):
            raise VerificationFailed(f"The statement {path} was moved: it speaks of another thing.")
        entry = self.ledger.find(f"{path.parent.name}/{path.name}") if self.ledger else None
        if self.ledger is not None and entry is None:
            raise NotListed(
                f"The statement {path} is not in the ledger: it is older than the ledger, was put "
                "there without it, or its writer was killed. Move it away, or, if you know where "
                "it came from, list it with `pedigree ledger adopt`."
            )
        if self.trust is not None:
            listed = datetime.fromisoformat(entry.time) if entry else None
            try:
                self.trust.require(signer, kind, listed, entry.sequence if entry else None)
            except VerificationFailed as error:
                raise VerificationFailed(f"The statement {path} does not count: {error}.") from None
        return Statement(
            kind,
            f"sha256:{sha256_hex(data)}",
            path,
            tuple(subjects),
            cast(dict[str, Any], content["predicate"]),
            content,
            signer,
        )

    def verify(self, envelope: bytes) -> dict[str, JSON]:
        """Return the content of an envelope from anywhere.

        Raises:
            VerificationFailed: no trusted key signed it.
        """
        return verify_envelope(envelope, self.trusted)

    def about(self, digest: str, kind: str) -> tuple[list[Statement], list[str]]:
        """Return the trusted statements of a kind about `digest`, and why others are not."""
        statements: list[Statement] = []
        problems: list[str] = []
        for path in sorted((self.folder / hex_of(digest)).glob(f"{kind}-*.dsse.json")):
            try:
                statements.append(self.read(path))
            except VerificationFailed as error:
                problems.append(str(error))
        return statements, problems + self.find_deleted(digest, kind)

    def find_deleted(self, digest: str, kind: str) -> list[str]:
        """Return a sentence for each statement about `digest` that the ledger lists and is gone.

        An empty `digest` stands for all of them.
        """
        if self.ledger is None:
            return []
        names = self.ledger.list_statements(hex_of(digest) if digest else "")
        return [
            f"The statement {name} is listed in the ledger and was deleted: restore it from a copy."
            for name in names
            if name.rpartition("/")[2].rpartition("-")[0] == kind
            and not (self.folder / name).exists()
        ]

    def find_unlisted(self) -> list[str]:
        """Return the names of the statements that the ledger does not list."""
        paths = sorted(self.folder.glob("*/*.dsse.json"))
        return [f"{p.parent.name}/{p.name}" for p in paths if not self._is_listed(p)]

    def _is_listed(self, path: Path) -> bool:
        # Also where there is no ledger yet: else whoever removes it whole opens every gate.
        name = f"{path.parent.name}/{path.name}"
        return self.ledger is None or self.ledger.find(name) is not None

    def all(self, kind: str) -> Iterator[Statement]:
        """Yield every trusted statement of a kind, in the order of their paths.

        Raises:
            VerificationFailed: one is not trusted, or one that the ledger lists was deleted: the
                others would pass for all there are.
        """
        deleted = self.find_deleted("", kind)
        if deleted:
            raise VerificationFailed(deleted[0])
        for path in sorted(self.folder.glob(f"*/{kind}-*.dsse.json")):
            # Its writer was killed before anybody was told of it; `pedigree doctor` names it.
            try:
                statement = self.read(path)
            except NotListed:
                if self.ledger is None or self.ledger.is_empty():
                    raise  # nothing is listed: the ledger is gone, or never began
                continue
            yield statement

    def find_subject(self, prefix: str, kind: str) -> str:
        """Return the one digest that starts with `prefix` and has a statement of `kind`.

        Raises:
            EvidenceMissing: there is none.
            PedigreeError: the prefix is too short or fits several.
        """
        value = prefix.removeprefix("sha256:").lower()
        if not is_digest_prefix(prefix):
            raise PedigreeError(f"{prefix!r} is no digest: give at least 12 of its hex digits.")
        found = sorted(
            {path.parent.name for path in self.folder.glob(f"{value}*/{kind}-*.dsse.json")}
        )
        if not found:
            place = _LISTED_BY.get(kind, "`pedigree models`")
            raise EvidenceMissing(f"No {kind} evidence is known about {prefix}: see {place}.")
        if len(found) > 1:
            raise PedigreeError(f"{prefix!r} fits {len(found)} digests: give more digits.")
        return f"sha256:{found[0]}"


def is_digest_prefix(text: str) -> bool:
    """Tell whether a text can be a digest or its beginning: at least 12 hex digits."""
    value = text.removeprefix("sha256:").lower()
    return len(value) >= 12 and not set(value) - set("0123456789abcdef")


def open_store(project: Project, policy: Policy, *, write: bool = False) -> EvidenceStore:
    """Open a project's evidence with the keys that `trust/keys.json` and its policy trust.

    With `write`, the keys are opened that `PEDIGREE_KEY_BUILDER` and the like name in the project's
    variables; for other roles the development key signs, made where there is none, if the policy
    accepts it.

    Raises:
        PedigreeError: the keys' file is not valid, or a key cannot be opened or has another role.
    """
    accept = policy.keys.accept_development_keys
    key = load_development_key(project.keys) if write and accept else None
    public = key.public_key() if key else load_public_key(project.keys) if accept else None
    trust = load_trust(project.trust, public, accept_development=accept)
    trusted = (*((public,) if public else ()), *trust.public_keys())
    signers = _open_signers(project, trust) if write else dict[Role, Signer]()
    for role in DEVELOPMENT_ROLES if key is not None else ():
        signers.setdefault(role, cast(Signer, key))
    ledger = Ledger(LocalFiles(project.ledger), trusted, next(iter(signers.values()), None))
    return EvidenceStore(project.evidence, trusted, None, ledger, trust, signers)


def _open_signers(project: Project, trust: Trust) -> dict[Role, Signer]:
    signers: dict[Role, Signer] = {}
    for role in ROLES:
        reference = project.variables.get(f"PEDIGREE_KEY_{role.upper()}")
        if reference:
            signers[role] = open_signer(reference, project.variables)
            trust.require_signer(key_id(signers[role].public_key()), role)
    return signers


def _written_at(path: Path) -> datetime:
    # The file system's time: the library reads no clock of its own.
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def adopt_statements(store: EvidenceStore) -> list[str]:
    """List every statement that a trusted key signed and that is not listed; return their names.

    For statements that are older than the ledger, or whose writer was killed before it listed
    them. Somebody decides that: a statement that was dropped in looks the same.

    Raises:
        VerificationFailed: a statement is not trusted, or the ledger was tampered with.
    """
    if store.ledger is None:
        raise PedigreeError("This store has no ledger to list statements in: open the project's.")
    bare = EvidenceStore(store.folder, store.trusted)
    adopted: list[str] = []
    # In the order in which they were written, as far as the file system knows it.
    paths = store.folder.glob("*/*.dsse.json")
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path)):
        name = f"{path.parent.name}/{path.name}"
        if store.ledger.find(name) is None:
            bare.read(path)
            store.ledger.append(name, path.read_bytes(), _written_at(path))
            adopted.append(name)
    return adopted
