"""Threads that live as long as their process, and outlive whatever is unforeseen in them.

A thread that others rely on must not end in silence at the first error that nobody thought of: heartbeats, leases or
webhooks would stop for good while everything else looks well. So each of them is a `Loop`. It logs the unforeseen with
its traceback, rests, and goes on; and it can be asked whether it lives. Under gevent, as in the API, these threads are
greenlets.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

from core.errors import ComfylineError

log = logging.getLogger(__name__)

#: Rests after failures in a row: each is twice as long as the one before. The longest is shorter than a silence that
#: would cost an instance its jobs.
FIRST_REST_S = 0.2
LONGEST_REST_S = 10.0
#: What failed after so long had gone well until then: its rests begin anew.
LONG_STEP_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Life:
    """How a loop is."""

    name: str
    #: Its thread runs.
    is_alive: bool
    #: Steps in a row that failed, up to now.
    failures: int = 0
    #: Class of the last of these failures. No more than that: a message may hold what not everybody may read.
    last_error: str | None = None
    #: When the first of them was, in seconds since 1970.
    failing_since_s: float | None = None


class Loop:
    """One thread that does the same step again and again until `end`.

    A step that raises is never the end of it. `ComfylineError`s are logged in one line, all others with their
    traceback, and the next step waits. So a step that consumes a queue takes what it consumes out of it first: one bad
    item is then logged and gone, and neither ends the loop nor comes back for ever.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        *,
        pause_s: float | None = 0.0,
        once: bool = False,
        last: Callable[[], object] = lambda: None,
    ) -> None:
        """Parameters:
        pause_s: seconds before each step, the first one too; `wake` ends the pause. None: only `wake` does. 0: a step
          that does its own waiting, for a queue, a pipe or a socket.
        once: it is over with the first step that does not raise.
        last: what the thread does when it is over.
        """
        self.name = name
        self._step = step
        self._pause_s = pause_s
        self._once = once
        self._last = last
        self._failures = 0
        self._last_error: str | None = None
        self._failing_since_s: float | None = None
        self._sooner_s: float | None = None
        self._thread: threading.Thread | None = None
        self._reset()
        with _registry.lock:
            _registry.all.add(self)

    def start(self) -> None:
        """Begin, unless it runs already. Called at each use, and not in a constructor: no thread survives a fork."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._ending.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            with _registry.lock:
                _registry.started.add(self)
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Do the next step now. A rest after a failure is not cut short."""
        self._woken.set()

    def end(self) -> None:
        """End after the step under way, if any; a step that waits should look at `is_ending`, or be told."""
        self._ending.set()
        self._woken.set()
        self._sign_off()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the thread, unless this is that thread."""
        # Not between its making and its start.
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def come_back(self, seconds: float) -> None:
        """Do the next step after so many seconds, if the usual pause is longer; for the step under way to ask."""
        self._sooner_s = seconds

    def rest(self, seconds: float) -> bool:
        """Wait, within a step; return True as soon as the loop is to end."""
        return self._ending.wait(seconds)

    @property
    def is_ending(self) -> bool:
        return self._ending.is_set()

    @property
    def life(self) -> Life:
        """How it is now."""
        return Life(
            name=self.name,
            is_alive=self._thread is not None and self._thread.is_alive(),
            failures=self._failures,
            last_error=self._last_error,
            failing_since_s=self._failing_since_s,
        )

    def _run(self) -> None:
        rest_s = FIRST_REST_S
        self._pause()
        while not self._ending.is_set():
            begun_s = time.monotonic()
            error = failure_of(self._step, self.name)
            self._note(error)
            if error is None:
                rest_s = FIRST_REST_S
                if self._once:
                    self.end()
                self._pause()
            else:
                if time.monotonic() - begun_s >= LONG_STEP_S:
                    rest_s = FIRST_REST_S
                # And then the step again, woken or not: what it was woken for may not be done.
                self._ending.wait(rest_s)
                rest_s = min(2 * rest_s, LONGEST_REST_S)
        failure_of(self._last, self.name)

    def _pause(self) -> None:
        """Wait until a step is due."""
        if self._pause_s != 0.0:
            pauses_s = [each for each in (self._pause_s, self._sooner_s) if each is not None]
            self._sooner_s = None
            self._woken.wait(min(pauses_s, default=None))
            # Before the step: what is news from here on is for the next one.
            self._woken.clear()

    def _note(self, error: Exception | None) -> None:
        if error is None:
            self._failures, self._last_error, self._failing_since_s = 0, None, None
            return
        if not self._failures:
            self._failing_since_s = time.time()
        self._failures += 1
        self._last_error = type(error).__name__

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._thread = None

    def _sign_off(self) -> None:
        with _registry.lock:
            _registry.started.discard(self)


def failure_of(step: Callable[[], object], name: str, *, passing: tuple[type[Exception], ...] = ()) -> Exception | None:
    """Do something that must not end what goes on around it.

    Parameters:
      passing: errors that the caller wants raised as they are.
    Returns: what it raised, which was logged under this name; None: it went well.
    """
    try:
        step()
    except passing:
        raise
    except ComfylineError as exc:
        log.warning("%s: %s", name, exc)
        return exc
    # The one place where this is right: others rely on what goes on around the step, and what is unforeseen in it is
    # logged whole.
    except Exception as exc:
        log.exception("%s: unforeseen; it goes on", name)
        return exc
    return None


def in_background(name: str, work: Callable[[], object]) -> Loop:
    """Do something once, in a thread of its own; again, after a rest, for as long as it raises."""
    loop = Loop(name, work, once=True)
    loop.start()
    return loop


def lives() -> list[Life]:
    """Return the state of each loop of this process that was started and has not ended."""
    with _registry.lock:
        started = list(_registry.started)
    return sorted((loop.life for loop in started), key=lambda life: life.name)


class _Registry:
    """The loops of one process."""

    def __init__(self, known: WeakSet[Loop]) -> None:
        self.lock = threading.Lock()
        self.all = known
        self.started: WeakSet[Loop] = WeakSet()


_registry = _Registry(WeakSet())


def _after_fork() -> None:
    """A child has the objects, but none of the threads, and locks may be held by threads that it does not have."""
    global _registry
    _registry = _Registry(_registry.all)
    for loop in list(_registry.all):
        loop._reset()


os.register_at_fork(after_in_child=_after_fork)
