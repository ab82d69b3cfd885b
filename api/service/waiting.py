"""Waiting for jobs: many waiters in one process, one listener, one slow poll as a backstop.

A waiter costs no thread and no connection. Notices (from the broker, or from this process's own writes) wake it; a
notice that got lost is made good by one query every two seconds for all jobs that are waited for together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from api.http.time_limits import ledger_time_limit
from api.service.batched_lookup import CHUNK, Batched
from core.background import Loop
from core.errors import LedgerUnavailable, NotFound
from core.messaging.notices import Notice
from core.records.job import TERMINAL, Job, Status
from core.records.progress import Progress

log = logging.getLogger(__name__)

#: Pause between two backstop polls.
POLL_S = 2.0
#: Waiters are told at most this often that the queue has moved.
MOVES_S = 1.0
#: What may be heard of single nodes and not be taken; a waiter that is slower than that misses some.
MAX_NODES = 200
#: How often a waiter looks whether its client is still there.
CLIENT_CHECK_S = 1.0
#: Kinds of notices that tell of a job that runs.
_LIVE = ("progress", "preview", "log", "cached", "executed")


class Watch:
    """One waiter's view of a job. Holds hints only; the ledger has the facts."""

    def __init__(self, job_id: str, *, live: bool, only_end: bool, event: threading.Event | None = None) -> None:
        self.job_id = job_id
        #: The job was heard to have ended.
        self.has_ended = False
        #: Newest event number heard of.
        self.seq = 0
        #: The job has been removed from the ledger.
        self.is_gone = False
        #: Its place in the queue is wanted: it wakes when the queue has moved.
        self.is_in_line = False
        self._live = live
        self._only_end = only_end
        self._event = event or threading.Event()
        self._progress: Progress | None = None
        self._preview: dict[str, Any] | None = None
        self._nodes: deque[Notice] = deque(maxlen=MAX_NODES)
        #: Number of the newest piece of what was printed that was heard of, and not taken.
        self._printed: int | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait for news; False when there was none in time."""
        woken = self._event.wait(timeout_s)
        # Cleared before the caller reads: what arrives from here on wakes the next wait.
        self._event.clear()
        return woken

    def take_progress(self) -> Progress | None:
        """Return the newest progress snapshot, once."""
        progress, self._progress = self._progress, None
        return progress

    def take_preview(self) -> dict[str, Any] | None:
        """Return the newest preview, once."""
        preview, self._preview = self._preview, None
        return preview

    def take_nodes(self) -> list[Notice]:
        """Return the notices of what single nodes have made, or need not make, each once, the oldest first."""
        nodes = list(self._nodes)
        self._nodes.clear()
        return nodes

    def take_printed(self) -> int | None:
        """Return the number of the newest piece of what ComfyUI printed, once."""
        number, self._printed = self._printed, None
        return number

    def tell(self, notice: Notice) -> None:
        """Take a hint and wake the waiter if it is worth it."""
        if notice.seq > self.seq:
            self.seq = notice.seq
            self.has_ended = self.has_ended or notice.status in TERMINAL
            if self.has_ended or not self._only_end:
                self._event.set()
        if self._live and notice.data is not None and notice.kind in _LIVE:
            if notice.kind == "progress":
                self._progress = Progress.from_json(notice.data)
            elif notice.kind == "log":
                self._printed = int(notice.data["number"])
            elif notice.kind in ("cached", "executed"):
                self._nodes.append(notice)
            else:
                self._preview = notice.data
            self._event.set()

    def tell_moved(self) -> None:
        """Note that the queue has moved; the job may have another place."""
        self._event.set()

    def tell_gone(self) -> None:
        """Note that the job is in the ledger no more."""
        self.is_gone = True
        self._event.set()


class Hub:
    """Wakes those who wait for jobs in one process.

    Parameters:
      states: newest status and event number of jobs, as `ledger.jobs.states`.
      many: jobs by their ids, as `ledger.jobs.many`.
      poll_s: pause of the backstop poll, in seconds.
    """

    def __init__(
        self,
        states: Callable[[Collection[str]], dict[str, tuple[Status, int]]],
        many: Callable[[Collection[str]], Mapping[str, Job]],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._states = states
        self._jobs = Batched(many)
        self._lock = threading.Lock()
        self._watches: dict[str, set[Watch]] = {}
        self._poll_s = poll_s
        self._polled_at_s = time.monotonic()
        self._loop = Loop("backstop", self._look, pause_s=min(poll_s, MOVES_S))
        self._has_moved = False
        self._before_moves: Callable[[], bool] = lambda: True
        self._listeners: list[Callable[[Notice], None]] = []

    def before_moves(self, look: Callable[[], bool]) -> None:
        """Set what is called before waiters hear that the queue has moved.

        Parameters:
          look: returns False when they are to hear of it later; may raise LedgerUnavailable.
        """
        self._before_moves = look

    def listen(self, hear: Callable[[Notice], None]) -> None:
        """Have every notice of the fleet told to a function that is quick and does not raise."""
        self._listeners.append(hear)

    def look(self, job_id: str) -> Job:
        """Return the job as it is now; one look at the ledger serves all who ask at about this moment.

        Raises: NotFound, LedgerUnavailable.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id}.")
        return job

    def notify(self, notice: Notice) -> None:
        """Pass a notice to those who wait for its job; a new status of it moves the queue for the others."""
        self._has_moved = self._has_moved or notice.kind == "status"
        self._pass_on(notice)
        for hear in self._listeners:
            hear(notice)

    def _pass_on(self, notice: Notice) -> None:
        with self._lock:
            watches = list(self._watches.get(notice.job_id, ()))
        for watch in watches:
            watch.tell(notice)

    @contextmanager
    def watch(
        self, job_id: str, *, live: bool = False, only_end: bool = False, event: threading.Event | None = None
    ) -> Iterator[Watch]:
        """Wait in line for a job's news. Read the ledger inside the block: what happens from then on wakes.

        Parameters:
          live: progress and previews wake as well.
          only_end: nothing but the end of the job wakes.
          event: what is set then, for a client that waits for several jobs at once; None: one of the watch's own.
        """
        watch = Watch(job_id, live=live, only_end=only_end, event=event)
        with self._lock:
            self._watches.setdefault(job_id, set()).add(watch)
        self._loop.start()
        try:
            yield watch
        finally:
            with self._lock:
                others = self._watches[job_id]
                others.discard(watch)
                if not others:
                    del self._watches[job_id]

    def until_done(self, read: Callable[[], Job], job: Job, *, is_abandoned: Callable[[], bool]) -> Job | None:
        """Wait for the end of a job.

        Parameters:
          read: the job as it is now, such as `look`; a ledger that is away for a while is waited for.
          is_abandoned: asked about every second; True ends the waiting.
        Returns: the ended job, or None when nobody wants it any more.
        Raises: NotFound - the job was removed.
        """
        with self.watch(job.id, only_end=True) as watch:
            job = _again(read, job)
            while not job.is_terminal:
                watch.wait(CLIENT_CHECK_S)
                if watch.has_ended or watch.is_gone:
                    job = _again(read, job)
                elif is_abandoned():
                    return None
        return job

    @property
    def waiting(self) -> int:
        """How many jobs are waited for."""
        return len(self._watches)

    @property
    def clients(self) -> int:
        """How many clients wait."""
        with self._lock:
            return sum(map(len, self._watches.values()))

    def close(self) -> None:
        """End the backstop poll."""
        self._loop.end()
        self._loop.join(5.0)

    def _look(self) -> None:
        try:
            self._tell_moves()
            if time.monotonic() - self._polled_at_s >= self._poll_s:
                self._polled_at_s = time.monotonic()
                self._poll_all()
        except LedgerUnavailable:
            log.debug("the backstop poll will try again: the ledger is away", exc_info=True)

    def _tell_moves(self) -> None:
        if not self._has_moved:
            return
        with self._lock:
            in_line = [watch for watches in self._watches.values() for watch in watches if watch.is_in_line]
        # Before the look: what moves while we look is for the next time.
        self._has_moved = False
        if not in_line:
            return
        try:
            with ledger_time_limit():
                has_looked = self._before_moves()
        except LedgerUnavailable:
            self._has_moved = True
            raise
        if not has_looked:
            self._has_moved = True
            return
        for watch in in_line:
            watch.tell_moved()

    def _poll_all(self) -> None:
        with self._lock:
            ids = list(self._watches)
        for start in range(0, len(ids), CHUNK):
            self._poll_chunk(ids[start : start + CHUNK])

    def _poll_chunk(self, ids: list[str]) -> None:
        with ledger_time_limit():
            states = self._states(ids)
        for job_id in ids:
            found = states.get(job_id)
            if found is not None:
                status, seq = found
                self._pass_on(Notice(job_id=job_id, kind="status", seq=seq, status=status))
                continue
            with self._lock:
                watches = list(self._watches.get(job_id, ()))
            for watch in watches:
                watch.tell_gone()


def _again(read: Callable[[], Job], job: Job) -> Job:
    try:
        return read()
    except LedgerUnavailable:
        return job
