"""Levels, refusals, limits and outputs of the sandbox."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pedigree.errors import PedigreeError
from pedigree.sandbox import (
    Isolation,
    Level,
    Limits,
    probe_isolation,
    probing,
    run_sandboxed,
    running,
)
from pedigree.sandbox.bubblewrap import wrap_command
from pedigree.sandbox.isolation import layers_of
from tests.conftest import REPOSITORY

HERE = "tests.unit.sandbox.small_workers"


def test_the_record_says_what_is_there_and_what_is_not() -> None:
    found = probe_isolation()
    record = json.loads(json.dumps(found.record()))
    assert record["level"] == found.level.label
    assert tuple(record["layers"]) == layers_of(found.level)
    assert found.level is Level.BUBBLEWRAP or found.absent
    if sys.platform == "darwin":
        assert found.level is Level.RLIMITS


def test_where_landlock_is_missing_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "landlock_abi", lambda: 0)
    with pytest.raises(PedigreeError, match=r"Landlock.*nothing was opened"):
        run_sandboxed(f"{HERE}:fail")


def test_on_macos_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing.sys, "platform", "darwin")
    with pytest.raises(PedigreeError, match=r"this is darwin.*nothing was opened"):
        run_sandboxed(f"{HERE}:fail")


def test_a_level_is_never_silently_lower(isolation: Isolation) -> None:
    lower = replace(isolation, level=Level.LANDLOCK_SECCOMP)
    with pytest.raises(PedigreeError, match=r"bubblewrap.landlock.seccomp is required"):
        run_sandboxed(f"{HERE}:fail", minimum=Level.BUBBLEWRAP, isolation=lower)


def _stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in bubblewrap's place; it isolates nothing, it only starts or fails."""
    program = folder / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    for module in (probing, running):
        monkeypatch.setattr(module, "find_bubblewrap", lambda: program)


def test_it_works_where_user_namespaces_are_denied() -> None:
    """A user namespace may forbid further ones to whoever is in it: as many containers do."""
    inside = """
    echo 0 > /proc/sys/user/max_user_namespaces && ! unshare -U true 2>/dev/null || exit 77
    exec "$0" -c 'from pedigree.sandbox import *; print(probe_isolation().level.label)'
    """
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", inside, sys.executable],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode in (1, 77):
        pytest.skip(f"user namespaces cannot be set up to be denied here: {done.stderr}")
    # Bubblewrap works there too for whoever is root in the namespace; the inner layers always do.
    assert done.stdout.strip().endswith("landlock+seccomp")


