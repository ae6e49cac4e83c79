"""What a hostile worker tries: each action either proves that it worked or raises.

Run by `test_sandbox_probe.py` twice: inside the sandbox by one worker, and without a sandbox by a
program for each, `hostile_probe.py NAME CONTEXT`. Standard library only. What an action does to
the machine ends with its process or stays in the folder that the test gives it.
"""

import ctypes
import json
import mmap
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Context = dict[str, Any]
ACTIONS: dict[str, Callable[[Context], str]] = {}
# What proves that an action worked without the sandbox: its word for it, the canary that it
# brought back, a change in the folder or process outside, or a contact with a listening socket.
PROOF: dict[str, str] = {}

# x86_64, aarch64
NUMBERS = {
    "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51), "clone3": (435, 435),
    "execveat": (322, 281), "fanotify_init": (300, 262), "io_uring_setup": (425, 425),
    "kcmp": (312, 272), "keyctl": (250, 219), "memfd_create": (319, 279), "mount": (165, 40),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "prctl": (157, 167),
    "process_vm_readv": (310, 270), "ptrace": (101, 117), "setns": (308, 268),
    "shmget": (29, 194), "unshare": (272, 97), "userfaultfd": (323, 282),
}  # fmt: skip
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000


def action(proof: str) -> Callable[[Callable[[Context], str]], Callable[[Context], str]]:
    def add(function: Callable[[Context], str]) -> Callable[[Context], str]:
        ACTIONS[function.__name__] = function
        PROOF[function.__name__] = proof
        return function

    return add


def call(name: str, *arguments: Any) -> int:
    number = NUMBERS[name][0 if platform.machine() == "x86_64" else 1]
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    values = [ctypes.c_long(x) if isinstance(x, int) else x for x in arguments]
    result = library.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# --- reading -----------------------------------------------------------------------------------


@action("canary")
def read_aws_credentials(c: Context) -> str:
    return Path(c["home"], ".aws/credentials").read_text()


@action("canary")
def read_through_a_link(c: Context) -> str:
    return Path(c["home"], "innocent.txt").read_text()


@action("canary")
def read_through_proc_self_root(c: Context) -> str:
    return Path(f"/proc/self/root{c['home']}/.aws/credentials").read_text()


@action("canary")
def read_by_climbing(c: Context) -> str:
    return Path("/usr/lib", *[".."] * 20, c["home"].lstrip("/"), ".aws/credentials").read_text()


@action("canary")
def read_own_environment(c: Context) -> str:
    return os.environ["PEDIGREE_PROBE_SECRET"]


@action("canary")
def read_environment_of_another(c: Context) -> str:
    return Path(f"/proc/{c['victim']}/environ").read_text()


@action("canary")
def read_inherited_descriptor(c: Context) -> str:
    return os.pread(c["descriptor"], 1000, 0).decode()


@action("word")
def read_environment_of_parent(c: Context) -> str:
    return f"{len(Path(f'/proc/{os.getppid()}/environ').read_bytes())} bytes"


@action("word")
def read_memory_of_another(c: Context) -> str:
    maps = Path(f"/proc/{c['victim']}/maps").read_text().splitlines()
    with Path(f"/proc/{c['victim']}/mem").open("rb") as memory:
        memory.seek(int(maps[0].partition("-")[0], 16))
        return memory.read(4).hex()


@action("word")
def list_processes(c: Context) -> str:
    return str([name for name in os.listdir("/proc") if name.isdigit()][0])  # noqa: RUF015


@action("word")
def list_home(c: Context) -> str:
    return str(os.listdir(c["home"]))


@action("word")
def read_process_vm(c: Context) -> str:
    maps = Path(f"/proc/{c['victim']}/maps").read_text() if c["control"] else "10000-"
    buffer = ctypes.create_string_buffer(4)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 4)
    remote = (ctypes.c_size_t * 2)(int(maps.partition("-")[0], 16), 4)
    call("process_vm_readv", c["victim"], local, 1, remote, 1, 0)
    return buffer.raw.hex()


# --- sockets -----------------------------------------------------------------------------------


