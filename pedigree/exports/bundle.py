"""`export_model`: one folder that answers for a model, to be verified without Pedigree.

    claims.jsonl            every signed statement about the model and what it descends from
    model.sha256            the model's files, as `sha256sum -c` reads them
    model.sig               OpenSSF Model Signing bundle over those files
    model-signing.pub.pem   the P-256 key of model.sig
    bom.cdx.json            CycloneDX 1.7 ML-BOM
    croissant.json          Croissant 1.1 description of the training snapshot
    card.md                 model card with Hugging Face metadata
    report-NAME.md          where one was asked for: annex-iv, gpai-summary
    verify.sh               sh verify.sh KEY.pem [MODEL_FOLDER]
    export.dsse.json        signed statement whose subjects are all files above
    export.message          the very bytes that were signed: the envelope's encoding
    export.signature        the signature, 64 bytes

The last three say the same: openssl reads the last two, other DSSE tools the envelope.

    >>> export_model(project, "sha256:9f2c…", Path("export"), now).files[0].path
    'bom.cdx.json'
"""

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files as resource_files
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pedigree import __version__
from pedigree.digests import JSON, FileEntry, Manifest, hex_of, sha256_hex
from pedigree.errors import PedigreeError
from pedigree.evidence.signing import (
    DEVELOPMENT_KEY,
    PAYLOAD_TYPE,
    key_id,
    load_development_key,
    sign_statement,
)
from pedigree.evidence.store import STATEMENT_TYPE, open_store
from pedigree.exports.bom import describe_bom
from pedigree.exports.card import write_card
from pedigree.exports.croissant import describe_snapshot, read_parts
from pedigree.exports.facts import Facts, collect_facts
from pedigree.exports.model_signature import load_model_key, public_pem, sign_model
from pedigree.exports.reports import Report, name_file, write_report
from pedigree.fetching import describe_uri, is_local
from pedigree.files import folder_written_atomically
from pedigree.project import Project
from pedigree.registry import require_unchanged

PREDICATE_TYPE = "urn:pedigree:predicate:export:v1"
ENVELOPE, MESSAGE, SIGNATURE = "export.dsse.json", "export.message", "export.signature"


@dataclass(frozen=True)
class Export:
    """A folder that was written: what it is about, the key to verify it with, its signed files.

    `local_paths` are paths of this machine in its claims. What is signed cannot be edited; only
    older versions wrote such statements.
    """

    folder: Path
    model: str
    key_id: str
    claims: int
    files: Manifest
    local_paths: tuple[str, ...]


def export_model(
    project: Project,
    digest: str,
    folder: Path,
    now: datetime,
    reports: Collection[Report] = (),
) -> Export:
    """Write the export of a model to `folder`, which must not exist or be empty.

    Args:
        project: where the model was trained.
        digest: the model's whole digest.
        folder: afterwards it is whole, or as it was.
        now: the time that the export states.
        reports: what to add for regulators.

    Raises:
        EvidenceMissing: evidence, the model's files or its training snapshot are not here.
        VerificationFailed: one of those was changed, or is not signed by a trusted key.
        PedigreeError: the folder holds something, there is no key to sign with, a path of the
            model cannot be listed, or the disk is full.
    """
    _require_free(folder)
    facts = collect_facts(open_store(project, project.policy()), digest)
    require_unchanged(project, facts.record)
    signer = _open_signer(project)
    content = _write_contents(project, facts, now)
    content |= {name_file(one): write_report(one, facts, now).encode() for one in reports}
    signed = tuple(
        FileEntry(path=name, size=len(data), sha256=sha256_hex(data))
        for name, data in sorted(content.items())
    )
    predicate: dict[str, JSON] = {
        "model": {"name": facts.record.model_name, "digest": {"sha256": hex_of(digest)}},
        "claims": len(facts.claims),
        "exportedOn": now.astimezone(UTC).isoformat(),
        "exporter": {"pedigree": __version__},
    }
    content |= sign_files(signed, predicate, signer)
    if folder.is_dir():
        folder.rmdir()  # it is empty, and is replaced as a whole
    with folder_written_atomically(folder) as partial:
        for name, data in content.items():
            (partial / name).write_bytes(data)
    if (folder / MESSAGE).read_bytes() != content[MESSAGE]:
        raise PedigreeError(f"Another export was written to {folder} meanwhile: give another one.")
    key = key_id(signer.public_key())
    return Export(folder, digest, key, len(facts.claims), signed, find_local_paths(facts))


