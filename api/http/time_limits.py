"""Time limits for work that a frozen peer could hold up for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import ParamSpec, TypeVar

import gevent
from gevent import monkey

from api.http.ledger_slots import LedgerSlots
from core.errors import ComfylineError, LedgerUnavailable

#: Longest ledger work of one request: its client has its 503 within 3 s.
LEDGER_S = 2.5
#: Requests of one process that use the ledger at once; its pool has more connections than that. The others wait.
PLACES = 10
#: Longest wait for a place while others are served: the official client gives an answer 30 s in all.
LONGEST_WAIT_S = 20.0

#: Parts that a limit is counted in.
TICKS = 10


@cache
def _slots() -> LedgerSlots:
    """Return the slots of this process.

    Made at their first use: gunicorn's master loads this module too, before its workers let gevent replace the locks
    and what is kept for each thread.
    """
    return LedgerSlots(places=PLACES, silence_s=LEDGER_S, longest_s=LONGEST_WAIT_S)


P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def at_most(seconds: float, error: ComfylineError) -> Iterator[None]:
    """Raise `error` when the block takes longer than this.

    It works in greenlets, which is how the API is served. In plain threads nothing can interrupt a blocked read, and
    the block takes as long as it takes. Time in which this process was too busy to read an answer counts little: of a
    thousand requests that come at once, each would find that those behind it had silenced the ledger.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    # No `Exception`, so that nothing on the way takes it for an error of its own.
    over = gevent.Timeout(None)
    tick = gevent.get_hub().loop.timer(seconds / TICKS, seconds / TICKS)
    # However late the event loop is, it looks at all answers between two ticks.
    tick.start(_Countdown(tick.stop, partial(gevent.getcurrent().throw, over)))
    try:
        yield
    except gevent.Timeout as exc:
        if exc is not over:
            raise
        raise error from exc
    finally:
        tick.stop()
        tick.close()


class _Countdown:
    """Counts the ticks of one limit; at the last one it stops them, and ends what took too long."""

    def __init__(self, stop: Callable[[], None], end: Callable[[], object]) -> None:
        self._stop = stop
        self._end = end
        self._left = TICKS

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            self._stop()
            self._end()


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
def ledger_time_limit(*, more_s: float = 0.0) -> Iterator[None]:
    """Hold a slot at the ledger and bound the work: a stopped database answers nothing, and libpq has no read timeout.

    Waiting for a slot does not count while other requests are answered. A block inside another one does not wait.

    The interruption is no `Exception`, so SQLAlchemy throws the connection away instead of giving it to the next
    request.

    Parameters:
      more_s: beyond what other requests have, for one that brings much.
    """
    with _slots().slot() as left_s, at_most(left_s + more_s, LedgerUnavailable("The ledger does not answer.")):
        yield


def has_ledger_slot() -> bool:
    """Return whether the caller is inside `ledger_time_limit`."""
    return _slots().has_slot()


def bounded(view: Callable[P, R]) -> Callable[P, R]:
    """Decorate a view that only asks the ledger and answers."""

    @wraps(view)
    def within_limit(*args: P.args, **kwargs: P.kwargs) -> R:
        with ledger_time_limit():
            return view(*args, **kwargs)

    return within_limit