def contact(family: int, kind: int, address: Any) -> str:
    with socket.socket(family, kind) as connection:
        connection.settimeout(2)
        connection.connect(address)
        connection.send(b"stolen")
    return "sent"


@action("contact")
def connect_tcp4(c: Context) -> str:
    return contact(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", c["tcp4"]))


@action("contact")
def connect_tcp6(c: Context) -> str:
    if not c["tcp6"]:
        raise OSError("this machine has no IPv6")
    return contact(socket.AF_INET6, socket.SOCK_STREAM, ("::1", c["tcp6"]))


@action("contact")
def send_udp(c: Context) -> str:
    return contact(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", c["udp"]))


@action("contact")
def connect_unix_socket(c: Context) -> str:
    return contact(socket.AF_UNIX, socket.SOCK_STREAM, c["unix"])


@action("contact")
def connect_abstract_socket(c: Context) -> str:
    return contact(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + c["abstract"])


@action("word")
def listen_tcp(c: Context) -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        return str(server.getsockname())


@action("word")
def make_a_socket_of_any_family(c: Context) -> str:
    made: list[int] = []
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    for family in range(46):
        for kind in kinds:
            try:
                socket.socket(family, kind).close()
            except OSError:
                continue
            made.append(family)
            break
    if not made:
        raise PermissionError("no family gives a socket")
    return str(made)


@action("word")
def make_a_socket_pair(c: Context) -> str:
    for end in socket.socketpair():
        end.close()
    return "made"


# --- processes and signals ---------------------------------------------------------------------


@action("word")
def fork(c: Context) -> str:
    pid = os.fork()
    if not pid:
        os._exit(7)
    return str(os.waitpid(pid, 0)[1])


@action("word")
def fork_bomb(c: Context) -> str:
    children: list[int] = []
    for _ in range(30):  # bounded, for the run without the sandbox
        pid = os.fork()
        if not pid:
            time.sleep(0.05)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return f"{len(children)} processes"


@action("word")
def start_many_threads(c: Context) -> str:
    import threading

    threads = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    return f"{len(threads)} threads"


@action("word")
def clone3_a_process(c: Context) -> str:
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = call("clone3", arguments, 64)
    if not pid:
        os._exit(0)
    return str(os.waitpid(pid, 0))


@action("word")
def run_a_program(c: Context) -> str:
    return str(subprocess.run(["/bin/true"], check=True).returncode)


@action("word")
def spawn_a_program(c: Context) -> str:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    if os.waitpid(pid, 0)[1]:
        raise PermissionError("the program did not run")
    return "ran"


@action("world")
def replace_itself_by_a_program(c: Context) -> str:
    os.execv("/bin/sh", ["sh", "-c", f"echo x > {c['outside']}/written; echo '{{\"done\": 1}}'"])


@action("word")
def run_from_memory(c: Context) -> str:
    handle = call("memfd_create", ctypes.c_char_p(b"x"), 0)
    os.write(handle, Path("/bin/true").read_bytes())
    null = ctypes.c_void_p(None)
    argv = (ctypes.c_char_p * 2)(b"true", None)
    # Replaces this process: the exit code and the missing answer tell. AT_EMPTY_PATH
    os.write(1, b'{"done": "ran from memory"}\n')
    return str(call("execveat", handle, ctypes.c_char_p(b""), argv, null, 0x1000))


@action("word")
def trace_another(c: Context) -> str:
    call("ptrace", 16, c["victim"], 0, 0)  # PTRACE_ATTACH
    os.waitpid(c["victim"], 0x40000000)  # __WALL
    return str(call("ptrace", 17, c["victim"], 0, 0))  # PTRACE_DETACH


@action("word")
def offer_to_be_traced(c: Context) -> str:
    return str(call("ptrace", 0, 0, 0, 0))  # PTRACE_TRACEME


@action("world")
def kill_another(c: Context) -> str:
    os.kill(c["victim"], signal.SIGKILL)
    return "killed"


@action("word")
def signal_the_parent(c: Context) -> str:
    os.kill(os.getppid(), signal.SIGCONT)
    return "signalled"


@action("world")
def kill_by_pidfd(c: Context) -> str:
    call("pidfd_send_signal", call("pidfd_open", c["victim"], 0), signal.SIGKILL, 0, 0)
    return "killed"


@action("world")
def kill_by_pipe_owner(c: Context) -> str:
    import fcntl

    reading, writing = os.pipe()
    fcntl.fcntl(reading, 10, signal.SIGKILL)  # F_SETSIG
    fcntl.fcntl(reading, fcntl.F_SETOWN, c["victim"])
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writing, b"x")
    return "signalled"


@action("word")
def take_descriptor_of_another(c: Context) -> str:
    return str(call("pidfd_getfd", call("pidfd_open", c["victim"], 0), 0, 0))


@action("word")
def compare_with_another(c: Context) -> str:
    return str(call("kcmp", os.getpid(), c["victim"], 1, 0, 0))


@action("word")
def survive_the_caller(c: Context) -> str:
    return str(call("prctl", 1, 0, 0, 0, 0))  # PR_SET_PDEATHSIG


# --- writing -----------------------------------------------------------------------------------


@action("world")
def write_outside(c: Context) -> str:
    return str(Path(c["outside"], "written").write_text("x"))


@action("world")
def change_a_file_outside(c: Context) -> str:
    return str(Path(c["outside"], "kept.txt").write_text("x"))


@action("world")
def truncate_outside(c: Context) -> str:
    os.truncate(Path(c["outside"], "kept.txt"), 0)
    return "truncated"


@action("world")
def truncate_what_is_opened_for_reading(c: Context) -> str:
    return str(os.open(Path(c["outside"], "kept.txt"), os.O_RDONLY | os.O_TRUNC))


@action("world")
def delete_outside(c: Context) -> str:
    Path(c["outside"], "kept.txt").unlink()
    return "deleted"


@action("world")
def rename_outside(c: Context) -> str:
    return str(Path(c["outside"], "kept.txt").rename(Path(c["outside"], "renamed")))


@action("world")
def change_a_mode_outside(c: Context) -> str:
    Path(c["outside"], "kept.txt").chmod(0o777)
    return "changed"


@action("world")
def change_times_outside(c: Context) -> str:
    os.utime(Path(c["outside"], "kept.txt"), (1, 1))
    return "changed"


@action("world")
def set_an_attribute_outside(c: Context) -> str:
    os.setxattr(Path(c["outside"], "kept.txt"), "user.probe", b"x")
    return "set"


@action("world")
def write_to_what_is_read_only(c: Context) -> str:
    return str(Path(c["input"]).write_text("x"))


@action("world")
def write_through_a_link_in_the_output(c: Context) -> str:
    link = Path(c["output"], "link")
    link.symlink_to(c["outside"])
    return str((link / "written").write_text("x"))


@action("word")
def make_the_output_a_link(c: Context) -> str:
    Path(c["output"], "result").unlink()
    Path(c["output"], "result").symlink_to(c["home"] + "/.aws/credentials")
    return "linked"


@action("canary")
def link_a_secret_into_the_output(c: Context) -> str:
    os.link(c["home"] + "/.aws/credentials", c["output"] + "/linked")
    return Path(c["output"], "linked").read_text()


@action("word")
def make_many_files(c: Context) -> str:
    count = 2_000 if c["control"] else 100_000
    for number in range(count):
        Path(c["output"], f"file-{number}").touch()
    return f"{count} files"


@action("word")
def make_a_folder_in_the_output(c: Context) -> str:
    Path(c["output"], "folder").mkdir()
    return "made"


@action("word")
def make_a_pipe_in_the_output(c: Context) -> str:
    os.mkfifo(Path(c["output"], "pipe"))
    return "made"


@action("word")
def fill_the_disk(c: Context) -> str:
    with Path(c["output"], "result").open("r+b") as stream:
        stream.truncate(6 << 30)  # without the sandbox a sparse file
        stream.seek(6 << 30)
        stream.write(b"x")
    return "6 GiB"


# --- the machine -------------------------------------------------------------------------------


@action("word")
def take_5_gb_of_memory(c: Context) -> str:
    return f"{len(bytes(5 * 10**9))} bytes"  # without the sandbox never touched, so never there


@action("word")
def map_5_gb_of_memory(c: Context) -> str:
    with mmap.mmap(-1, 5 * 10**9) as memory:
        memory[-1] = 1
        return f"{len(memory)} bytes"


@action("word")
def open_500_files(c: Context) -> str:
    opened: list[int] = []
    try:
        for _ in range(500):
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for handle in opened:
            os.close(handle)
    return f"{len(opened)} files"


@action("word")
def lift_a_limit(c: Context) -> str:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return "set"


@action("word")
def use_io_uring(c: Context) -> str:
    return str(call("io_uring_setup", 4, ctypes.create_string_buffer(240)))


@action("word")
def use_userfaultfd(c: Context) -> str:
    return str(call("userfaultfd", os.O_CLOEXEC | 1))


@action("word")
def load_bpf(c: Context) -> str:
    attributes = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # an array of one 4-byte value
    return str(call("bpf", 0, attributes, ctypes.sizeof(attributes)))


@action("word")
def add_a_key(c: Context) -> str:
    kind, name = ctypes.c_char_p(b"user"), ctypes.c_char_p(b"pedigree-probe")
    return str(call("add_key", kind, name, ctypes.c_char_p(b"x"), 1, -2))  # process keyring


@action("word")
def ask_for_a_keyring(c: Context) -> str:
    return str(call("keyctl", 0, -2, 1))  # KEYCTL_GET_KEYRING_ID, process keyring


@action("word")
def observe_the_processor(c: Context) -> str:
    attributes = (ctypes.c_uint32 * 28)(1, 112)  # software, CPU clock
    return str(call("perf_event_open", attributes, 0, -1, -1, 0))


@action("word")
def enter_a_user_namespace(c: Context) -> str:
    return str(call("unshare", CLONE_NEWUSER))


@action("word")
def mount_a_file_system(c: Context) -> str:
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    kind, place = ctypes.c_char_p(b"tmpfs"), ctypes.c_char_p(c["outside"].encode())
    return str(call("mount", kind, place, kind, 0, 0))


@action("word")
def enter_another_namespace(c: Context) -> str:
    return str(call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0))


