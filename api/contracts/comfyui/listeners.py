"""Who listens over a websocket, and what each has heard of by notices and not acted on."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from api.service.waiting import Hub
from core.messaging.notices import Notice


class Listeners:
    """Who listens at this process, by tenant and client id."""

    def __init__(self, hub: Hub) -> None:
        self._lock = threading.Lock()
        self._ears: dict[tuple[str, str], list[Ear]] = defaultdict(list)
        hub.listen(self.hear)

    def hear(self, notice: Notice) -> None:
        """Take a notice: a new job is told to its client, a job that moved to all, whose queue it may be."""
        if notice.kind == "submitted" and notice.data is not None:
            who = str(notice.data.get("tenant")), str(notice.data.get("client_id"))
            with self._lock:
                ears = list(self._ears.get(who, ()))
            for ear in ears:
                ear.add(notice.job_id)
        elif notice.kind == "status":
            with self._lock:
                everybody = [ear for ears in self._ears.values() for ear in ears]
            now_s = time.monotonic()
            for ear in everybody:
                ear.hear_move(now_s)

    @contextmanager
    def listening(self, tenant: str, client_id: str) -> Iterator[Ear]:
        """Hear of the new jobs of a client for the time of the block."""
        ear, who = Ear(), (tenant, client_id)
        with self._lock:
            self._ears[who].append(ear)
        try:
            yield ear
        finally:
            with self._lock:
                self._ears[who].remove(ear)
                if not self._ears[who]:
                    del self._ears[who]


class Ear:
    """What one connection has heard and not acted on."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.has_moved = False
        #: When that was noted last.
        self.moved_at_s = 0.0
        self._new: list[str] = []

    def note_move(self, at_s: float | None = None) -> None:
        """Note that there may be more or fewer prompts than before.

        Parameters:
          at_s: since then, by the process's clock; None: since now.
        """
        self.has_moved = True
        self.moved_at_s = max(self.moved_at_s, time.monotonic() if at_s is None else at_s)

    def hear_move(self, at_s: float) -> None:
        """Note the same, and wake the connection, unless it is about to look: a busy fleet moves all the time."""
        if not self.has_moved:
            self.event.set()
        self.note_move(at_s)

    def add(self, job_id: str) -> None:
        """Note a new job of the client."""
        self._new.append(job_id)
        self.event.set()

    def take(self) -> list[str]:
        """Return the new jobs, once."""
        new, self._new = self._new, []
        return new
