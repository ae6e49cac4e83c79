"""Installed distributions against their lock and their records, on packages made here."""

import base64
import hashlib
from pathlib import Path

import pytest

from pedigree.dependencies.installed import check_environment, examine_installed, read_lock
from pedigree.errors import PedigreeError
from tests.conftest import REPOSITORY


def install(folder: Path, name: str, version: str, record: bool = True) -> Path:
    """Put a distribution of one module into a folder, as pip would; return the module."""
    module = folder / name / "__init__.py"
    info = folder / f"{name}-{version}.dist-info"
    module.parent.mkdir(parents=True)
    info.mkdir()
    module.write_text(f"VALUE = {version!r}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for path in (module, info / "METADATA"):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
        size = path.stat().st_size
        lines.append(f"{path.relative_to(folder)},sha256={digest.rstrip(b'=').decode()},{size}")
    if record:
        (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,"]) + "\n")
    return module


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A lock, and a folder with the two distributions that it names."""
    folder = tmp_path / "site-packages"
    install(folder, "one_thing", "1.0")
    install(folder, "other", "2.0+cpu")
    lock = tmp_path / "constraints.txt"
    lock.write_text("# A lock\nOne.Thing==1.0  # a comment\nother==2.0\nnot-installed==9\n")
    return lock, folder


def test_what_is_locked_and_unchanged_holds(place: tuple[Path, Path]) -> None:
    found = examine_installed(place[0], [str(place[1])])
    assert found.holds, found
    assert (found.distributions, found.files) == (2, 6)
    assert "2 distributions are the locked ones" in found.summary


def test_each_difference_is_named(place: tuple[Path, Path]) -> None:
    lock, folder = place
    module = folder / "one_thing" / "__init__.py"
    module.write_text("VALUE = '1.1'\n")
    (folder / "other" / "__init__.py").write_text("import os\n" * 3)
    install(folder, "extra", "0.1")
    install(folder, "bare", "0.1", record=False)
    lock.write_text("one-thing==1.5\nother==2.0\nbare==0.1\n")
    found = examine_installed(lock, [str(folder)])
    assert set(found.unlocked) == {
        "extra 0.1 is not in the lock",
        "one-thing is 1.0, the lock says 1.5",
    }
    assert len(found.altered) == 3
    assert "was changed" in " ".join(found.altered)
    assert "bytes, its RECORD says" in " ".join(found.altered)
    assert "bare: it has no RECORD" in " ".join(found.altered)
    assert "Make it anew from the lock" in found.summary


@pytest.mark.parametrize("name", ["sitecustomize.py", "evil.pth", "other/late.py", "other/fast.so"])
def test_code_that_nobody_brought_is_named(place: tuple[Path, Path], name: str) -> None:
    (place[1] / name).write_text("print('here')\n")
    found = examine_installed(place[0], [str(place[1])])
    assert [Path(one).name for one in found.strays] == [Path(name).name]
    assert not found.holds


def test_a_file_that_is_gone_is_named(place: tuple[Path, Path]) -> None:
    (place[1] / "other" / "__init__.py").unlink()
    found = examine_installed(place[0], [str(place[1])])
    assert "cannot be read" in found.altered[0]


@pytest.mark.parametrize("line", ["numpy", "numpy>=1", "numpy==1,<2", "-e .", "numpy @ file:///x"])
def test_a_lock_with_a_range_is_no_lock(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{line}\n")
    with pytest.raises(PedigreeError, match="is no exact pin"):
        read_lock(lock)
    with pytest.raises(PedigreeError, match="cannot be read"):
        read_lock(tmp_path / "none.txt")


@pytest.mark.slow
def test_the_environment_of_these_tests_is_judged_as_a_whole() -> None:
    """Whether it holds depends on who made it; that it is looked at does not."""
    result = check_environment(REPOSITORY / "constraints.txt")
    assert isinstance(result.counts["files"], int)
    assert result.counts["files"] > 10_000
    assert result.passed == (not result.examples)
