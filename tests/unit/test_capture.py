"""What ran: a real git checkout, clean, changed and moved; the lock; the installed packages."""

import hashlib
import importlib.metadata
import os
from pathlib import Path

import pytest

import pedigree
from pedigree.capture import (
    capture_code,
    capture_environment,
    digest_code_files,
    find_code_root,
)
from tests.conftest import REPOSITORY, must


def git(root: Path, *arguments: str) -> str:
    return must("git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments, cwd=root)


def commit(root: Path) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "state")
    return git(root, "rev-parse", "HEAD").strip()


def fill(root: Path) -> Path:
    files = {
        "pedigree/__init__.py": "__version__ = '0'\n",
        "pedigree/deep/part.py": "x = 1\n" * 20,
        "checks/one.py": "",
        "README.md": "Read me.\n",
        "params.yaml": "a: 1\n",
        "dvc.lock": "a: 1\n",
        "data/x.dvc": "a: 1\n",
        "data/training/.gitignore": "/x\n",
        "digests/model.json": "{}\n",
        "metrics/m.json": "{}\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = fill(tmp_path / "checkout")
    git(root, "init", "-q")
    commit(root)
    return root


def test_a_clean_checkout_is_its_commit_and_nothing_else(checkout: Path) -> None:
    code = capture_code(checkout)
    assert code.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert (code.dirty, code.changed_files, code.diff_sha256) == (False, (), None)
    assert code.repository is None
    assert code.version == pedigree.__version__


@pytest.mark.parametrize("name", ["pedigree/deep/part.py", "README.md", "new file é.py", "x/y"])
def test_a_changed_or_new_file_makes_code_dirty_and_is_named(checkout: Path, name: str) -> None:
    path = checkout / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("changed\n")
    code = capture_code(checkout)
    assert code.dirty
    assert code.changed_files == (name,)
    assert code.diff_sha256 is not None


def test_the_digest_of_the_difference_is_that_of_gits_own(checkout: Path) -> None:
    (checkout / "pedigree/deep/part.py").write_text("x = 2\n")
    (checkout / "README.md").unlink()
    (checkout / "params.yaml").write_text("a: 2\n")
    code = capture_code(checkout)
    assert code.changed_files == ("README.md", "pedigree/deep/part.py")
    names = ("README.md", "pedigree/deep/part.py")
    diff = git(checkout, "diff", "HEAD", "--", *names).strip("\n")
    assert code.diff_sha256 == hashlib.sha256(diff.encode()).hexdigest()


def test_what_changes_in_normal_use_leaves_code_clean(checkout: Path) -> None:
    normal = ["params.yaml", "dvc.lock", "data/x.dvc", "data/new.dvc", "data/training/.gitignore",
              "digests/model.json", "metrics/m.json"]  # fmt: skip
    for name in normal:
        (checkout / name).write_text("changed: 1\n")
    assert not capture_code(checkout).dirty


def test_a_file_that_hides_others_from_git_is_a_change(checkout: Path) -> None:
    (checkout / ".gitignore").write_text("pedigree/evil.py\n")
    assert capture_code(checkout).changed_files == (".gitignore",)


@pytest.mark.parametrize("name", ["pedigree/deep/evil.py", "conftest.py", "checks/fast.so"])
def test_an_ignored_file_that_python_would_import_is_a_change(checkout: Path, name: str) -> None:
    (checkout / ".gitignore").write_text("evil.py\nconftest.py\n*.so\nscratch\n")
    commit(checkout)
    (checkout / "scratch").mkdir()
    (checkout / "scratch" / "mine.py").write_text("nobody imports this")
    assert not capture_code(checkout).dirty
    (checkout / name).write_text("x")
    assert capture_code(checkout).changed_files == (name,)


def test_staged_changes_are_changes_and_ignored_files_are_none(checkout: Path) -> None:
    (checkout / ".gitignore").write_text("*.tmp\n")
    commit(checkout)
    (checkout / "scratch.tmp").write_text("x")
    assert not capture_code(checkout).dirty
    (checkout / "staged.py").write_text("x")
    git(checkout, "add", "staged.py")
    assert capture_code(checkout).changed_files == ("staged.py",)


def test_a_folder_without_git_has_no_commit_and_counts_as_dirty(tmp_path: Path) -> None:
    code = capture_code(fill(tmp_path))
    assert (code.commit, code.repository, code.dirty) == (None, None, True)


def test_a_repository_without_a_commit_counts_as_dirty(tmp_path: Path) -> None:
    git(fill(tmp_path), "init", "-q")
    code = capture_code(tmp_path)
    assert (code.commit, code.dirty) == (None, True)


def test_the_files_digest_follows_the_code_and_not_its_place(
    checkout: Path, tmp_path: Path
) -> None:
    before = digest_code_files(checkout)
    assert digest_code_files(fill(tmp_path / "elsewhere")) == before
    (checkout / "README.md").write_text("other")
    (checkout / "scripts.py").write_text("other")
    assert digest_code_files(checkout) == before
    (checkout / "pedigree/deep/part.py").write_text("x = 2\n")
    changed = digest_code_files(checkout)
    (checkout / "pedigree/deep/part.py").write_text("x = 1\n" * 20)
    (checkout / "pedigree/deep/part.py").rename(checkout / "pedigree/part.py")
    assert len({before, changed, digest_code_files(checkout)}) == 3


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@example.org/a/b.git", "https://example.org/a/b.git"),
        ("https://secret@example.org/a/b.git", "https://example.org/a/b.git"),
        ("https://us@er:se@cret@example.org/a", "https://example.org/a"),
        ("ssh://git@example.org:22/a/b", "ssh://example.org:22/a/b"),
        ("https://example.org/~a@b/c", "https://example.org/~a@b/c"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
        ("/srv/a.git", "local:a.git"),
        ("file:///home/me/a/", "local:a"),
        ("../a", "local:a"),
        pytest.param(
            "https://example.org/a.git?private_token=secret",
            "https://example.org/a.git",
        ),
    ],
)
def test_the_address_of_the_repository_is_recorded_without_secrets(
    checkout: Path, url: str, shown: str
) -> None:
    git(checkout, "remote", "add", "origin", url)
    assert capture_code(checkout).repository == shown


