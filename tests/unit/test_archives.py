"""Members of real archives: only the one that is named, only whole, only plain files."""

import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from pedigree import archives
from pedigree.archives import read_member
from pedigree.errors import PedigreeError

WANTED = b"the wanted bytes \xff\x00"
TAR_MODES = ["w:", "w:gz", "w:bz2", "w:xz"]
ZIP_METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
KINDS: list[str | int] = [*TAR_MODES, *ZIP_METHODS]


def make_tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def make(kind: str | int, members: dict[str, bytes]) -> bytes:
    return make_tar(members, kind) if isinstance(kind, str) else make_zip(members, kind)


def read(folder: Path, data: bytes, member: str, max_bytes: int = 10_000) -> bytes:
    path = folder / "archive"
    path.write_bytes(data)
    return read_member(path, member, max_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_member_is_read_and_nothing_is_written(tmp_path: Path, kind: str | int) -> None:
    data = make(kind, {"p/setup.py": b"import evil", "p/data.txt": WANTED, "p/z": b""})
    assert read(tmp_path, data, "p/data.txt") == WANTED
    assert read(tmp_path, data, "p/z") == b""
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_not_there_is_refused_by_name(tmp_path: Path, kind: str | int) -> None:
    data = make(kind, {"p/data.txt": WANTED})
    for name in ("data.txt", "p", "p/data.tx", "P/data.txt"):
        with pytest.raises(PedigreeError, match=f"no member named '{name}'"):
            read(tmp_path, data, name)


@pytest.mark.parametrize("name", ["../x", "p/../../x", "..", "/etc/passwd", "", "p\\x", "a!../x"])
@pytest.mark.parametrize("kind", ["w:gz", zipfile.ZIP_DEFLATED])
def test_names_that_leave_the_archive_are_refused(
    tmp_path: Path, kind: str | int, name: str
) -> None:
    inner = make(kind, {"../x": WANTED, "x": WANTED})
    data = make(kind, {name or "x": WANTED, "a": inner})
    with pytest.raises(PedigreeError, match="no path inside an archive"):
        read(tmp_path, data, name)


def _tar_with(entry: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        target = tarfile.TarInfo("target")
        target.size = len(WANTED)
        archive.addfile(target, io.BytesIO(WANTED))
        archive.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "target"),
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "target"),
        (tarfile.DIRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
    ],
)
def test_a_tar_member_that_is_no_plain_file_is_refused(
    tmp_path: Path, kind: bytes, target: str
) -> None:
    entry = tarfile.TarInfo("odd")
    entry.type, entry.linkname = kind, target
    with pytest.raises(PedigreeError, match="expected a plain file"):
        read(tmp_path, _tar_with(entry), "odd")


def test_a_zip_member_that_is_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder/", b"")
    for name in ("link", "folder/"):
        with pytest.raises(PedigreeError, match="expected a plain file"):
            read(tmp_path, out.getvalue(), name)


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for data in (b"first", b"second"):
            entry = tarfile.TarInfo("data.txt")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    with pytest.raises(PedigreeError, match=r"2 members named 'data\.txt'"):
        read(tmp_path, out.getvalue(), "data.txt")
    # zipfile warns of a second name, so it is given the same length and put there afterwards.
    twice = make_zip({"data.txt": b"first", "data.txT": b"second"})
    with pytest.raises(PedigreeError, match=r"2 members named 'data\.txt'"):
        read(tmp_path, twice.replace(b"data.txT", b"data.txt"), "data.txt")


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_may_have_as_many_bytes_as_allowed_and_not_one_more(
    tmp_path: Path, kind: str | int
) -> None:
    data = make(kind, {"zeros": bytes(5000), "other": bytes(9000)})
    assert read(tmp_path, data, "zeros", max_bytes=5000) == bytes(5000)
    with pytest.raises(PedigreeError, match=r"larger than the source allows \(4999 bytes\)"):
        read(tmp_path, data, "zeros", max_bytes=4999)


def test_a_zip_whose_header_lies_about_the_size_gives_no_more_than_allowed(tmp_path: Path) -> None:
    data = make_zip({"zeros": bytes(100_000)})
    lie = data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lie != data
    with pytest.raises(PedigreeError):
        read(tmp_path, lie, "zeros", max_bytes=1000)


@pytest.mark.parametrize("outer", ["w:gz", zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inner", ["w:bz2", zipfile.ZIP_STORED])
def test_an_exclamation_mark_enters_an_archive_in_an_archive(
    tmp_path: Path, outer: str | int, inner: str | int
) -> None:
    innermost = make_tar({"deep/data.txt": WANTED})
    nested = make(inner, {"third.tgz": innermost, "data.txt": b"another"})
    data = make(outer, {"x/second": nested})
    assert read(tmp_path, data, "x/second!data.txt") == b"another"
    assert read(tmp_path, data, "x/second!third.tgz!deep/data.txt") == WANTED
    with pytest.raises(PedigreeError, match=r"archive!x/second!third\.tgz has no member"):
        read(tmp_path, data, "x/second!third.tgz!data.txt")
    with pytest.raises(PedigreeError, match="cannot be read as a zip or tar"):
        read(tmp_path, data, "x/second!data.txt!data.txt")


def test_a_link_inside_the_inner_archive_is_refused_too(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("odd")
    entry.type, entry.linkname = tarfile.SYMTYPE, "target"
    data = make_zip({"in.tar": _tar_with(entry)})
    assert read(tmp_path, data, "in.tar!target", max_bytes=20_000) == WANTED
    with pytest.raises(PedigreeError, match="expected a plain file"):
        read(tmp_path, data, "in.tar!odd", max_bytes=20_000)


def test_a_tar_of_too_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 5)
    names = [f"m{i}" for i in range(6)]
    assert read(tmp_path, make_tar(dict.fromkeys(names[:5], WANTED)), "m0") == WANTED
    with pytest.raises(PedigreeError, match="more than 5 members"):
        read(tmp_path, make_tar(dict.fromkeys(names, WANTED)), "m0")


@pytest.mark.parametrize("data", [b"", b"just text", b"PK\x03\x04", b"\x1f\x8b\x08", bytes(100)])
def test_what_is_no_archive_is_refused_with_a_sentence(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PedigreeError, match="archive"):
        read(tmp_path, data, "x")


def test_an_encrypted_zip_is_refused_with_a_sentence(tmp_path: Path) -> None:
    data = bytearray(make_zip({"data.txt": WANTED}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(PedigreeError, match="encrypted"):
        read(tmp_path, bytes(data), "data.txt")


def _damage(data: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    damaged = bytearray(data)
    if draw.random() < 0.3:
        del damaged[draw.randrange(len(damaged)) :]
    for _ in range(draw.choice([1, 2, 5])):
        if damaged:
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    return bytes(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_ends_in_a_sentence_and_never_in_a_traceback(
    tmp_path: Path, kind: str | int
) -> None:
    draw = random.Random(1)
    text = bytes(draw.randrange(32, 127) for _ in range(2000))
    data = make(kind, {"other.txt": text, "data.txt": text})
    refused = 0
    for seed in range(250):
        try:
            found = read(tmp_path, _damage(data, seed), "data.txt")
        except PedigreeError:
            refused += 1
        else:
            # A plain tar has no checksum, and a gzip's is at its end, which tarfile does not read:
            # there the pin of the whole file is what guards the bytes.
            assert found == text or kind in ("w:", "w:gz")
    assert refused > 25
