"""Keeps forks and SQLite apart: a process forks only while it has no SQLite connection open.

SQLite notes in the process's own memory which locks its connections hold. A child forked in the middle of a write
inherits that note without the connection that would strike it out, and every write of the child is refused for as long
as it lives ("database is locked"). Celery forks a GPU worker's pool process anew whenever it died, beside threads that
write. Even an idle connection is one too many: the child believes that it shares the parent's lock on the file.

Source: https://www.sqlite.org/howtocorrupt.html, section 2.6.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from weakref import WeakSet

from sqlalchemy import Engine

log = logging.getLogger(__name__)

#: A transaction takes milliseconds, and two seconds at most if it has to wait for a lock.
TIMEOUT_S = 10.0


class _Gate:
    """Many may use SQLite at once; a fork waits until they are done, and keeps new ones out meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._forking = False
        self._own = threading.local()

    @contextmanager
    def using(self) -> Iterator[None]:
        # Who is inside already must not wait for a fork that waits for him.
        is_inside = getattr(self._own, "depth", 0) > 0
        with self._changed:
            while self._forking and not is_inside:
                self._changed.wait()
            self._users += 1
            self._own.depth = getattr(self._own, "depth", 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._own.depth -= 1
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._forking = True
            if not self._changed.wait_for(lambda: self._users == 0, TIMEOUT_S):
                log.warning("forking while the ledger is in use: the child may find it locked for ever")

    def open(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()


_gate = _Gate()
_engines: WeakSet[Engine] = WeakSet()


def using_sqlite() -> AbstractContextManager[None]:
    """Keep forks off while the block uses SQLite."""
    return _gate.using()


def close_at_fork(engine: Engine) -> None:
    """Have the idle connections of an SQLite engine closed before each fork."""
    _engines.add(engine)


def _before() -> None:
    _gate.close()
    for engine in list(_engines):
        engine.dispose()


def _after_in_parent() -> None:
    _gate.open()


def _after_in_child() -> None:
    # The old one may be held by threads that exist in the parent only.
    global _gate
    _gate = _Gate()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
