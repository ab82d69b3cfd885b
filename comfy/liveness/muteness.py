"""Tells an instance that is too busy to answer from one that is dead, so that only the latter is replaced."""

from __future__ import annotations

import time
from dataclasses import dataclass

from comfy.liveness.activity import Vitals
from comfy.liveness.watchdog import Idleness, Limits


@dataclass(frozen=True, kw_only=True)
class MuteLimits:
    """How long an instance may give no answer."""

    #: While its processes do next to nothing, or nobody can tell: it is frozen, or waits for what never comes.
    idle_s: float = 30.0
    #: Though its processes work: one call of a node can hold the interpreter's lock for many minutes.
    busy_s: float = 1800.0


class Muteness:
    """One life of an instance. Used by the supervisor's thread, which calls either method after each probe."""

    def __init__(self, limits: MuteLimits, pid: int | None) -> None:
        """`pid`: ComfyUI's main process; None if it is not ours to look at."""
        self._limits = limits
        self._vitals = None if pid is None else Vitals(pid)
        self.end()

    @property
    def lasts(self) -> bool:
        """Whether the last probe had no answer."""
        return self._since_s is not None

    def end(self) -> None:
        """Note that the instance has answered."""
        self._since_s: float | None = None
        self._idleness = Idleness(Limits(idle_limit_s=self._limits.idle_s))

    def look(self, *, silent_s: float) -> str | None:
        """Note a probe without an answer, by an instance whose port is open.

        Parameters:
          silent_s: how long the probe waited.
        Returns: why it is to be replaced, for people; None while it is to be waited for.
        """
        now_s = time.monotonic()
        self._since_s = self._since_s or now_s - silent_s
        mute_s = now_s - self._since_s
        if mute_s >= self._limits.busy_s:
            return f"has answered nothing for {self._limits.busy_s:g} s"
        work = None if self._vitals is None else self._vitals.work()
        is_idle = self._idleness.look(now_s, work)
        if work is None:
            return f"has answered nothing for {self._limits.idle_s:g} s" if mute_s >= self._limits.idle_s else None
        return f"has answered nothing and done no work for {self._limits.idle_s:g} s" if is_idle else None
