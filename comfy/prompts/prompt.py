"""One prompt on its way through one ComfyUI server, and the wait for its end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from comfy.client.client import ComfyClient, Place
from comfy.client.history import History, is_verdict
from comfy.client.timeouts import Pace
from comfy.client.transport import timed_out
from comfy.liveness.watchdog import Watchdog
from comfy.prompts.account import Account
from comfy.prompts.frames import Event, Preview
from comfy.prompts.mailbox import Mailbox
from comfy.prompts.polling import Outage, PollClock, RunClock, final_history
from comfy.prompts.progress import ProgressTracker, PromptListener
from comfy.prompts.result import PromptResult, result_of
from core.errors import ComfylineError, ComfyUnavailable, PromptInterrupted, PromptStuck, PromptTimeout
from core.records.progress import Progress


class PromptHandle:
    """A queued prompt. One thread waits for it; any thread may interrupt it.

    The end is announced by an `executing` event without a node, which ComfyUI sends after it has written the history;
    the history is what counts. Lost events never come back, so the prompt is also polled: every few seconds while its
    events arrive, faster when they cannot.
    """

    def __init__(
        self,
        prompt_id: str,
        client: ComfyClient,
        *,
        client_id: str | None,
        account: Account,
        tracker: ProgressTracker,
        listener: PromptListener | None,
        pace: Pace,
        on_end: Callable[[PromptHandle], None],
        on_deaf: Callable[[str], None],
        watchdog: Watchdog | None = None,
    ) -> None:
        """`client_id`: the connection its events come through; None if there is none, then it is only polled."""
        self.prompt_id = prompt_id
        #: Set as soon as ComfyUI is known to have taken the prompt from its queue.
        self.started = threading.Event()
        #: When it began and ended by ComfyUI's clock, in milliseconds since 1970, as far as its events told; and by how
        #: much that clock is ahead of ours.
        self.began_at_ms: float | None = None
        self.ended_at_ms: float | None = None
        self.skew_ms = 0.0
        self._client = client
        self._client_id = client_id
        self._account = account
        self._tracker = tracker
        self._listener = listener
        self._pace = pace
        self._on_end = on_end
        self._on_deaf = on_deaf
        self._watchdog = watchdog
        self._mailbox = Mailbox()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._interrupting = False
        #: When ComfyUI was first asked to stop: a server too busy to hear it is as deaf as a node that does not look.
        self._interrupted_at = float("inf")
        #: Nothing of ours stands before it in ComfyUI's queue.
        self._is_next = False
        self._clock = RunClock()
        #: When the prompt started, or the socket brought something about it, whichever was later.
        self._heard_at = time.monotonic()
        self._polls = PollClock(pace, at_once=client_id is None)
        self._outage = Outage(pace)
        self._missed = 0

    # Called by the session and by the thread that reads the socket; none of these may block.

    def receive(self, event: Event) -> None:
        """Take one event of this prompt."""
        self._heard_at = time.monotonic()
        if not self.started.is_set():
            self._mark_started()
        self._note_time(event)
        if event.kind == "executing" and event.data.get("node") is None:
            self._ended.set()
            self._wake.set()
            return
        self._account.apply(event)
        if self._listener is not None:
            self._leave_news(event)
        progress = self._tracker.apply(event)
        if progress is not None and self._listener is not None:
            self._mailbox.put_progress(progress)
            self._wake.set()
        if is_verdict(event.kind, event.data):
            # The end marker follows at once. If it does not, it is lost, and polling finds the end.
            self._plan_poll(quickly=True)

    def _leave_news(self, event: Event) -> None:
        """Leave what an event tells of single nodes to the listener."""
        if event.kind == "execution_cached" and isinstance(nodes := event.data.get("nodes"), list):
            cached = [str(node) for node in nodes]
            self._mailbox.put_node(lambda listener: listener.on_cached(cached))
        elif event.kind == "executed" and (told := self._account.executed(event)) is not None:
            self._mailbox.put_node(lambda listener: listener.on_executed(*told))
        else:
            return
        self._wake.set()

    def _note_time(self, event: Event) -> None:
        stamp = event.data.get("timestamp")
        if not isinstance(stamp, (int, float)):
            return
        if event.kind == "execution_start":
            self.began_at_ms, self.skew_ms = float(stamp), stamp - time.time() * 1000
        elif is_verdict(event.kind, event.data):
            self.ended_at_ms = float(stamp)

    def receive_preview(self, preview: Preview) -> None:
        """Take one binary frame of this prompt."""
        self._heard_at = time.monotonic()
        if self._listener is not None:
            self._mailbox.put_preview(preview)
            self._wake.set()

    def lose_events(self, client_id: str) -> None:
        """That connection is gone: if it was ours, poll from now on."""
        if self._client_id == client_id:
            self._client_id = None
            self._account.miss()
            self.poll_now()

    def poll_now(self) -> None:
        """Something happened in the queue; if no events come for this prompt, that may be its end."""
        if self._client_id is None:
            self._polls.nudge()
            self._wake.set()

    def come_next(self) -> None:
        """Nothing of ours stands before this prompt any more."""
        self._is_next = True

    # Called by the owner.

    @property
    def progress(self) -> Progress:
        """The latest known point of the run."""
        return self._tracker.latest

    @property
    def node_seconds(self) -> dict[str, float]:
        """What each node took that has run to its end; those that the cache served are missing."""
        return self._tracker.seconds

    def interrupt(self) -> None:
        """Ask ComfyUI to stop this prompt, pending or running; `wait` then raises `PromptInterrupted`.

        A prompt that is done first stays done. While it waits, `wait` repeats the request until ComfyUI obeys: one
        that arrives in the moment a prompt starts is forgotten by the server.
        Raises:
          ComfyUnavailable: the request did not get through; `wait` will repeat it.
        """
        self._interrupting = True
        self._plan_poll(quickly=True)
        self._send_interrupt()

    def withdraw(self) -> None:
        """Stop a prompt of which only a part would run, and see it gone, so that nothing of it follows the error."""
        self._listener = None
        # Whatever else goes wrong, the caller has a better error to raise.
        with contextlib.suppress(ComfylineError):
            self.interrupt()
            self.wait(timeout_s=self._pace.interrupt_grace_s)

    def wait(self, *, timeout_s: float | None = None) -> PromptResult:
        """Block until ComfyUI has finished this prompt, and return its results. Calls the listener meanwhile.

        Parameters:
          timeout_s: seconds of run time; the clock starts when the prompt starts, or when it could, and ComfyUI runs
            nothing instead: time behind other prompts, whoever posted them, is none. A prompt over time is interrupted.
        Raises:
          PromptFailed: a node raised; permanent.
          ComfyOutOfMemory: the GPU's memory did not suffice.
          PromptInterrupted: we, or somebody else, interrupted it.
          PromptTimeout: it ran longer than `timeout_s`; `still_runs` says that it did not obey the interrupt.
          PromptStuck: it does not react to an interrupt of ours, or the watchdog sees no sign of life.
          ComfyUnavailable: the process is gone, restarted, or does not know the prompt any more.
        """
        try:
            if not self._wait_until_ended(timeout_s):
                self._give_up(timeout_s or 0.0)
            history = self._final_history()
        except PromptStuck as exc:
            raise PromptStuck(exc.message, *self._where()) from exc
        finally:
            self._on_end(self)
        failure = history.failure()
        if failure is None:
            self._complete()
        self._deliver()
        if failure is not None:
            raise failure
        return result_of(history, account=self._account)

    def _wait_until_ended(self, timeout_s: float | None) -> bool:
        """False if time runs out first."""
        while not self._ended.is_set():
            self._wake.clear()
            self._deliver()
            now = time.monotonic()
            deadline = self._clock.began_at + (float("inf") if timeout_s is None else timeout_s)
            if now >= deadline:
                return False
            if now >= (poll_at := self._polls.due_at):
                self._poll()
            elif not self._ended.is_set():
                self._wake.wait(min(poll_at, deadline) - now)
        return True

    def _deliver(self) -> None:
        if self._listener is not None:
            self._mailbox.deliver(self._listener, has_started=self.started.is_set())

    def _mark_started(self) -> None:
        self._clock.start()
        self._heard_at = time.monotonic()
        self.started.set()
        self._wake.set()

    def _complete(self) -> None:
        """Make the last point of the progress the end, even if its events were lost."""
        self.started.set()
        end = self._tracker.apply(Event(kind="execution_success"))
        if end is not None:
            self._mailbox.put_progress(end)

    def _plan_poll(self, *, quickly: bool = False) -> None:
        """Set the time of the next poll: soon if no event will tell us, else a heartbeat later."""
        if quickly:
            self._polls.hurry()
        if self._missed:
            self._polls.plan_recheck()
        elif quickly or self._client_id is None or self._interrupting or self._outage.lasts:
            self._polls.plan_soon()
        else:
            self._polls.plan_heartbeat()
        self._wake.set()

    def _poll(self) -> None:
        self._polls.begin()
        try:
            answer_s = self._pace.answer_s if self._interrupting else self._outage.answer_s
            place = self._client.find(self.prompt_id, read_timeout_s=answer_s)
            if place in ("pending", "running") and self._interrupting:
                self._send_interrupt()
            self._watch(place)
        except ComfyUnavailable as exc:
            if self._watchdog is not None:
                self._watchdog.see_nothing()
            self._outage.bear(exc)
            if timed_out(exc):
                self._watch_deafness()
        else:
            self._outage.end()
            self._take_place(place)
        self._plan_poll()

    def _take_place(self, place: Place | None) -> None:
        if place is None:
            self._miss()
            return
        self._missed = 0
        if place == "finished":
            self._expect(self._ended)
            self._ended.set()
        elif place == "running" and not self.started.is_set():
            self._expect(self.started)
            self._mark_started()

    def _send_interrupt(self) -> None:
        self._interrupted_at = min(self._interrupted_at, time.monotonic())
        self._client.interrupt(self.prompt_id, read_timeout_s=self._pace.answer_s)

    def _watch(self, place: Place | None) -> None:
        """Raise PromptStuck if the prompt will not end by itself."""
        now = time.monotonic()
        if place == "running":
            self._watch_deafness()
            if self._watchdog is not None and self.started.is_set():
                self._watchdog.see_running(quiet_s=now - self._heard_at, has_events=self._client_id is not None)
        elif place == "pending" and self._is_next:
            is_idle = self._client.waits_in_vain(self.prompt_id, read_timeout_s=self._pace.answer_s)
            self._clock.see_pending(server_is_idle=is_idle)
            if self._watchdog is not None:
                self._watchdog.see_pending(server_is_idle=is_idle)

    def _watch_deafness(self) -> None:
        waited_s = time.monotonic() - self._interrupted_at
        if waited_s >= self._pace.interrupt_grace_s and not self._ended.is_set():
            raise PromptStuck("the prompt does not react to an interrupt")

    def _expect(self, event: threading.Event) -> None:
        """The poll knows what the socket should have told us; if it does not follow at once, the socket is deaf."""
        client_id = self._client_id
        if client_id is not None and not event.wait(self._pace.recheck_s):
            self._on_deaf(client_id)

    def _miss(self) -> None:
        """Neither queued nor in the history. One look may fall between two states of a busy server; two do not."""
        self._missed += 1
        if self._missed < 2 or self._ended.is_set():
            return
        if self._account.history() is not None:
            # It has ended, and somebody cleared the history.
            self._ended.set()
            return
        if self._interrupting or (self._client_id is not None and not self.started.is_set()):
            # A pending prompt that is removed from the queue leaves no trace; the server itself is still there.
            raise PromptInterrupted("the prompt was removed from ComfyUI's queue before it ran")
        if self._client_id is not None and self._missed * self._pace.recheck_s < self._pace.late_history_s:
            return  # How it ended is still on its way.
        raise ComfyUnavailable("ComfyUI lost the prompt: it restarted, or was emptied")

    def _give_up(self, timeout_s: float) -> None:
        """Interrupt a prompt that ran too long. Returns only if it ended by itself in the same moment."""
        # A server that does not answer now may hear it within the time that the prompt gets to notice.
        with contextlib.suppress(ComfyUnavailable):
            self.interrupt()
        # The clock is set anew, for the time the prompt gets to notice.
        self._clock.start()
        try:
            ended = self._wait_until_ended(self._pace.interrupt_grace_s)
            if ended and not isinstance(self._final_history().failure(), PromptInterrupted):
                return
        except PromptInterrupted:
            ended = True
        except PromptStuck:
            ended = False
        except ComfyUnavailable as exc:
            message = f"the prompt ran longer than {timeout_s:g} s and ComfyUI does not answer"
            raise PromptTimeout(message, False, *self._where()) from exc
        state = "was interrupted" if ended else "does not react to an interrupt"
        raise PromptTimeout(f"the prompt ran longer than {timeout_s:g} s and {state}", not ended, *self._where())

    def _where(self) -> tuple[str | None, str | None]:
        """Id and class of the node that runs, as far as events told."""
        latest = self._tracker.latest
        return latest.current_node, latest.current_node_class

    def _final_history(self) -> History:
        return final_history(
            self._client,
            self.prompt_id,
            self._pace,
            told=self._account.history(),
            was_cancelled=lambda: self._interrupting,
        )