def test_bubblewrap_that_does_not_work_leaves_the_inner_layers(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in(tmp_path, "echo No permissions to create new namespace >&2; exit 1", monkeypatch)
    found = probe_isolation()
    assert found.level is Level.LANDLOCK_SECCOMP
    assert "bubblewrap" not in found.layers
    assert "No permissions to create new namespace" in found.absent[0]


def test_the_inner_layers_are_built_within_bubblewrap_too(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_command = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    _stand_in(tmp_path, until_command, monkeypatch)
    found = probe_isolation()
    assert found.level is Level.BUBBLEWRAP
    with pytest.raises(PedigreeError, match=r"failed in the sandbox.*Errno 1\]"):
        run_sandboxed(f"{HERE}:open_a_socket", minimum=Level.BUBBLEWRAP, isolation=found)


def test_bubblewrap_is_told_to_share_nothing_but_what_is_named(tmp_path: Path) -> None:
    readable = [Path("/usr/lib"), Path("/no/such/folder"), Path("/dev/null")]
    command = wrap_command(Path("/bwrap"), readable, [tmp_path / "result"], ["python", "-I"])
    assert command[-3:] == ["--", "python", "-I"]
    assert {"--unshare-all", "--die-with-parent", "--new-session", "--clearenv"} <= set(command)
    binds = [command[i : i + 3] for i, word in enumerate(command) if word.endswith("bind")]
    result = str(tmp_path / "result")
    assert binds == [["--ro-bind", "/usr/lib", "/usr/lib"], ["--bind", result, result]]


@pytest.mark.parametrize("minimum", [Level.NONE, Level.RLIMITS])
def test_a_policy_cannot_ask_for_less_than_the_inner_layers(minimum: Level) -> None:
    with pytest.raises(PedigreeError, match="could read and send anything"):
        run_sandboxed(f"{HERE}:fail", minimum=minimum)


def test_a_layer_that_cannot_be_built_stops_the_run(isolation: Isolation) -> None:
    newer = replace(isolation, landlock_abi=isolation.landlock_abi + 1)
    with pytest.raises(PedigreeError, match=r"could not be built.*nothing was opened"):
        run_sandboxed(f"{HERE}:use_threads", isolation=newer)


def test_a_worker_sees_no_environment_no_descriptor_and_its_limits(isolation: Isolation) -> None:
    limits = Limits(memory_bytes=1 << 30)
    seen = run_sandboxed(f"{HERE}:see_itself", limits=limits, isolation=isolation).value
    assert isinstance(seen, dict)
    # Python sets LC_CTYPE itself where none is set; bubblewrap says which folder it went to.
    assert set(seen["environment"]) <= {"LC_CTYPE", "PWD"}
    assert len(seen["handles"]) == 4  # input, what is printed (twice), result
    assert seen["folder"] == "/"
    assert seen["core"] == [0, 0]
    assert seen["memory"] == [1 << 30, 1 << 30]


def test_threads_work(isolation: Isolation) -> None:
    limits = Limits(threads=8)
    assert run_sandboxed(f"{HERE}:use_threads", limits=limits, isolation=isolation).value == 6


def test_outputs_appear_whole(tmp_path: Path, isolation: Isolation) -> None:
    data = os.urandom(300_000)  # more than a pipe holds
    result = run_sandboxed(
        f"{HERE}:write_two", payload=data, output=tmp_path / "out", outputs=["a", "b"],
        isolation=isolation,
    )  # fmt: skip
    assert result.outputs == {"a": len(data), "b": len(data)}
    assert (tmp_path / "out" / "b").read_bytes() == data


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [
        ("write_nothing", "wrote nothing to a"),
        ("fail", r"'ValueError: .x1b\[31mred.nlines'"),
        ("answer_much", "more than 1048576 bytes"),
        ("answer_nonsense", r"no answer that can be read.*x1b\[2Jhello"),
        ("absent", "AttributeError"),
    ],
)
def test_a_failure_is_a_sentence_and_keeps_nothing(
    worker: str, sentence: str, tmp_path: Path, isolation: Isolation
) -> None:
    with pytest.raises(PedigreeError, match=sentence) as caught:
        run_sandboxed(
            f"{HERE}:{worker}", output=tmp_path / "out", outputs=["a"], isolation=isolation
        )
    assert "nothing was kept" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_processor_time_is_limited(isolation: Isolation) -> None:
    with pytest.raises(PedigreeError, match=r"ended with (-24|-9|137|152)"):
        run_sandboxed(f"{HERE}:burn", limits=Limits(cpu_seconds=1), isolation=isolation)


def test_a_worker_dies_with_its_caller(tmp_path: Path, isolation: Isolation) -> None:
    code = f"from pedigree.sandbox import run_sandboxed as r; r({HERE + ':burn'!r})"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    try:
        worker = _child_that_burns(caller.pid)
        caller.send_signal(signal.SIGKILL)
    finally:
        caller.kill()
        caller.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < end, "the worker outlived its caller"
        time.sleep(0.01)


def _child_that_burns(parent: int) -> int:
    """Wait for the caller's worker to be in its loop: under seccomp and with time spent."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for pid in _descendants(parent):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            under_filter = "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
            if under_filter and int(fields[11]) > 20:
                return pid
        time.sleep(0.01)
    raise AssertionError("no worker started")


def _descendants(parent: int) -> list[int]:
    """Return the processes below one: bubblewrap stands between the caller and the worker."""
    found: list[int] = []
    with suppress(FileNotFoundError):
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            found += [int(pid), *_descendants(int(pid))]
    return found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"worker": "no.such.module:f"}, "There is no worker"),
        ({"worker": "json"}, "There is no worker"),
        ({"read_only": [Path("/no/such/file")]}, "is missing"),
        ({"outputs": ["../x"], "output": Path("new")}, "no plain file name"),
        ({"outputs": ["x"]}, "give both"),
        ({"outputs": ["x"], "output": Path("/tmp")}, "exists already"),
    ],
)
def test_a_malformed_request_is_refused(
    change: dict[str, object], sentence: str, isolation: Isolation
) -> None:
    request: dict[str, object] = {"worker": f"{HERE}:fail", "isolation": isolation, **change}
    worker = str(request.pop("worker"))
    with pytest.raises(PedigreeError, match=sentence):
        run_sandboxed(worker, **request)  # type: ignore[arg-type]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(PedigreeError, match="wall_seconds is -1"):
        Limits(wall_seconds=-1)
