"""Time limits for work that a frozen peer could hold up for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import gevent
from gevent import monkey

from core.errors import FleetError, LedgerUnavailable

#: Longest ledger work of one request: its client has its 503 within 3 s.
LEDGER_S = 2.5

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def at_most(seconds: float, error: FleetError) -> Iterator[None]:
    """Raise `error` when the block takes longer than this.

    It works in greenlets, which is how the API is served. In plain threads nothing can interrupt a blocked read, and
    the block takes as long as it takes.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    timeout = gevent.Timeout(seconds)
    timeout.start()
    try:
        yield
    except gevent.Timeout as exc:
        if exc is not timeout:
            raise
        raise error from exc
    finally:
        timeout.close()


@contextmanager
def interrupt_after(seconds: float, error: Exception) -> Iterator[None]:
    """Raise `error` where the block stands after this time, for the code inside to handle; once. Greenlets only."""
    if not monkey.is_module_patched("socket"):
        yield
        return
    timeout = gevent.Timeout(seconds, error)
    timeout.start()
    try:
        yield
    finally:
        timeout.close()


@contextmanager
def ledger_patience() -> Iterator[None]:
    """Bound ledger work: a database that was stopped answers nothing, and libpq has no read timeout.

    The interruption is no `Exception`, so SQLAlchemy throws the connection away instead of giving it to the next
    request.
    """
    with at_most(LEDGER_S, LedgerUnavailable("The ledger does not answer.")):
        yield


def bounded(view: Callable[P, R]) -> Callable[P, R]:
    """Decorate a view that only asks the ledger and answers."""

    @wraps(view)
    def within_patience(*args: P.args, **kwargs: P.kwargs) -> R:
        with ledger_patience():
            return view(*args, **kwargs)

    return within_patience
