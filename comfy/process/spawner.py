"""Forks from one thread that never ends, because the kernel ties a child's life to the thread that forked it.

A start waits for the end of a pipe whose other end the new process closes when it becomes its program. A fork of this
process in just that moment, as when Celery makes a new pool process, would copy that end into a process that never
closes it, and the start would last for as long as that one lives. So forks wait for starts. Whatever else may hold up a
start, it is given up in time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from core.background import Loop

log = logging.getLogger(__name__)

#: A start takes milliseconds; on a machine that swaps, seconds.
START_LIMIT_S = 30.0
#: How long a fork waits for a start.
FORK_TIMEOUT_S = 10.0
LAUNCHER = Path(__file__).absolute().parent / "launch.py"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A process to start."""

    command: list[str]
    cwd: Path
    #: All of its environment.
    environment: dict[str, str]
    #: Takes standard output and standard error.
    log: IO[bytes]


class _Spawner:
    """The kernel sends the parent-death signal when the *thread* that forked ends, not only with its process.

    An instance started from a thread of a pool would so die with that thread. This thread is a daemon: it also
    outlives the main thread while others run.
    """

    def __init__(self) -> None:
        # A loop never gives its thread up while it lives.
        self._loop = Loop("comfy-spawner", self._serve_next)
        self._orders: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Order]] = queue.SimpleQueue()
        self.gate = _Gate()

    def spawn(self, order: Order, limit_s: float) -> subprocess.Popen[bytes]:
        self._loop.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((future, order))
        try:
            return future.result(limit_s)
        except NotInTime:
            if future.cancel():
                raise
            # It came about in the last moment.
            return future.result()

    def _serve_next(self) -> None:
        future, order = self._orders.get()
        try:
            with self.gate.starting():
                popen = _carry_out(order)
        except (OSError, ValueError) as exc:
            _fail(future, exc)
        except BaseException as exc:
            # Whoever waits must not wait for ever.
            _fail(future, exc)
            raise
        else:
            _hand_over(popen, future)


class _Gate:
    """Starts go through one after the other; a fork waits until none is under way, and keeps new ones out meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own = threading.local()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        with self._lock:
            yield

    def close(self) -> None:
        self._own.is_closed = self._lock.acquire(timeout=FORK_TIMEOUT_S)
        if not self._own.is_closed:
            log.warning("forking while a process is being started: that start may have to be given up")

    def open(self) -> None:
        if getattr(self._own, "is_closed", False):
            self._own.is_closed = False
            self._lock.release()


def _fail(future: Future[subprocess.Popen[bytes]], error: BaseException) -> None:
    # Unless it was given up meanwhile.
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


def _hand_over(popen: subprocess.Popen[bytes], future: Future[subprocess.Popen[bytes]]) -> None:
    try:
        future.set_result(popen)
    except InvalidStateError:
        # It was given up meanwhile, and nobody would ever end it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


_spawner = _Spawner()


def spawn_from_lasting_thread(order: Order, *, limit_s: float = START_LIMIT_S) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when this process dies, whichever thread asks for it.

    Raises:
      OSError, ValueError: as `subprocess.Popen` does.
      TimeoutError: the start did not return in time. A process may have come of it; it is killed when the start does
        return.
    """
    try:
        return _spawner.spawn(order, limit_s)
    except NotInTime as exc:
        # Its thread may be held up for ever; the next start has one of its own.
        _forget_spawner()
        raise TimeoutError(f"the start did not return within {limit_s:g} s") from exc


def _forget_spawner() -> None:
    global _spawner
    _spawner = _Spawner()


#: The gate that a forking thread has closed: by the time it opens it, there may be another spawner.
_closed = threading.local()


def _before_fork() -> None:
    _closed.gate = _spawner.gate
    _closed.gate.close()


def _after_fork() -> None:
    _closed.gate.open()


# A forked child (Celery's pool) has a copy of the object, but not of its thread.
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget_spawner)


def _carry_out(order: Order) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -I and -S: the launcher needs no packages, and must not find ours or a user's.
        [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *order.command],
        cwd=order.cwd,
        env=order.environment,
        stdin=subprocess.DEVNULL,
        stdout=order.log,
        stderr=subprocess.STDOUT,
        # Its own session: Ctrl-C and a SIGTERM to the worker's group reach the worker alone, which then stops it.
        start_new_session=True,
    )
