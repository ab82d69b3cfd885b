"""Forks from one thread that never ends, because the kernel ties a child's life to the thread that forked it."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from core.background import Loop

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

    def spawn(self, order: Order) -> subprocess.Popen[bytes]:
        self._loop.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((future, order))
        return future.result()

    def _serve_next(self) -> None:
        future, order = self._orders.get()
        try:
            future.set_result(_carry_out(order))
        except (OSError, ValueError) as exc:
            future.set_exception(exc)
        except BaseException as exc:
            # Whoever waits must not wait for ever.
            future.set_exception(exc)
            raise


_spawner = _Spawner()


def spawn_from_lasting_thread(order: Order) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when this process dies, whichever thread asks for it.

    Raises:
      OSError, ValueError: as `subprocess.Popen` does.
    """
    return _spawner.spawn(order)


def _forget_spawner() -> None:
    global _spawner
    _spawner = _Spawner()


# A forked child (Celery's pool) has a copy of the object, but not of its thread.
os.register_at_fork(after_in_child=_forget_spawner)


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
