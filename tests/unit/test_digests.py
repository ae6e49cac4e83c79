"""Digests against hand-written forms, published vectors and sha256sum."""

import doctest
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from pedigree import digests
from pedigree.digests import (
    FileEntry,
    canonical_json,
    digest_bytes,
    digest_file,
    digest_json,
    digest_manifest,
    digest_tree,
    find_differences,
    hex_of,
    merkle_root,
)
from pedigree.errors import PedigreeError, VerificationFailed

# Leaves and roots of the Certificate Transparency reference tests (RFC 6962).
CT_LEAVES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def rfc6962_root(leaves: Sequence[bytes]) -> bytes:
    """The recursion of RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    halves = rfc6962_root(leaves[:k]) + rfc6962_root(leaves[k:])
    return hashlib.sha256(b"\x01" + halves).digest()


@pytest.mark.parametrize("count", range(9))
def test_merkle_roots_are_those_of_certificate_transparency(count: int) -> None:
    leaves = [bytes.fromhex(leaf) for leaf in CT_LEAVES[:count]]
    assert merkle_root(leaves).hex() == CT_ROOTS[count]


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_merkle_roots_are_those_of_the_recursion_in_rfc_6962(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == rfc6962_root(leaves)


def test_the_order_of_leaves_and_a_repeated_leaf_change_the_root() -> None:
    a, b = b"a" * 32, b"b" * 32
    assert len({merkle_root(x) for x in ([a, b], [b, a], [a], [a, a], [a, b, b])}) == 5


def test_json_is_serialised_as_rfc_8785_shows_it() -> None:
    # The example of RFC 8785, section 3.2.2, and its outcome in section 3.2.4.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert canonical_json(value) == (
        b'{"literals":[null,true,false],'
        b'"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_the_digest_of_json_ignores_the_order_of_keys_and_the_kind_of_sequence() -> None:
    expected = "sha256:" + hashlib.sha256(b'{"a":2,"b":[1,2]}').hexdigest()
    assert digest_json({"b": [1, 2], "a": 2}) == expected
    assert digest_json({"a": 2, "b": (1, 2)}) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**53 - 1, b"9007199254740991"),
        (1 - 2**53, b"-9007199254740991"),
        (2**53, b'"9007199254740992"'),
        (-(2**60), b'"-1152921504606846976"'),
        ([{"a": 2**64}], b'[{"a":"18446744073709551616"}]'),
        (True, b"true"),
    ],
)
def test_integers_that_json_cannot_hold_exactly_become_strings(value: object, text: bytes) -> None:
    assert canonical_json(value) == text  # pyright: ignore[reportArgumentType]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_canonical_json_reads_back_as_what_was_written(value: object) -> None:
    data = canonical_json(value)  # pyright: ignore[reportArgumentType]
    assert json.loads(data) == value
    assert data == rfc8785.dumps(value)  # pyright: ignore[reportArgumentType]


def test_a_changed_character_gives_another_digest() -> None:
    assert digest_bytes(b"text") != digest_bytes(b"texT")
    assert digest_json({"a": "text"}) != digest_json({"a": "texT"})


def test_a_digest_gives_its_hex_digits_with_or_without_the_algorithm() -> None:
    value = hashlib.sha256(b"").hexdigest()
    assert hex_of("sha256:" + value) == value
    assert hex_of(value) == value


@pytest.mark.parametrize(
    "bad",
    ["", "latest", "sha256:", "sha256:ab12", "md5:" + "a" * 64, "sha256:" + "A" * 64,
     "sha256:" + "g" * 64, "a" * 63, "a" * 65, "sha256:sha256:" + "a" * 64, "../" + "a" * 64],
)  # fmt: skip
def test_a_malformed_digest_is_refused_with_the_form_expected(bad: str) -> None:
    with pytest.raises(PedigreeError, match="64 lower-case hex digits"):
        hex_of(bad)


def test_files_have_the_digest_that_sha256sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(1 << 20) + b"odd")
    printed = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True)
    entry = digest_file(path)
    assert (entry.path, entry.size) == ("big.bin", (1 << 20) + 3)
    assert entry.sha256 == printed.stdout.split()[0]


def _tree(folder: Path) -> Path:
    (folder / "b" / "c").mkdir(parents=True)
    (folder / "b" / "c" / "deep.txt").write_bytes(b"deep")
    (folder / "a.txt").write_bytes(b"a")
    (folder / "b.txt").write_bytes(b"")
    return folder


def test_a_tree_lists_every_file_by_its_posix_path_in_order(tmp_path: Path) -> None:
    manifest = digest_tree(_tree(tmp_path))
    assert [(entry.path, entry.size) for entry in manifest] == [
        ("a.txt", 1),
        ("b.txt", 0),
        ("b/c/deep.txt", 4),
    ]
    assert manifest[2].sha256 == hashlib.sha256(b"deep").hexdigest()


def test_a_manifest_is_digested_by_path_whatever_the_order_of_its_entries(tmp_path: Path) -> None:
    manifest = digest_tree(_tree(tmp_path))
    by_hand = json.dumps(
        [{"path": e.path, "sha256": e.sha256, "size": e.size} for e in manifest],
        separators=(",", ":"),
    )
    expected = "sha256:" + hashlib.sha256(by_hand.encode()).hexdigest()
    assert digest_manifest(manifest) == expected
    assert digest_manifest(tuple(reversed(manifest))) == expected


@pytest.mark.parametrize("kind", ["file link", "folder link", "dangling link", "pipe"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    folder = _tree(tmp_path / "tree")
    odd = folder / "b" / "odd"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"x")
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        target = {"file link": outside / "x", "folder link": outside}.get(kind, tmp_path / "none")
        odd.symlink_to(target)
    with pytest.raises(VerificationFailed, match="link or a special file"):
        digest_tree(folder)


def test_differences_name_each_missing_extra_and_changed_file(tmp_path: Path) -> None:
    folder = _tree(tmp_path / "tree")
    manifest = digest_tree(folder)
    assert find_differences(folder, manifest) == []
    (folder / "a.txt").unlink()
    (folder / "b" / "new.txt").write_bytes(b"new")
    (folder / "b" / "c" / "deep.txt").write_bytes(b"deeq")
    missing, extra, changed = find_differences(folder, manifest)
    assert missing == "a.txt is missing"
    assert extra == "b/new.txt is not in the manifest"
    assert "b/c/deep.txt changed" in changed
    assert hashlib.sha256(b"deep").hexdigest() in changed
    assert hashlib.sha256(b"deeq").hexdigest() in changed


def test_a_missing_folder_is_a_difference_and_no_empty_one(tmp_path: Path) -> None:
    (problem,) = find_differences(tmp_path / "none", ())
    assert "is missing" in problem


def test_a_file_entry_holds_nothing_but_a_whole_sha256() -> None:
    with pytest.raises(ValueError, match="sha256"):
        FileEntry(path="a", size=1, sha256="abc")


def test_the_example_of_the_module_is_right() -> None:
    assert doctest.testmod(digests) == (0, 1)


def test_a_file_name_that_is_no_utf8_is_refused_with_a_sentence(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_bytes(b"x")
    with pytest.raises(PedigreeError):
        digest_manifest(digest_tree(tmp_path))
