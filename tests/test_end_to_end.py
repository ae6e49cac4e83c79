"""The real default, whole: real text, the real base model, then the questions of a reviewer."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, must, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Path:
    """A fresh checkout of the working tree, committed, after `pedigree run --profile demo`."""
    root = tmp_path_factory.mktemp("demo") / "pedigree"
    for name in must("git", "ls-files", "-z", cwd=REPOSITORY).split("\0"):
        source = REPOSITORY / name
        if name and source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / name)
    must("git", "init", "-q", cwd=root)
    must("git", "config", "user.email", "tests@localhost", cwd=root)
    must("git", "config", "user.name", "tests", cwd=root)
    must("git", "add", "-A", cwd=root)
    must("git", "commit", "-qm", "A checkout", cwd=root)
    done = _pedigree(root, downloads, "run", "--profile", "demo")
    assert done[0] == 0, done[2]
    (root / "demo.out").write_text(done[1])
    must("git", "status", cwd=root)
    return root


def _pedigree(root: Path, downloads: Path, *arguments: str) -> tuple[int, str, str]:
    done = run(
        "python", "-m", "pedigree", *arguments, cwd=root, PEDIGREE_DOWNLOADS=str(downloads)
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_demo_prints_digest_accuracy_and_what_to_do_next(demo: Path, downloads: Path) -> None:
    out = (demo / "demo.out").read_text()
    code, text, _ = _pedigree(demo, downloads, "models", "--json")
    assert code == 0
    (model,) = json.loads(text)
    assert model["model"] in out
    assert model["accuracy"] >= 0.78
    assert f"{model['accuracy']:.3f}" in out
    for source in ("amazon_reviews", "movie_reviews", "newspaper_editorials", "tweets"):
        assert source in out
    assert "pedigree why production" in out


def test_the_demos_model_is_explained_and_verified(demo: Path, downloads: Path) -> None:
    code, out, _ = _pedigree(demo, downloads, "why", "production", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["answers"][0]["licence"] == "MIT"
    assert said["answers"][2]["training"]["rows"] > 3500
    assert said["answers"][4]["environments"][0]["approvals_demanded"] == 0
    assert _pedigree(demo, downloads, "verify", "production")[0] == 0


def test_training_again_from_the_same_data_gives_the_same_bits(demo: Path, downloads: Path) -> None:
    code, _, error = _pedigree(demo, downloads, "run", "--profile", "demo", "--job", "fine_tune")
    assert code == 0, error
    code, text, _ = _pedigree(demo, downloads, "models", "--json")
    assert len(json.loads(text)) == 1  # the same digest: still one model
    runs = list((demo / "mlartifacts" / "models").glob("m-*"))
    assert len(runs) == 2
