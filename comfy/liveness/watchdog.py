"""Tells a prompt that is slow from one that is stuck, so that its instance is replaced only in the latter case."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from comfy.liveness.activity import Vitals, Work
from core.errors import PromptStuck

#: Looks at an idle server with a prompt pending, at the least: the first ones after a server stood still may overtake
#: its worker thread.
_LEAST_LOOKS = 3
#: Time between two looks counts as watched up to this. More of it passed while we could not look, or while the whole
#: machine stood still, and a family that stood still with us is not dead.
_LONGEST_STEP_S = 10.0
#: /proc is read so often within one window, and at least every so many seconds.
_READINGS, _LONGEST_PAUSE_S = 32, 3.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as stuck."""

    #: The prompt runs, nothing was heard of it, and the processes were idle for so many seconds.
    idle_limit_s: float = 120.0
    #: The prompt runs, and nothing was heard of it for so many seconds.
    silence_limit_s: float = 1800.0
    #: The prompt is the next one, and the server ran nothing for so many seconds. ComfyUI's worker thread takes up a
    #: prompt at once; only a clean-up after the one before can keep it for some seconds.
    dead_worker_s: float = 10.0
    #: A family below both is idle: event loops, health checks and our polls cost a little.
    idle_cpu_share: float = 0.02
    idle_io_bytes_per_s: float = 1024.0**2


class Judge:
    """The rules, without clocks and processes. Times are seconds on one clock, in rising order."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pending = _Pending(limits.dead_worker_s)
        self._idleness = Idleness(limits)

    def pending(self, now_s: float, *, server_is_idle: bool) -> str | None:
        """Look at a prompt that could run; return why it is stuck, or None."""
        if not self._pending.look(now_s, server_is_idle=server_is_idle):
            return None
        return f"the prompt is the next, and ComfyUI has run nothing for {self._limits.dead_worker_s:g} s"

    def silent(self, *, quiet_s: float, has_events: bool) -> str | None:
        """Look at a prompt that runs; return why it is stuck, or None.

        Parameters:
          quiet_s: how long nothing was heard of it.
          has_events: whether a message would reach us; if not, silence proves nothing.
        """
        if has_events and quiet_s >= self._limits.silence_limit_s:
            return f"nothing was heard of the running prompt for {self._limits.silence_limit_s:g} s"
        return None

    def lifeless(self, now_s: float, work: Work | None, *, quiet_s: float) -> str | None:
        """Look at the processes of a running prompt; return why it is stuck, or None.

        Parameters:
          work: all that the family has done up to now; None if that is not known.
        """
        if self._idleness.look(now_s, work) and quiet_s >= self._limits.idle_limit_s:
            return f"the prompt runs, but ComfyUI has done no work for {self._limits.idle_limit_s:g} s"
        return None

    def missed(self) -> None:
        """Note that the server did not answer: what it did meanwhile is not known."""
        self._pending.forget()


class Idleness:
    """Whether a family did nearly nothing over the last `idle_limit_s`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Watched seconds up to now, and the time of the last look.
        self._watched_s, self._looked_s = 0.0, float("inf")
        #: `(watched seconds, work up to then)`: the newest that is older than the window, and all within it.
        self._readings: deque[tuple[float, Work]] = deque()

    def look(self, now_s: float, work: Work | None) -> bool:
        """Take a reading; whether the window is full and the family was idle in it."""
        self._watched_s += min(max(now_s - self._looked_s, 0.0), _LONGEST_STEP_S)
        self._looked_s = now_s
        if work is None:
            self._readings.clear()
            return False
        window_s = self._limits.idle_limit_s
        self._readings.append((self._watched_s, work))
        while len(self._readings) > 1 and self._watched_s - self._readings[1][0] >= window_s:
            self._readings.popleft()
        since_s, before = self._readings[0]
        return self._watched_s - since_s >= window_s and self._is_idle(before, work, self._watched_s - since_s)

    def _is_idle(self, before: Work, now: Work, seconds: float) -> bool:
        cpu_s, io_bytes = now.cpu_s - before.cpu_s, now.io_bytes - before.io_bytes
        if cpu_s < 0 or io_bytes < 0:
            # A member has ended and taken its account along. A family in which something ends is not dead.
            return False
        limits = self._limits
        return cpu_s < limits.idle_cpu_share * seconds and io_bytes < limits.idle_io_bytes_per_s * seconds


class _Pending:
    """For how long a prompt that could run has been seen waiting at a server that runs nothing."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.forget()

    def forget(self) -> None:
        self._since_s, self._looks = float("inf"), 0

    def look(self, now_s: float, *, server_is_idle: bool) -> bool:
        if not server_is_idle:
            self.forget()
            return False
        self._since_s = min(self._since_s, now_s)
        self._looks += 1
        return self._looks >= _LEAST_LOOKS and now_s - self._since_s >= self._limit_s


class Watchdog:
    """Watches one prompt; make a new one for each. Used by the thread that waits for it."""

    def __init__(self, limits: Limits, pid: int | None) -> None:
        """`pid`: ComfyUI's main process; None if it is not on this machine: then only messages tell."""
        self._judge = Judge(limits)
        self._vitals = None if pid is None else Vitals(pid)
        self._pause_s = min(limits.idle_limit_s / _READINGS, _LONGEST_PAUSE_S)
        self._read_at_s = 0.0

    def see_pending(self, *, server_is_idle: bool) -> None:
        """Note that the prompt is pending though none of our prompts stands before it.

        Raises:
          PromptStuck: the server will never run it.
        """
        _bark(self._judge.pending(time.monotonic(), server_is_idle=server_is_idle))

    def see_running(self, *, quiet_s: float, has_events: bool) -> None:
        """Note that the prompt runs; the parameters are those of `Judge.silent`.

        Raises:
          PromptStuck: it shows no sign of life.
        """
        _bark(self._judge.silent(quiet_s=quiet_s, has_events=has_events))
        now_s = time.monotonic()
        # Reading the whole of /proc is not free, and while messages come there is nothing to find out.
        if self._vitals is not None and min(quiet_s, now_s - self._read_at_s) >= self._pause_s:
            self._read_at_s = now_s
            _bark(self._judge.lifeless(now_s, self._vitals.work(), quiet_s=quiet_s))

    def see_nothing(self) -> None:
        """Note that the server did not answer."""
        self._judge.missed()


def _bark(why: str | None) -> None:
    if why is not None:
        raise PromptStuck(why)
