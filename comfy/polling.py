"""Asking about a prompt: when to ask again, and for how long to put up with a server that has no answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from comfy.client import ComfyClient
from comfy.history import History
from comfy.pace import Pace
from comfy.transport import refused
from core.errors import ComfyUnavailable, PromptInterrupted


class PollClock:
    """The time of the next poll, on the monotonic clock. Any thread may bring it forward."""

    def __init__(self, pace: Pace, *, at_once: bool) -> None:
        self._pace = pace
        self._pause_s = pace.poll_first_s
        self._polled_at = 0.0
        self.due_at = 0.0 if at_once else time.monotonic() + pace.heartbeat_s

    def begin(self) -> None:
        """A poll begins now."""
        self._polled_at = time.monotonic()

    def hurry(self) -> None:
        """Begin with the shortest pause again."""
        self._pause_s = self._pace.poll_first_s

    def nudge(self) -> None:
        """Poll now, but not more often than is decent: the queue of a busy server changes often."""
        self.due_at = self._polled_at + self._pace.poll_least_s

    def plan_recheck(self) -> None:
        """A second look at what was surprising."""
        self.due_at = time.monotonic() + self._pace.recheck_s

    def plan_heartbeat(self) -> None:
        """Events will tell; polling is only a precaution."""
        self.due_at = time.monotonic() + self._pace.heartbeat_s

    def plan_soon(self) -> None:
        """Polling is all there is: after the current pause, and the next one is longer."""
        self.due_at = time.monotonic() + self._pause_s
        self._pause_s = min(1.5 * self._pause_s, self._pace.poll_last_s)


class Outage:
    """A time in which the server did not answer."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._since: float | None = None

    @property
    def lasts(self) -> bool:
        return self._since is not None

    def end(self) -> None:
        """It has answered."""
        self._since = None

    def bear(self, exc: ComfyUnavailable) -> None:
        """Put up with one more missing answer, or raise it; how long depends on how the server fails to answer."""
        now = time.monotonic()
        self._since = self._since or now
        limit_s = self._pace.refused_s if refused(exc) else self._pace.unresponsive_s
        if now - self._since >= limit_s:
            raise exc


def final_history(
    client: ComfyClient, prompt_id: str, patience_s: float, *, was_cancelled: Callable[[], bool]
) -> History:
    """Ask for the history of a prompt that has ended until it is there; normally the first answer has it.

    Raises:
      PromptInterrupted: there is none, since the prompt was cancelled before it ran.
      ComfyUnavailable: it did not come within `patience_s`.
    """
    give_up_at = time.monotonic() + patience_s
    pause_s = 0.005
    while True:
        history = client.history(prompt_id)
        if history is not None:
            return history
        if was_cancelled():
            raise PromptInterrupted("the prompt was cancelled before it ran")
        if time.monotonic() >= give_up_at:
            raise ComfyUnavailable(f"ComfyUI at {client.base_url} has no history of a prompt it finished")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)