@action("word")
def change_root(c: Context) -> str:
    return str(call("chroot", ctypes.c_char_p(c["outside"].encode())))


@action("word")
def watch_all_files(c: Context) -> str:
    return str(call("fanotify_init", 0, 0))


@action("word")
def share_memory(c: Context) -> str:
    import resource  # a private segment of one page; removed with IPC_RMID by its number

    segment = call("shmget", 0, resource.getpagesize(), 0o1600)
    ctypes.CDLL(None).shmctl(segment, 0, None)
    return str(segment)


@action("word")
def change_personality(c: Context) -> str:
    return str(call("personality", 0x0040000))  # ADDR_NO_RANDOMIZE


@action("word")
def call_through_32_bit_code(c: Context) -> str:
    if platform.machine() != "x86_64":
        raise OSError("only x86_64 runs 32-bit calls in a 64-bit process")
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; getpid by int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pid = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if pid != os.getpid():
        raise OSError(f"the kernel answers {pid}")
    os.write(1, b'{"done": "called"}\n')
    os._exit(0)


@action("still_running")
def loop_for_ever(c: Context) -> str:
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    while True:
        pass


@action("still_running")
def sleep_for_ever(c: Context) -> str:
    while True:
        time.sleep(1000)


def attempt_all(request: Any) -> dict[str, dict[str, str]]:
    """The worker: do what the payload names, one after the other, say what came of each."""
    payload = json.loads(request.payload)
    context = {**payload["context"], "output": str(request.output)}
    answers = {name: attempt(name, context) for name in payload["names"]}
    # The one thing that is meant to work.
    (request.output / "result").write_text(request.read_only[0].read_text())
    return answers


def attempt(name: str, context: Context) -> dict[str, str]:
    try:
        return {"done": ACTIONS[name](context)}
    except Exception as error:
        return {"denied": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(attempt(sys.argv[1], json.loads(sys.argv[2]))))
