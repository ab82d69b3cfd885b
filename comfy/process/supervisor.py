"""Keep one instance alive from one daemon thread: start, probe, replace; pause between starts, and rest after too many.

A life of the instance ends in one of three ways: it fails, the operator wishes a restart, or supervision stops. Only
failures are counted, and only they are followed by a pause or a quarantine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from comfy.client.transport import timed_out
from comfy.liveness.muteness import MuteLimits, Muteness
from comfy.process.instance import Instance
from comfy.process.start_failures import Failures
from core.background import FIRST_REST_S, LONGEST_REST_S, Loop, failure_of
from core.errors import ComfylineError, ComfyUnavailable

log = logging.getLogger(__name__)

State = Literal["starting", "healthy", "restarting", "quarantined", "stopped"]

#: An instance to be replaced gets this long to end by itself; ComfyUI ends at once on SIGTERM unless it hangs.
REPLACE_GRACE_S = 1.0
#: A missed probe is repeated after this long: what was silent for a whole probe timeout needs no further patience.
SECOND_LOOK_S = 0.2


class InstanceUnfit(ComfyUnavailable):
    """The instance answers, but must not take jobs, for instance because its warm-up failed: its start has failed."""


def _say_nothing(*_news: object) -> None:
    """Stand in for a callback that was not given."""


class Supervisor:
    """Runs one instance until `stop`. All methods may be called from any thread.

    Callbacks run in the supervisor's thread: until they return nothing is probed, and `stop` waits for them.
      on_up(): the instance answers; its `base_url` is new. If it raises `InstanceUnfit`, the start has failed. If it
        raises another `ComfylineError`, it is called again at each probe until it returns.
      on_wait(reason): an attached instance does not answer yet; called once for each reason. A `ComfylineError` is only
        logged.
      on_mute(is_mute): a healthy instance begins to leave probes unanswered, or answers again. Must not raise.
      on_down(reason): the instance was lost, is to be replaced or restarted, or an attempt to start it failed, so it
        may come several times in a row. Called before what is left of the process is killed, and not because of
        `stop`. A `ComfylineError` is only logged.
      on_quarantine(reason, until_s): it failed too often, the last time for that reason, and is not started again
        before `until_s` (wall clock, seconds since 1970). Called after on_down. If it raises a `ComfylineError`, it is
        called again until it returns. The end of a quarantine shows as on_up or on_down.
    Any other exception of a callback is logged with its traceback and then treated as a `ComfylineError`, except that
    on_up and on_quarantine are called again after growing pauses.

    An attached instance is never started or ended; it only counts as down, for as long as another would be. That it
    does not answer is one failure, however long it lasts.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        on_wait: Callable[[str], None] = _say_nothing,
        on_mute: Callable[[bool], None] = _say_nothing,
        on_quarantine: Callable[[str, float], None] = _say_nothing,
        probe_interval_s: float = 1.0,
        misses: int = 2,
        mute_limits: MuteLimits | None = None,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        healthy_after_s: float = 60.0,
        quarantine_after: int = 5,
        quarantine_s: float = 600.0,
        quarantine_window_s: float = 600.0,
    ) -> None:
        """Parameters:
        misses: probes in a row without an answer after which a process that still runs is replaced; if it took the
          connections and was merely silent, no sooner than `mute_limits` says.
        first_pause_s, longest_pause_s: the pause before a restart, doubled after each until the longest.
        healthy_after_s: an instance that lived this long starts again from the first pause.
        quarantine_after, quarantine_window_s: so many failures within so many seconds end in a quarantine.
        quarantine_s: how long that lasts.
        """
        self._instance = instance
        self._on_up, self._on_down, self._on_quarantine = on_up, on_down, on_quarantine
        self._on_wait, self._on_mute = on_wait, on_mute
        self._probe_interval_s, self._misses = probe_interval_s, misses
        self._mute_limits = mute_limits or MuteLimits()
        self._healthy_after_s, self._quarantine_s = healthy_after_s, quarantine_s
        self._failures = Failures(
            first_pause_s=first_pause_s,
            longest_pause_s=longest_pause_s,
            limit=quarantine_after,
            window_s=quarantine_window_s,
        )
        #: Guards `state` and `_useless` together, so that a call meant for one life never ends the next.
        self._lock = threading.Lock()
        #: Why the healthy instance is to be replaced.
        self._useless: str | None = None
        #: What goes on now, be it a start, a life, a pause or a quarantine, ends at once; nothing of it is a failure.
        self._called_off = threading.Event()
        self._wake = threading.Event()
        self._loop = Loop(f"supervise-{instance.spec.name}", self._go_through_a_life, last=self._finish)
        self.state: State = "starting"
        #: What keeps it from being of use, as it was said last.
        self._waits_for = ""
        #: Attempts to start the instance after the first.
        self.restarts = 0
        #: Why the instance was lost or did not start the last time.
        self.last_error: str | None = None

    def start(self) -> None:
        """Begin, in a thread of its own; a supervisor can be started once."""
        self._loop.start()

    def stop(self) -> None:
        """End the instance and the supervision of it; returns when both are over. May be called more than once."""
        self._loop.end()
        self._call_off()
        self._loop.join()
        self._enter("stopped")

    def replace(self, reason: str) -> None:
        """End the running instance, which is of no use though it answers, and start it again. Counts as a failure.

        Returns at once. Does nothing unless the instance is healthy. An attached one rests for a pause instead.
        """
        with self._lock:
            if self.state == "healthy":
                self._useless = reason
                self._wake.set()

    def restart(self) -> None:
        """By an operator's wish: end it and start it again, at once, whatever it does. No failure; ends a quarantine.

        Returns at once.
        """
        self._call_off()

    def release(self) -> None:
        """End a quarantine now; does nothing if there is none."""
        with self._lock:
            if self.state == "quarantined":
                self._call_off()

    def _call_off(self) -> None:
        self._called_off.set()
        self._wake.set()

    def _enter(self, state: State) -> None:
        with self._lock:
            self.state, self._useless = state, None

    def _go_through_a_life(self) -> None:
        failure = self._live()
        if self._loop.is_ending:
            return
        self._go_down(failure)
        if failure is not None:
            self._rest(failure)
        # Whatever was called off has ended. Cleared before the next look at the loop's end, since `stop` sets the two
        # the other way round.
        self._called_off.clear()
        if not self._loop.is_ending:
            self.restarts += 1

    def _finish(self) -> None:
        self._enter("stopped")
        self._end_instance(grace_s=5.0)

    def _live(self) -> str | None:
        """One life of the instance, from start to end; returns why it failed, None if it was called off."""
        failures: list[str | None] = []
        name = self._instance.spec.name
        self._waits_for = ""
        try:
            error = failure_of(lambda: failures.append(self._live_well()), name, passing=(ComfylineError,))
        except ComfylineError as exc:
            return None if self._called_off.is_set() else str(exc)
        if error is not None:
            # A fault of ours, in the log by now. What it leaves behind is in no state to be relied on.
            return f"{name} could not be supervised ({type(error).__name__})."
        return failures[0]

    def _live_well(self) -> str | None:
        self._instance.start()
        self._instance.wait_ready(cancel=self._called_off, on_wait=self._say_waiting)
        self._enter("healthy")
        log.info("%s: answers at %s", self._instance.spec.name, self._instance.base_url)
        healthy_since_s = time.monotonic()
        failure = self._watch()
        if time.monotonic() - healthy_since_s >= self._healthy_after_s:
            self._failures.shorten_pauses()
        return failure

    def _watch(self) -> str | None:
        """Follow a healthy instance to its end.

        Raises:
          InstanceUnfit: it was not that healthy.
        """
        misses = 0
        up = _News(self._on_up, f"{self._instance.spec.name}: is up, but saying so failed", passing=(InstanceUnfit,))
        mute = Muteness(self._mute_limits, self._instance.pid)
        while not self._called_off.is_set():
            up.tell()
            self._wake.wait(min(SECOND_LOOK_S, self._probe_interval_s) if misses == 1 else self._probe_interval_s)
            self._wake.clear()
            if self._called_off.is_set():
                break
            if self._useless is not None:
                return self._useless
            failure = self._probe(mute)
            misses = 0 if failure is None else misses + 1
            if not self._instance.is_alive:
                return f"{self._instance.spec.name} {self._instance.how_it_ended()}."
            if failure and misses >= self._misses:
                return f"{self._instance.spec.name} {failure}."
        return None

    def _probe(self, mute: Muteness) -> str | None:
        """One look at a healthy instance: None if it answers, empty while it may be mute, else why it has failed."""
        began_s = time.monotonic()
        problem = self._instance.problem()
        if problem is None:
            if mute.lasts:
                mute.end()
                self._on_mute(False)
            return None
        if not timed_out(problem):
            return "no longer answers"
        if not mute.lasts:
            log.warning("%s: does not answer; replaced if it does no work either", self._instance.spec.name)
            self._on_mute(True)
        return mute.look(silent_s=time.monotonic() - began_s) or ""

    def _say_waiting(self, reason: str) -> None:
        if self._waits_for != reason:
            self._waits_for = reason
            log.warning("waiting for %s", reason)
            name = self._instance.spec.name
            failure_of(lambda: self._on_wait(reason), f"{name}: is away, but saying so failed")

    def _go_down(self, failure: str | None) -> None:
        self._enter("restarting")
        name = self._instance.spec.name
        if failure is not None:
            self.last_error = failure
            log.warning("%s: down: %s", name, failure)
        reason = f"{name} is restarted on request." if failure is None else failure
        failure_of(lambda: self._on_down(reason), f"{name}: is down, but saying so failed")
        self._end_instance(REPLACE_GRACE_S)

    def _rest(self, failure: str) -> None:
        """Let time pass before the next start; how much depends on how often it failed."""
        self._failures.add()
        if not self._failures.are_too_many():
            self._called_off.wait(self._failures.next_pause_s())
            return
        self._enter("quarantined")
        self._sit_out(failure)
        self._failures.forget()
        self._enter("restarting")

    def _sit_out(self, failure: str) -> None:
        until_s, end_s = time.time() + self._quarantine_s, time.monotonic() + self._quarantine_s
        log.error("%s: in quarantine for %g s: %s", self._instance.spec.name, self._quarantine_s, failure)
        name = f"{self._instance.spec.name}: is in quarantine, but saying so failed"
        quarantined = _News(lambda: self._on_quarantine(failure, until_s), name)
        while not self._called_off.is_set() and (left_s := end_s - time.monotonic()) > 0:
            quarantined.tell()
            self._called_off.wait(left_s if quarantined.is_told else min(left_s, self._probe_interval_s))

    def _end_instance(self, grace_s: float) -> None:
        error = failure_of(lambda: self._instance.stop(grace_s), self._instance.spec.name)
        if error is not None:
            # The next start tries again, and fails with this same reason while the process is still there.
            self.last_error = str(error)


class _News:
    """Something to be told to the owner, until it is."""

    def __init__(self, say: Callable[[], None], name: str, *, passing: tuple[type[Exception], ...] = ()) -> None:
        self._say = say
        self._name = name
        self._passing = passing
        self._pause_s = FIRST_REST_S
        self._next_try_s = 0.0
        self._said = ""
        self.is_told = False

    def tell(self) -> None:
        """Try once, if it is time: what is foreseen each time, and logged once; what is not, ever more rarely."""
        if self.is_told or time.monotonic() < self._next_try_s:
            return
        try:
            error = failure_of(self._say, self._name, passing=(ComfylineError,))
        except self._passing:
            raise
        except ComfylineError as exc:
            if self._said != str(exc):
                self._said = str(exc)
                log.warning("%s: %s", self._name, exc)
            return
        self.is_told = error is None
        if error is not None:
            self._next_try_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_REST_S)
