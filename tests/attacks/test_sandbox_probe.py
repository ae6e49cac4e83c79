"""The hostile probe at every isolation level, and the same without the sandbox as the control."""

import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pedigree.errors import PedigreeError
from pedigree.sandbox import Isolation, Level, Limits, SandboxResult, probe_isolation, run_sandboxed
from tests.attacks import hostile_probe

pytestmark = pytest.mark.slow

WORKER = "tests.attacks.hostile_probe:attempt_all"
# Every kernel's Landlock that the policy accepts is at least ABI 1; the newest is what runs here.
LEVELS = ["landlock_abi_1", "landlock", "bubblewrap"]
LIMITS = Limits(wall_seconds=20, file_bytes=1 << 20)
BRIEF = replace(LIMITS, wall_seconds=0.4)
CANARY = "canary-5f0c"
# These end their process, so each gets one of its own; the others share a worker.
KILLED = {
    "loop_for_ever": "watchdog",
    "sleep_for_ever": "watchdog",
    "call_through_32_bit_code": "ended with -31",  # SIGSYS
}
# The kernel's words for a refusal: EPERM, EACCES, ENOMEM, EMFILE, EFBIG, EBADF (a descriptor that
# was not inherited), ENOSYS (clone3), a variable that is not there. A failure of the probe itself
# is no denial.
DENIALS = ("[Errno 1] ", "[Errno 13] ", "[Errno 12] ", "[Errno 24] ", "[Errno 27] ", "[Errno 9] ",
           "[Errno 38] ", "MemoryError", "KeyError: 'PEDIGREE_PROBE_SECRET'",
           "PermissionError: no family gives a socket",
           "can't start new thread", "not allowed to raise maximum limit")  # fmt: skip

# Within bubblewrap what is not bound does not exist, and what is bound lies on a read-only mount.
ABSENT = ("[Errno 2] ", "[Errno 30] ")


@dataclass
class World:
    """Everything that the actions aim at, made anew for each of them."""

    root: Path
    context: dict[str, Any]
    victim: "subprocess.Popen[bytes]"
    servers: list[socket.socket]

    def state(self) -> list[object]:
        """Return all that an action could have changed outside its output."""
        folder = self.root / "outside"
        files = [
            (path.name, path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes(),
             os.listxattr(path))
            for path in sorted(folder.iterdir())
        ]  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.victim.wait(0.02)
        return [files, self.victim.poll()]

    def contacted(self) -> bool:
        """Return whether any socket was reached."""
        return bool(select.select(self.servers, [], [], 0)[0])


def _servers() -> tuple[list[socket.socket], dict[str, Any]]:
    name = f"pedigree-probe-{uuid.uuid4().hex}"
    wanted = {
        "tcp4": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, "socket"),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
    }
    servers: list[socket.socket] = []
    context: dict[str, Any] = {"unix": "socket", "abstract": name, "tcp6": 0}
    for key, (family, kind, address) in wanted.items():
        server = socket.socket(family, kind)
        servers.append(server)
        try:
            server.bind(address)
        except OSError:
            continue
        if kind == socket.SOCK_STREAM:
            server.listen()
        if family != socket.AF_UNIX:
            context[key] = server.getsockname()[1]
    return servers, context


