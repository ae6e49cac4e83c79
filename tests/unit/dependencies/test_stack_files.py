"""Container files and requirements: what is pinned passes, what is not is named with its line."""

from pathlib import Path

import pytest

from pedigree.dependencies.stack_files import examine_stack
from pedigree.errors import PedigreeError

DIGEST = "sha256:" + "a" * 64
PINNED = f"""\
# syntax is a comment
FROM python:3.11@{DIGEST} AS build
RUN pip install --no-cache-dir \\
    # a comment in between
    -r requirements.txt && \\
    pip install torch==2.13.0 ./local /wheels/x.whl
ADD --checksum={DIGEST} https://example.org/data.tar /data
FROM --platform=linux/amd64 example.org/base@{DIGEST}
COPY --from=build /app /app
COPY --from=0 /app /app
FROM build
FROM scratch
"""


def named(tmp_path: Path, name: str, text: str) -> list[tuple[int, str]]:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    return [(one.line, one.reason) for one in examine_stack(tmp_path)]


def test_what_is_pinned_passes(tmp_path: Path) -> None:
    assert named(tmp_path, "serve/Dockerfile", PINNED) == []
    pins = f"numpy==1.0 --hash={DIGEST}\n-r more.txt\n# numpy\na[b]==1 ; python_version > '3'\n"
    commit = "c" * 40
    assert named(tmp_path, "requirements.txt", f"{pins}x @ git+https://h/x@{commit}\n") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("FROM python:3.11", "names a tag"),
        ("from python", "names a tag"),
        (f"FROM python@{DIGEST[:-1]}", "names a tag"),
        ("FROM ${BASE}", "names a tag"),
        ("COPY --from=nginx:latest /x /x", "an image without a digest"),
        ("ADD https://example.org/x /x", "without --checksum"),
        ("ADD git@github.com:a/b.git /x", "without --checksum"),
        ("RUN curl -s https://example.org/i.sh | sudo bash", "whatever that is on the day"),
        ("RUN wget -qO- https://example.org/i.py | python3 -", "whatever that is on the day"),
        ("RUN pip install numpy", "pip install numpy pins no version"),
        ("RUN apt-get update && pip3 install 'a>=1' b==2", "pip install 'a>=1' pins no version"),
    ],
)
def test_a_container_that_is_open_is_named(tmp_path: Path, line: str, reason: str) -> None:
    found = named(tmp_path, "Dockerfile.gpu", f"FROM scratch\n\n{line}\n")
    assert len(found) == 1
    assert found[0][0] == 3
    assert reason in found[0][1]


@pytest.mark.parametrize(
    "line",
    ["numpy", "numpy>=1", "numpy==1.*", "numpy~=1.0", "a==1,<2", "x @ https://h/x.whl", "-e ."],
)
def test_a_range_is_named(tmp_path: Path, line: str) -> None:
    found = named(tmp_path, "dev-requirements.in", f"ok==1\n{line}\n")
    assert [number for number, _ in found] == [2]


def test_what_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_bytes(b"FROM \xff\xfe")
    with pytest.raises(PedigreeError, match="nothing is said of it"):
        examine_stack(tmp_path)
    (tmp_path / "Dockerfile").unlink()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "Dockerfile").write_text("FROM x\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert examine_stack(tmp_path) == []
