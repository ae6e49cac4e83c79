"""What a publisher signed, read strictly: an OpenSSF bundle, or a manifest with its signature.

    model.sig                          OpenSSF Model Signing v1.0, a Sigstore bundle over all files
    manifest.json, manifest.json.sig   our form: artifact, version and files; it knows rollback
    SHA256SUMS, SHA256SUMS.sig         as `sha256sum` writes it; it knows no version

Reading them proves nothing yet: `signatures` compares them with keys and files.
"""

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import Field

from pedigree.admission.receiving import Received
from pedigree.admission.strict_json import parse_json
from pedigree.admission.verdict import Unreadable
from pedigree.digests import FileEntry, digest_manifest, sha256_hex
from pedigree.errors import PedigreeError
from pedigree.evidence.signing import PAYLOAD_TYPE
from pedigree.settings import Settings, parse_settings

BUNDLE = "model.sig"
MANIFESTS = ("manifest.json", "SHA256SUMS")
_PREDICATE = "https://model_signing/signature/v1.0"
_MAX_BYTES = 64 << 20
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)\Z")


@dataclass(frozen=True)
class SignatureFiles:
    """The files of a signature: a bundle, or a manifest and the signature beside it.

    `key` is a public key (PEM) that came along. It can show that a signature is valid, and never
    whose it is. `publisher` is who must have signed, where somebody declared that.
    """

    bundle: bytes | None = None
    manifest: bytes | None = None
    detached: bytes | None = None
    key: bytes | None = None
    publisher: str | None = None


@dataclass(frozen=True)
class Signed:
    """What was signed: sha256 (hex) by path, the very bytes, and the signatures over them.

    Attributes:
        form: which of the three forms it is.
        files: sha256 by path.
        message: the bytes under the signatures.
        signatures: each is enough.
        hint: what the signature says of its key; nobody vouches for it.
        artifact: what the publisher calls the artifact.
        version: its version, where the form knows one.
    """

    form: str
    files: dict[str, str]
    message: bytes
    signatures: tuple[bytes, ...]
    hint: str
    artifact: str
    version: int | None


class _ManifestFile(Settings):
    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int | None = None


class _Manifest(Settings):
    artifact: str = Field(min_length=1)
    version: int = Field(ge=0, strict=True)
    publisher: str = ""
    files: tuple[_ManifestFile, ...]


def take_signature(received: Received) -> tuple[Received, SignatureFiles | None]:
    """Take the signature out of a received folder: what is signed cannot hold its signature.

    Only at the top of the folder, and a manifest only together with its signature.
    """
    names = {entry.path: entry for entry in received.files}
    taken: dict[str, FileEntry] = {}
    if received.folder and BUNDLE in names:
        taken[BUNDLE] = names[BUNDLE]
    elif received.folder:
        for name in MANIFESTS:
            if name in names and f"{name}.sig" in names:
                taken = {name: names[name], f"{name}.sig": names[f"{name}.sig"]}
                break
    if not taken:
        return received, None
    content = {name: _read(received, entry) for name, entry in taken.items()}
    rest = tuple(entry for entry in received.files if entry.path not in taken)
    without = replace(received, files=rest, digest=digest_manifest(rest))
    if BUNDLE in content:
        return without, SignatureFiles(bundle=content[BUNDLE])
    manifest, detached = content.values()
    return without, SignatureFiles(manifest=manifest, detached=detached)


def _read(received: Received, entry: FileEntry) -> bytes:
    handle = received.open(entry)
    with os.fdopen(handle, "rb") as stream:
        return stream.read(_MAX_BYTES + 1)


def read_signed(files: SignatureFiles) -> Signed:
    """Return what was signed.

    Raises:
        Unreadable: it has not the form that it should have; the message is a clause.
    """
    if files.bundle is not None:
        return _read_bundle(_text(files.bundle))
    if files.manifest is None or files.detached is None:
        raise Unreadable("there is a manifest without its signature, or the other way round")
    text = _text(files.manifest)
    signature = _detached(files.detached)
    if text.lstrip().startswith("{"):
        try:
            said = parse_settings(_Manifest, parse_json(text), "the manifest")
        except PedigreeError as error:
            raise Unreadable(str(error).rstrip(".")) from None
        listed = _unique([(one.path, one.sha256) for one in said.files])
        form = "manifest"
        return Signed(form, listed, files.manifest, (signature,), "", said.artifact, said.version)
    matches = [_SUM.match(line) for line in text.splitlines() if line.strip()]
    if not all(matches):
        raise Unreadable("a line of the manifest is not as `sha256sum` writes it")
    listed = _unique([(m[2].removeprefix("./"), m[1]) for m in matches if m])
    return Signed("SHA256SUMS", listed, files.manifest, (signature,), "", "", None)


def _text(data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise Unreadable("it is larger than any signature")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unreadable("it is no text in UTF-8") from None


def _detached(data: bytes) -> bytes:
    """Return a detached signature: raw, or as base64 text."""
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except (ValueError, binascii.Error):
        return data


def _unique(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("it lists a file twice")
    return found


def _read_bundle(text: str) -> Signed:
    try:
        return _parse_bundle(text)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error, IndexError):
        raise Unreadable("it is no OpenSSF Model Signing bundle of version 1.0") from None


def _parse_bundle(text: str) -> Signed:
    bundle = cast(dict[str, Any], parse_json(text))
    envelope = bundle["dsseEnvelope"]
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise Unreadable(f"its payload is no {PAYLOAD_TYPE}")
    payload = base64.b64decode(envelope["payload"], validate=True)
    said = cast(dict[str, Any], parse_json(payload.decode()))
    if said["predicateType"] != _PREDICATE:
        raise Unreadable(f"its statement is not of the type {_PREDICATE}")
    resources = cast(list[dict[str, str]], said["predicate"]["resources"])
    how = cast(dict[str, Any], said["predicate"]["serialization"])
    if how["method"] != "files" or {one["algorithm"] for one in resources} - {"sha256"}:
        raise Unreadable("it is not over whole files by sha256, which is all that is understood")
    files = _unique([(one["name"], one["digest"]) for one in resources])
    root = sha256_hex(b"".join(bytes.fromhex(one["digest"]) for one in resources))
    subject = said["subject"][0]
    if len(said["subject"]) != 1 or subject["digest"]["sha256"] != root:
        raise Unreadable("its root is not that of the files it lists")
    material = cast(dict[str, Any], bundle["verificationMaterial"])
    hint = str(cast(dict[str, str], material.get("publicKey") or {}).get("hint", ""))
    kind = PAYLOAD_TYPE.encode()
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signatures = tuple(
        base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]
    )
    name = str(subject.get("name", ""))
    return Signed("OpenSSF bundle", files, message, signatures, hint, name, None)
