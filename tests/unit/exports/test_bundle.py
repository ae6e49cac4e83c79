"""`verify.sh` on small exports: what it accepts and refuses, and that it needs nothing else."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pedigree.digests import FileEntry, sha256_hex
from pedigree.evidence.signing import sign_statement, verify_envelope
from pedigree.exports.bundle import (
    ENVELOPE,
    MESSAGE,
    PREDICATE_TYPE,
    SIGNATURE,
    read_script,
    sign_files,
)

MODEL = "0123456789abcdef" * 4


def _key(folder: Path, name: str = "key.pem") -> tuple[Ed25519PrivateKey, Path]:
    key = Ed25519PrivateKey.generate()
    path = folder / name
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key, path


def _verify(
    export: Path, *arguments: str | Path, shell: str = "sh", path: str = "/usr/bin:/bin"
) -> subprocess.CompletedProcess[str]:
    """Run verify.sh with nothing in its environment but a PATH."""
    return subprocess.run(
        [shutil.which(shell) or shell, str(export / "verify.sh"), *map(str, arguments)],
        env={"PATH": path}, capture_output=True, text=True, check=False,
        # An edited script may write: not into the repository.
        cwd=export.parent, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Ed25519PrivateKey]:
    """An export of three files, the public key outside it, and the private key."""
    key, public = _key(tmp_path)
    export = tmp_path / "an export"
    _write(export, key)
    return export, public, key


def _write(export: Path, key: Ed25519PrivateKey) -> None:
    model = {"weights.bin": b"weights", "adapter/weights.bin": b"\0\1"}
    listed = "".join(f"{sha256_hex(data)}  {name}\n" for name, data in sorted(model.items()))
    content = {
        "claims.jsonl": b'{"a":1}\n',
        "model.sha256": listed.encode(),
        "verify.sh": read_script(),
    }
    files = tuple(
        FileEntry(path=name, size=len(data), sha256=sha256_hex(data))
        for name, data in sorted(content.items())
    )
    about = {"name": 'é "subject":[ ', "digest": {"sha256": MODEL}}
    content |= sign_files(files, {"claims": 1, "model": about}, key)
    export.mkdir(exist_ok=True)
    for name, data in content.items():
        (export / name).write_bytes(data)
    for name, data in model.items():
        path = export.parent / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
def test_an_export_is_accepted_by_every_shell_here(
    made: tuple[Path, Path, Ed25519PrivateKey], shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    export, public, _ = made
    before = {path: path.stat().st_mtime_ns for path in export.iterdir()}
    done = _verify(export, public, shell=shell)
    assert done.returncode == 0, done.stderr
    assert f"OK: 3 files about model sha256:{MODEL} are" in done.stdout
    assert "not looked at" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in export.iterdir()} == before


def test_it_needs_only_openssl_and_sha256sum(
    made: tuple[Path, Path, Ed25519PrivateKey], tmp_path: Path
) -> None:
    export, public, _ = made
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("openssl", "sha256sum"):
        tool = shutil.which(name)
        assert tool is not None
        (tools / name).symlink_to(tool)
        without = _verify(export, public, path=str(tools))
        assert (without.returncode == 0) == (name == "sha256sum"), without.stderr
    assert _verify(export, public, export.parent / "model", path=str(tools)).returncode == 0


def test_relative_names_and_odd_names_work(
    made: tuple[Path, Path, Ed25519PrivateKey], tmp_path: Path
) -> None:
    export, public, _ = made
    odd = tmp_path / "-k [e]y'\n\\.pem"
    shutil.copy(public, odd)
    there = tmp_path / "-x [a]*'\n\\"
    shutil.copytree(export, there)
    for folder, script in ((there, "verify.sh"), (there, "./verify.sh"), (tmp_path, None)):
        name = script or f"{there.name}/verify.sh"
        key = os.path.relpath(odd, folder)
        done = subprocess.run(
            ["sh", "--", name, key], cwd=folder, env={"PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, (name, key, done.stderr)


def test_a_wrong_key_and_wrong_calls_are_refused(
    made: tuple[Path, Path, Ed25519PrivateKey], tmp_path: Path
) -> None:
    export, public, _ = made
    _, other = _key(tmp_path, "other.pem")
    assert _verify(export, other).returncode == 1
    (tmp_path / "empty.pem").write_bytes(b"")
    assert _verify(export, tmp_path / "empty.pem").returncode == 1
    assert _verify(export).returncode == 2
    assert _verify(export, tmp_path / "none.pem").returncode == 2
    assert _verify(export, public, tmp_path, "more").returncode == 2
    assert _verify(export, public, tmp_path / "no model").returncode == 1


def test_another_statement_by_the_same_key_is_no_list_of_files(
    made: tuple[Path, Path, Ed25519PrivateKey],
) -> None:
    export, public, key = made
    statement = json.loads((export / MESSAGE).read_bytes().split(b" ", 4)[4])
    assert statement["predicateType"] == PREDICATE_TYPE
    statement["predicateType"] = "https://slsa.dev/provenance/v1"
    envelope = json.loads(sign_statement(statement, key))
    payload = base64.b64decode(envelope["payload"])
    head = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload)
    (export / MESSAGE).write_bytes(head + payload)
    (export / SIGNATURE).write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (export / ENVELOPE).write_bytes(sign_statement(statement, key))
    done = _verify(export, public)
    assert done.returncode == 1
    assert "not about an export" in done.stderr


def test_the_envelope_is_one_that_other_dsse_tools_read(
    made: tuple[Path, Path, Ed25519PrivateKey],
) -> None:
    export, _, key = made
    said = verify_envelope((export / ENVELOPE).read_bytes(), [key.public_key()])
    names = [subject["name"] for subject in said["subject"]]  # type: ignore[index,union-attr]
    assert names == ["claims.jsonl", "model.sha256", "verify.sh"]


@pytest.mark.parametrize("how", ["append", "shorten", "empty", "link", "remove", "folder"])
def test_any_other_file_than_the_signed_one_is_refused(
    made: tuple[Path, Path, Ed25519PrivateKey], how: str
) -> None:
    export, public, _ = made
    names = sorted(path.name for path in export.iterdir())
    for name in names:
        copy = export.parent / "copy"
        shutil.copytree(export, copy)
        path, data = copy / name, (copy / name).read_bytes()
        path.unlink()
        if how == "append":
            path.write_bytes(data + b"\n")
        elif how == "shorten":
            path.write_bytes(data[:-1])
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "link":
            path.symlink_to(export / name)
        elif how == "folder":
            path.mkdir()
        done = _verify(copy, public)
        # An empty script succeeds in silence: that it holds is said by a line, and the status.
        assert done.returncode != 0 or "OK" not in done.stdout, (name, how)
        assert done.returncode != 0 or name == "verify.sh", (name, how)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    "name", ["extra", ".hidden", "..odd", "claims.jsonl verify.sh", "a\nb", "*", "-e", "verify.s?"]
)
def test_a_file_more_is_refused(made: tuple[Path, Path, Ed25519PrivateKey], name: str) -> None:
    export, public, _ = made
    (export / name).write_bytes(b"")
    done = _verify(export, public)
    assert done.returncode == 1
    assert "not in the signed list" in done.stderr


def test_the_model_is_compared_where_it_is_given(
    made: tuple[Path, Path, Ed25519PrivateKey],
) -> None:
    export, public, _ = made
    model = export.parent / "model"
    done = _verify(export, public, model)
    assert done.returncode == 0, done.stderr
    assert "are the model" in done.stdout
    weights = model / "adapter" / "weights.bin"
    for change in ("byte", "gone", "more", "hidden", "link"):
        if change == "byte":
            weights.write_bytes(b"\0\2")
        elif change == "gone":
            weights.unlink()
        elif change == "more":
            (model / "adapter" / "code.py").write_bytes(b"")
        elif change == "hidden":
            (model / ".cache").mkdir()
            (model / ".cache" / "x").write_bytes(b"")
        else:
            weights.unlink()
            weights.symlink_to(model / "weights.bin")
        assert _verify(export, public, model).returncode == 1, change
        shutil.rmtree(model)
        _restore(model)
    assert _verify(export, public, model).returncode == 0


def _restore(model: Path) -> None:
    (model / "adapter").mkdir(parents=True)
    (model / "weights.bin").write_bytes(b"weights")
    (model / "adapter" / "weights.bin").write_bytes(b"\0\1")


# Edits of one byte that would each take out one of the script's checks, its own digest's included.
ONE_BYTE = [
    ("set -eu", "set -xu"),
    ("fail() {", "fall() {"),
    ("    false #", "    fal#e #"),
    ("    exit 1\n}", "    exit 0\n}"),
    ('[ "${found%% *}" = "$digest" ]', '[ "${found%% *}" > "$digest" ]'),
    ('while [ -n "$rest" ]', 'while [ -z "$rest" ]'),
    ("$name was changed", "$name was chanced"),
    ("sha256sum -c -)", "sha256sum -c ;)"),
    ("\nlist=\n", "\nmist=\n"),
]


@pytest.mark.parametrize(("old", "new"), ONE_BYTE)
def test_one_edit_of_the_script_does_not_hide_itself(
    made: tuple[Path, Path, Ed25519PrivateKey], old: str, new: str
) -> None:
    export, public, _ = made
    text = read_script().decode()
    assert old in text
    (export / "verify.sh").write_text(text.replace(old, new, 1))
    assert _verify(export, public).returncode != 0
