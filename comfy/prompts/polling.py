"""Asking about a prompt: when to ask again, and for how long to put up with a server that has no answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from comfy.client.client import ComfyClient
from comfy.client.history import History
from comfy.client.timeouts import Pace
from comfy.client.transport import refused, unanswered
from core.errors import ComfyUnavailable, PromptInterrupted

#: Looks for a prompt after an outage, before it counts as absent: the server may read this question before the prompt.
_LOOKS = 3


class PollClock:
    """The time of the next poll, on the monotonic clock. Any thread may bring it forward."""

    def __init__(self, pace: Pace, *, at_once: bool) -> None:
        self._pace = pace
        self._pause_s = pace.poll_first_s
        self._polled_at = 0.0
        self.due_at = 0.0 if at_once else time.monotonic() + pace.heartbeat_s

    def begin(self) -> None:
        """Note the beginning of a poll."""
        self._polled_at = time.monotonic()

    def hurry(self) -> None:
        """Begin with the shortest pause again."""
        self._pause_s = self._pace.poll_first_s

    def nudge(self) -> None:
        """Poll now, but not more often than is decent: the queue of a busy server changes often."""
        self.due_at = self._polled_at + self._pace.poll_least_s

    def plan_recheck(self) -> None:
        """Plan a second look at a surprising answer."""
        self.due_at = time.monotonic() + self._pace.recheck_s

    def plan_heartbeat(self) -> None:
        """Events will tell; polling is only a precaution."""
        self.due_at = time.monotonic() + self._pace.heartbeat_s

    def plan_soon(self) -> None:
        """Polling is all there is: after the current pause, and the next one is longer."""
        self.due_at = time.monotonic() + self._pause_s
        self._pause_s = min(1.5 * self._pause_s, self._pace.poll_last_s)


class RunClock:
    """Since when the run time of a prompt counts, on the monotonic clock.

    Time behind other prompts, whoever posted them, is waiting. Time in which the server runs nothing although the
    prompt is the next is not: its worker thread may be dead.
    """

    def __init__(self) -> None:
        self._started_at = self._vain_since = float("inf")

    @property
    def began_at(self) -> float:
        return min(self._started_at, self._vain_since)

    def start(self) -> None:
        """Count from now: ComfyUI has taken the prompt from its queue, or another limit begins."""
        self._started_at = time.monotonic()
        self._vain_since = float("inf")

    def see_pending(self, *, server_is_idle: bool) -> None:
        """Note that the prompt is the next of ours and has not been taken."""
        self._vain_since = min(self._vain_since, time.monotonic()) if server_is_idle else float("inf")


class Outage:
    """A time in which the server did not answer."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        #: When it began to fail in this way, by the limit for that.
        self._since: dict[float, float] = {}

    @property
    def lasts(self) -> bool:
        return bool(self._since)

    @property
    def answer_s(self) -> float:
        """How long to wait for the next answer."""
        return self._pace.mute_answer_s if self._pace.mute_s in self._since else self._pace.answer_s

    def end(self) -> None:
        """Note that the server has answered."""
        self._since.clear()

    def bear(self, exc: ComfyUnavailable) -> None:
        """Put up with one more missing answer, or raise it; how long depends on how the server fails to answer."""
        now = time.monotonic()
        limit_s = self._limit_s(exc)
        if now - self._since.setdefault(limit_s, now) >= limit_s:
            raise exc

    def _limit_s(self, exc: ComfyUnavailable) -> float:
        if refused(exc):
            return self._pace.refused_s
        return self._pace.mute_s if unanswered(exc) else self._pace.unresponsive_s


def was_taken(client: ComfyClient, prompt_id: str, pace: Pace, lost: ComfyUnavailable) -> bool:
    """Return whether the server has a prompt, of which the answer did not come; waits until it answers again.

    Parameters:
      lost: how the answer did not come.
    Raises:
      ComfyUnavailable: the server does not answer.
    """
    outage = Outage(pace)
    outage.bear(lost)
    looks_left = _LOOKS if unanswered(lost) else 1
    while looks_left:
        try:
            if client.find(prompt_id, read_timeout_s=outage.answer_s) is not None:
                return True
            looks_left -= 1
        except ComfyUnavailable as exc:
            outage.bear(exc)
        if looks_left:
            time.sleep(pace.recheck_s)
    return False


def final_history(
    client: ComfyClient, prompt_id: str, pace: Pace, *, told: History | None, was_cancelled: Callable[[], bool]
) -> History:
    """Ask for the history of a prompt that has ended until it is there; normally the first answer has it.

    Parameters:
      told: what the websocket said of it, which counts where somebody cleared the history.
    Raises:
      PromptInterrupted: there is none, since the prompt was cancelled before it ran.
      ComfyUnavailable: it did not come within `late_history_s`, or the server does not answer any more: the next
        prompt may have begun, and keep it from answering for as long as that takes.
    """
    outage = Outage(pace)
    missing_since = None
    pause_s = 0.005
    while True:
        try:
            history = client.history(prompt_id)
        except ComfyUnavailable as exc:
            outage.bear(exc)
            pause_s = pace.recheck_s
        else:
            outage.end()
            if history is not None:
                return history
            missing_since = missing_since or time.monotonic()
            if told is not None and time.monotonic() - missing_since >= pace.recheck_s:
                return told
        if was_cancelled() and missing_since and told is None:
            raise PromptInterrupted("the prompt was cancelled before it ran")
        if missing_since and time.monotonic() - missing_since >= pace.late_history_s:
            raise ComfyUnavailable("ComfyUI has no history of a prompt it finished")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)
