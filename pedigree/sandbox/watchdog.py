"""Kill a process when its time is over: a program of its own, beside the worker and not above it.

    python -I -S watchdog.py PID SECONDS

It holds a descriptor of the process, not its number, so it can never hit another one. It writes a
line when it watches; it ends with 0 when the process ended by itself and with 3 when it had to
kill. The worker cannot signal it (seccomp, Landlock), and it outlives a caller that is killed.
"""

import os
import select
import signal
import sys

KILLED = 3


def watch(pid: int, seconds: float) -> int:
    """Wait for the end of `pid`, at most `seconds`, then kill it; return the exit code."""
    handle = os.pidfd_open(pid)
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if poll.poll(seconds * 1000):
        return 0
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    return KILLED


if __name__ == "__main__":
    raise SystemExit(watch(int(sys.argv[1]), float(sys.argv[2])))
