"""The few instructions between fork and ComfyUI: tie this process to the worker, then become the program.

Run as a script, `python -I -S launch.py WORKER_PID PROGRAM ARGUMENT...`, with the standard library only. It is a script
and not a `preexec_fn` because code between fork and exec in a process with threads may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(worker_pid: int) -> None:
    """Ask the kernel to kill this process when the worker's thread that forked it ends (Linux only).

    The request survives exec, and Linux drops it only for setuid programs.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != worker_pid:
        # The worker died before the request was in place, so no signal will come.
        sys.exit("The worker that started this instance is gone.")


def reset_signals() -> None:
    """Undo what exec would keep: a Celery process ignores or blocks signals that ComfyUI must see."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(arguments: list[str]) -> None:
    """Never returns: the process becomes `arguments[1:]`."""
    die_with(int(arguments[0]))
    reset_signals()
    os.execv(arguments[1], arguments[1:])  # noqa: S606 - becoming the program, without a shell, is the point


if __name__ == "__main__":
    main(sys.argv[1:])