def find_local_paths(facts: Facts) -> tuple[str, ...]:
    """Return each address in the claims that is a path of the machine where it was signed."""
    found = {uri for claim in facts.claims for uri in _addresses(claim.content)}
    return tuple(sorted(uri for uri in found if is_local(describe_uri(uri)) and not is_local(uri)))


def _addresses(value: JSON) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("uri", "repository") and isinstance(item, str):
                yield item
            yield from _addresses(item)
    elif isinstance(value, list):
        for item in value:
            yield from _addresses(item)


def _open_signer(project: Project) -> Ed25519PrivateKey:
    """Return the key that is here; to make another one would sign what nobody trusts."""
    if not (project.keys / DEVELOPMENT_KEY).is_file():
        raise PedigreeError(
            f"The export cannot be signed: there is no private key in {project.keys}. Export where "
            "the model was trained."
        )
    return load_development_key(project.keys)


def _require_free(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PedigreeError(f"{folder} is no folder: give one that does not exist, or is empty.")
    if folder.is_dir() and any(folder.iterdir()):
        raise PedigreeError(
            f"{folder} is not empty: an export holds exactly its signed files, so give a folder "
            "that does not exist, or is empty."
        )


def _write_contents(project: Project, facts: Facts, now: datetime) -> dict[str, bytes]:
    """Return what the statement will list, by name."""
    key = load_model_key(project.keys)
    record = facts.record
    parts = read_parts(project.snapshots("training"), facts)
    claims = [claim.path.read_bytes() for claim in facts.claims]
    if [sha256_hex(data) for data in claims] != [hex_of(claim.digest) for claim in facts.claims]:
        raise PedigreeError("Evidence was changed while it was exported: run the command again.")
    return {
        "claims.jsonl": b"".join(data + b"\n" for data in claims),
        "model.sha256": _list_model(record.model_files),
        "model.sig": sign_model(record.model_name, record.model_files, key) + b"\n",
        "model-signing.pub.pem": public_pem(key.public_key()),
        "bom.cdx.json": _pretty(describe_bom(facts, now)),
        "croissant.json": _pretty(describe_snapshot(facts, parts, now)),
        "card.md": write_card(facts).encode(),
        "verify.sh": read_script(),
    }


def read_script() -> bytes:
    """Return `verify.sh`, which is the same in every export."""
    return (resource_files("pedigree.exports") / "verify.sh").read_bytes()


def _pretty(value: Mapping[str, JSON]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _list_model(files: Manifest) -> bytes:
    for entry in files:
        # sha256sum writes such names in a form of its own, which shells would misread.
        if set(entry.path) & set("\\\n\r") or entry.path != entry.path.strip():
            raise PedigreeError(
                f"The model has a file named {entry.path!r}, which sha256sum cannot list: rename "
                "it and train again."
            )
    return "".join(f"{entry.sha256}  {entry.path}\n" for entry in files).encode()


def sign_files(
    files: Manifest, predicate: Mapping[str, JSON], key: Ed25519PrivateKey
) -> dict[str, bytes]:
    """Return the signed statement about an export's files, in its three forms, by file name."""
    statement: dict[str, JSON] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"digest": {"sha256": one.sha256}, "name": one.path} for one in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    envelope = sign_statement(statement, key)
    said = json.loads(envelope)
    payload = base64.b64decode(said["payload"])
    kind = PAYLOAD_TYPE.encode()
    return {
        ENVELOPE: envelope,
        MESSAGE: b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload),
        SIGNATURE: base64.b64decode(said["signatures"][0]["sig"]),
    }