@contextlib.contextmanager
def _world(root: Path) -> Iterator[World]:
    home, outside = root / "home", root / "outside"
    (home / ".aws").mkdir(parents=True)
    outside.mkdir()
    secret = home / ".aws" / "credentials"
    secret.write_text(CANARY)
    (home / "innocent.txt").symlink_to(secret)
    for name in ("kept.txt", "input.txt"):
        (outside / name).write_text(f"{name} is kept")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PEDIGREE_PROBE_SECRET", CANARY)
        patch.chdir(root)  # a socket's whole path may be too long to bind
        victim = subprocess.Popen(["/bin/sleep", "60"], env={"SECRET": CANARY})
        descriptor = os.open(secret, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        for undo in (victim.wait, victim.kill):
            stack.callback(undo)
        stack.callback(os.close, descriptor)
        servers, context = _servers()
        for server in servers:
            stack.enter_context(server)
        context |= {"home": str(home), "outside": str(outside), "victim": victim.pid,
                    "descriptor": descriptor, "input": str(outside / "input.txt")}  # fmt: skip
        yield World(root, context, victim, servers)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with _world(tmp_path) as world:
        yield world


@pytest.fixture(scope="session")
def probed() -> Isolation:
    return probe_isolation()


def _isolation(level: str, probed: Isolation) -> Isolation:
    """Return one of the levels that a policy may accept, as far as this machine has it."""
    if probed.level < Level.LANDLOCK_SECCOMP:
        pytest.skip(f"nothing is ever opened here: {probed.absent}")
    if level == "bubblewrap":
        if probed.level < Level.BUBBLEWRAP:
            pytest.skip(f"not on this machine: {probed.absent}")
        return probed
    abi = 1 if level == "landlock_abi_1" else probed.landlock_abi
    return replace(probed, level=Level.LANDLOCK_SECCOMP, landlock_abi=abi)


def _sandboxed(
    names: list[str], world: World, isolation: Isolation, limits: Limits
) -> SandboxResult:
    """Let a worker do this; whatever comes of it, nothing outside its output may have changed."""
    payload = {"names": names, "context": {**world.context, "control": False}}
    before = world.state()
    try:
        result = run_sandboxed(
            WORKER, payload=json.dumps(payload).encode(), read_only=[Path(world.context["input"])],
            output=world.root / "output", outputs=["result"], limits=limits, isolation=isolation,
        )  # fmt: skip
    finally:
        assert world.state() == before
        assert not world.contacted()
    output = world.root / "output"
    assert [path.name for path in output.iterdir()] == ["result"]
    assert not (output / "result").is_symlink()
    assert (output / "result").read_text() == "input.txt is kept"  # the intended output
    return result


@pytest.fixture(scope="module")
def denials(
    probed: Isolation, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, dict[str, str]]]:
    """What came of every action at a level, tried once for all tests of that level."""

    @functools.cache
    def of_level(level: str) -> dict[str, dict[str, str]]:
        names = [name for name in hostile_probe.ACTIONS if name not in KILLED]
        with _world(tmp_path_factory.mktemp(level)) as world:
            result = _sandboxed(names, world, _isolation(level, probed), LIMITS)
        assert isinstance(result.value, dict)
        return result.value

    return of_level


def test_the_probe_is_large_enough() -> None:
    assert len(hostile_probe.ACTIONS) >= 60


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [name for name in hostile_probe.ACTIONS if name not in KILLED])
def test_the_sandbox_denies(
    name: str, level: str, denials: Callable[[str], dict[str, dict[str, str]]]
) -> None:
    answer = denials(level)[name]
    assert list(answer) == ["denied"]
    denials_here = DENIALS + (ABSENT if level == "bubblewrap" else ())
    assert any(word in answer["denied"] for word in denials_here)
    assert CANARY not in answer["denied"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("name", "ending"), KILLED.items())
def test_the_sandbox_kills(
    name: str, ending: str, level: str, probed: Isolation, world: World
) -> None:
    isolation = _isolation(level, probed)
    if name == "call_through_32_bit_code" and probed.machine != "x86_64":
        pytest.skip("only x86_64 runs 32-bit calls in a 64-bit process")
    with pytest.raises(PedigreeError, match=ending):
        _sandboxed([name], world, isolation, BRIEF if ending == "watchdog" else LIMITS)
    assert not (world.root / "output").exists()


@pytest.mark.parametrize("name", hostile_probe.ACTIONS)
def test_the_control_without_the_sandbox_succeeds(name: str, world: World) -> None:
    output = world.root / "output"
    output.mkdir()
    (output / "result").touch()
    before = world.state()
    proof = hostile_probe.PROOF[name]
    context = {**world.context, "output": str(output), "control": True}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", hostile_probe.__file__, name, json.dumps(context)],
            capture_output=True, text=True, check=False, pass_fds=[context["descriptor"]],
            timeout=0.4 if proof == "still_running" else 20,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        assert proof == "still_running"
        return
    if done.returncode < 0:
        pytest.skip(f"this machine itself denies it: signal {-done.returncode}")
    answer = json.loads(done.stdout)
    if "denied" in answer:
        assert "Error: [Errno" in answer["denied"]
        pytest.skip(f"this machine itself denies it: {answer['denied']}")
    assert proof != "canary" or CANARY in str(answer["done"])
    assert proof != "world" or world.state() != before
    assert proof != "contact" or world.contacted()