def test_the_environment_is_the_lock_and_what_pip_sees(tmp_path: Path) -> None:
    assert capture_environment(tmp_path).lock_sha256 is None
    (tmp_path / "constraints.txt").write_bytes(b"a==1\n")
    environment = capture_environment(tmp_path)
    assert environment.lock == "constraints.txt"
    assert environment.lock_sha256 == hashlib.sha256(b"a==1\n").hexdigest()
    assert environment.distributions["torch"] == importlib.metadata.version("torch")
    assert environment.distributions["typing-extensions"]
    assert list(environment.distributions) == sorted(environment.distributions)


def test_the_code_that_runs_is_the_projects_own_or_the_installed_one(tmp_path: Path) -> None:
    assert find_code_root(tmp_path) == REPOSITORY
    assert find_code_root(fill(tmp_path)) == tmp_path


def test_a_renamed_file_is_named_whole(checkout: Path) -> None:
    git(checkout, "mv", "pedigree/deep/part.py", "pedigree/deep/moved.py")
    changed = capture_code(checkout).changed_files
    assert changed == ("pedigree/deep/moved.py", "pedigree/deep/part.py")


@pytest.mark.parametrize("where", ["content", "name"])
def test_a_changed_file_that_is_no_utf8_is_captured(checkout: Path, where: str) -> None:
    name = b"latin.txt" if where == "content" else b"caf\xe9.txt"
    path = Path(os.fsdecode(os.fsencode(checkout) + b"/" + name))
    path.write_bytes(b"caf\xe9\n")
    if where == "content":
        commit(checkout)
        path.write_bytes(b"th\xe9\n")
    assert capture_code(checkout).dirty


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A project in a folder of a larger repository."""
    root = tmp_path / "large"
    project = fill(root / "projects" / "mine")
    git(root, "init", "-q")
    commit(root)
    assert not capture_code(project).dirty
    return project


def test_a_change_elsewhere_in_a_larger_repository_is_none_of_the_projects(inside: Path) -> None:
    (inside.parent / "theirs.py").write_text("x")
    assert not capture_code(inside).dirty


def test_normal_use_leaves_a_project_inside_a_larger_repository_clean(inside: Path) -> None:
    (inside / "params.yaml").write_text("a: 2\n")
    assert not capture_code(inside).dirty


def test_two_changes_in_a_larger_repository_have_two_differences(inside: Path) -> None:
    digests = set()
    for text in ("x = 2\n", "x = 3\n"):
        (inside / "pedigree/deep/part.py").write_text(text)
        digests.add(capture_code(inside).diff_sha256)
    assert len(digests) == 2
