"""Workers for the tests, loaded by their names inside the sandbox."""

import os

from pedigree.sandbox import WorkerRequest


def answer_much(request: WorkerRequest) -> str:
    return "x" * (2 << 20)


def answer_nonsense(request: WorkerRequest) -> object:
    os.write(1, b"\x1b[2Jhello")  # goes to what is printed, not to the result
    os._exit(0)


def fail(request: WorkerRequest) -> None:
    raise ValueError("\x1b[31mred\nlines")


def write_nothing(request: WorkerRequest) -> None:
    return None


def write_two(request: WorkerRequest) -> list[int]:
    assert request.output
    return [(request.output / name).write_bytes(request.payload) for name in ("a", "b")]


def use_threads(request: WorkerRequest) -> int:
    import threading

    seen: list[int] = []
    threads = [threading.Thread(target=seen.append, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(seen)


def see_itself(request: WorkerRequest) -> dict[str, object]:
    import resource

    handles = []
    for handle in range(64):
        try:
            os.fstat(handle)
        except OSError:
            continue
        handles.append(handle)
    return {
        "environment": sorted(os.environ), "handles": handles, "folder": os.getcwd(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "memory": resource.getrlimit(resource.RLIMIT_AS),
    }  # fmt: skip


def open_a_socket(request: WorkerRequest) -> None:
    import socket

    socket.socket()


def burn(request: WorkerRequest) -> None:
    while True:
        pass


def unpickle_anything(request: WorkerRequest) -> str:
    """What a loader with a hole would do."""
    import pickle

    return str(pickle.loads(request.payload))
