"""Where private keys are: in a file, in a variable of the environment, or in an agent.

A reference says where, and is all that is ever printed::

    file:/run/secrets/reviewer.pem      a PKCS#8 PEM file; a bare path means the same
    env:PEDIGREE_REVIEWER_PEM           the PEM text in a variable
    ssh-agent:SHA256:Qx…                a key of an ssh-agent, perhaps on a hardware token

    >>> signer = open_signer("env:REVIEWER", project.variables)
    >>> sign_statement(statement, signer)

An agent signs and never shows its key, as a key management service would: any object with
`public_key()` and `sign()` can take its place.
"""

import base64
import hashlib
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pedigree.errors import PedigreeError
from pedigree.evidence.signing import Signer, keep_private_key, read_private_key

FILE, ENVIRONMENT, AGENT = "file:", "env:", "ssh-agent:"
AGENT_SOCKET = "SSH_AUTH_SOCK"

# Numbers of the agent protocol: draft-ietf-sshm-ssh-agent, section 5.1.
_REQUEST_IDENTITIES, _IDENTITIES = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_KIND = b"ssh-ed25519"
_TIMEOUT_SECONDS = 60.0  # a token may wait for somebody to touch it
_MAX_ANSWER = 1 << 20


def open_signer(reference: str, environment: Mapping[str, str]) -> Signer:
    """Return what signs with the key that a reference names.

    Args:
        reference: `file:PATH`, a bare path, `env:NAME` or `ssh-agent:FINGERPRINT`.
        environment: variables, where `env:` and the agent's socket are looked up.

    Raises:
        PedigreeError: there is no such key, or it is not ed25519. No message holds a key.
    """
    if reference.startswith(AGENT):
        return AgentSigner.find(reference.removeprefix(AGENT), environment.get(AGENT_SOCKET))
    if reference.startswith(ENVIRONMENT):
        name = reference.removeprefix(ENVIRONMENT)
        text = environment.get(name)
        if not text:
            raise PedigreeError(
                f"The variable {name} is not set: expected an ed25519 private key (PEM) in it."
            )
        return read_private_key(text.encode(), f"The variable {name}")
    path = Path(reference.removeprefix(FILE)).expanduser()
    try:
        return read_private_key(path.read_bytes(), str(path))
    except OSError as error:
        raise PedigreeError(
            f"The key {path} cannot be read ({error.strerror}): expected a PEM file there, "
            f"'{ENVIRONMENT}NAME' for a variable, or '{AGENT}SHA256:…' for an agent's key."
        ) from None


def make_key(path: Path) -> Signer:
    """Make a private key in a new file, for its owner alone, and return it.

    Raises:
        PedigreeError: there is a file already, which stays.
    """
    if path.exists():
        raise PedigreeError(
            f"{path} exists already: name another file (--out), or register that key (--from)."
        )
    key = Ed25519PrivateKey.generate()
    keep_private_key(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


@dataclass(frozen=True)
class AgentSigner:
    """An ed25519 key that an ssh-agent holds."""

    path: str
    blob: bytes

    @classmethod
    def find(cls, fingerprint: str, path: str | None) -> "AgentSigner":
        """Return the agent's key with this fingerprint, as `ssh-add -l` prints it.

        Raises:
            PedigreeError: there is no agent, or it has no such key.
        """
        if not path:
            raise PedigreeError(
                f"There is no ssh-agent: {AGENT_SOCKET} is not set. Start one, and add the key."
            )
        answer = _ask(path, bytes([_REQUEST_IDENTITIES]), _IDENTITIES)
        count, rest = _take_number(answer)
        found: list[str] = []
        for _ in range(count):
            blob, rest = _take(rest)
            _, rest = _take(rest)  # the comment
            kind, _ = _take(blob)
            if kind == _KIND:
                name = _fingerprint(blob)
                if name == fingerprint:
                    return cls(path, blob)
                found.append(name)
        raise PedigreeError(
            f"The ssh-agent has no ed25519 key {fingerprint}: it has "
            f"{', '.join(found) or 'none'}. Add it with ssh-add."
        )

    def public_key(self) -> Ed25519PublicKey:
        """Return the public half."""
        _, rest = _take(self.blob)
        return Ed25519PublicKey.from_public_bytes(_take(rest)[0])

    def sign(self, data: bytes, /) -> bytes:
        """Return the 64 bytes of the signature over `data`."""
        request = bytes([_SIGN_REQUEST]) + _pack(self.blob) + _pack(data) + struct.pack(">I", 0)
        signature, _ = _take(_ask(self.path, request, _SIGN_RESPONSE))
        kind, rest = _take(signature)
        if kind != _KIND:
            raise PedigreeError(f"The ssh-agent signed with {kind!r}: expected {_KIND!r}.")
        return _take(rest)[0]


def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _ask(path: str, request: bytes, expected: int) -> bytes:
    """Send one message to the agent and return the body of its answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(_TIMEOUT_SECONDS)
            agent.connect(path)
            agent.sendall(_pack(request))
            (length,) = struct.unpack(">I", _receive(agent, 4))
            if not 0 < length <= _MAX_ANSWER:
                raise PedigreeError(f"The ssh-agent at {path} answers with {length} bytes.")
            answer = _receive(agent, length)
    except OSError as error:
        raise PedigreeError(
            f"The ssh-agent at {path} cannot be asked ({error}): start it again."
        ) from None
    if answer[0] != expected:
        raise PedigreeError(
            f"The ssh-agent at {path} refused: unlock it, or confirm the signature when it asks."
        )
    return answer[1:]


def _receive(agent: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = agent.recv(length - len(data))
        if not part:
            raise ConnectionError("it hung up")
        data += part
    return data


def _pack(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _take_number(data: bytes) -> tuple[int, bytes]:
    if len(data) < 4:
        raise PedigreeError("The ssh-agent's answer is cut short: start it again.")
    return struct.unpack(">I", data[:4])[0], data[4:]


def _take(data: bytes) -> tuple[bytes, bytes]:
    length, rest = _take_number(data)
    if len(rest) < length:
        raise PedigreeError("The ssh-agent's answer is cut short: start it again.")
    return rest[:length], rest[length:]
