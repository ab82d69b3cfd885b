"""News of all jobs, for pages that show many: one look at the ledger a moment for all who read.

A notice says which job has news, and not whose it is. So those of half a second are looked up together, and told to the
readers who may see them. What came too fast for that is told as such: a reader then reads its page again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from api.http.time_limits import ledger_time_limit
from api.service.batched_lookup import CHUNK
from api.service.waiting import Hub
from core.background import Loop
from core.clock import now_ms
from core.errors import LedgerUnavailable
from core.messaging.notices import Notice
from core.records.access import ALL_TENANTS
from core.records.job import Job

log = logging.getLogger(__name__)

PAUSE_S = 0.5
#: New jobs of other processes are told by no notice, and any notice may be lost: a look at the newest finds them.
NEWEST_S = 2.0
NEWEST = 100
#: A look goes back this much further than to the one before: what was recorded then may have become visible since.
OVERLAP_MS = 5_000
#: Jobs with news that are looked up at once; more than these are too many to be told one by one.
MAX_NEWS = CHUNK
#: Whose a job is, of the last so many, so that its progress needs no look.
MAX_KNOWN = 10_000


class NewestJobs(Protocol):
    """As `ledger.jobs.page`."""

    def __call__(self, *, from_ms: int, limit: int) -> list[Job]: ...


class Reader:
    """One client's share of the news, until it takes it."""

    def __init__(self, of: str) -> None:
        self.event = threading.Event()
        self._of = of
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._progress: dict[str, Mapping[str, Any]] = {}
        self._has_missed = False

    def sees(self, tenant: str) -> bool:
        """Return whether things of a tenant are for this reader."""
        return self._of in (tenant, ALL_TENANTS)

    def tell(self, jobs: Collection[Job], progress: Mapping[str, Mapping[str, Any]]) -> None:
        """Add news, newer than all before; of each job the newest counts."""
        with self._lock:
            self._jobs |= {job.id: job for job in jobs}
            self._progress |= progress
            if len(self._jobs) > MAX_NEWS or len(self._progress) > MAX_NEWS:
                # It takes nothing, or too slowly.
                self._drop()
        self.event.set()

    def miss(self) -> None:
        """Note that there was more than could be told."""
        with self._lock:
            self._drop()
        self.event.set()

    def take(self) -> tuple[list[Job], dict[str, Mapping[str, Any]], bool]:
        """Return jobs and progress snapshots by job, and whether something was missed; each once."""
        self.event.clear()
        with self._lock:
            taken = list(self._jobs.values()), self._progress, self._has_missed
            self._jobs, self._progress, self._has_missed = {}, {}, False
        return taken

    def _drop(self) -> None:
        self._jobs, self._progress, self._has_missed = {}, {}, True


class Feed:
    """Tells readers of jobs that have news.

    Parameters:
      hub: whose notices it hears.
      many: jobs by their ids, as `ledger.jobs.many`.
      newest: the newest jobs of a time, as `ledger.jobs.page`.
    """

    def __init__(self, hub: Hub, many: Callable[[Collection[str]], Mapping[str, Job]], newest: NewestJobs) -> None:
        self._many, self._newest = many, newest
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()
        self._changed: set[str] = set()
        self._progress: dict[str, Mapping[str, Any]] = {}
        self._is_flooded = False
        self._tenants: dict[str, str] = {}
        #: By job, its newest event that was told: the looks at the newest find the same ones again.
        self._told: dict[str, int] = {}
        self._looked_at_s, self._from_ms = 0.0, now_ms()
        self._loop = Loop("feed", self._look, pause_s=PAUSE_S)
        hub.listen(self._hear)

    @contextmanager
    def reading(self, of: str) -> Iterator[Reader]:
        """Hear of the jobs of a tenant, or of `ALL_TENANTS`, for the time of the block."""
        reader = Reader(of)
        with self._lock:
            if not self._readers:
                self._from_ms = now_ms()
            self._readers.add(reader)
        self._loop.start()
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.discard(reader)

    def _hear(self, notice: Notice) -> None:
        if not self._readers:
            return
        with self._lock:
            if notice.kind in ("status", "submitted"):
                self._changed.add(notice.job_id)
            elif notice.kind == "progress" and notice.data is not None:
                self._progress[notice.job_id] = notice.data
            if len(self._changed) > MAX_NEWS:
                self._changed, self._is_flooded = set(), True
            if len(self._progress) > MAX_NEWS:
                self._progress = {}

    def _look(self) -> None:
        with self._lock:
            readers = list(self._readers)
            changed, self._changed = self._changed, set()
            progress, self._progress = self._progress, {}
            is_flooded, self._is_flooded = self._is_flooded, False
        if not readers:
            return
        if is_flooded:
            for reader in readers:
                reader.miss()
        try:
            jobs = self._news(changed, {job_id for job_id in progress if job_id not in self._tenants})
        except LedgerUnavailable as exc:
            log.debug("the feed will look again: %s", exc)
            with self._lock:
                self._changed |= changed
            return
        for reader in readers:
            seen = [job for job in jobs if reader.sees(job.tenant)]
            moved = {key: data for key, data in progress.items() if self._is_for(reader, key)}
            if seen or moved:
                reader.tell(seen, moved)

    def _news(self, changed: set[str], moving: set[str]) -> list[Job]:
        """Return the jobs that are to be told, and learn whose those are that move."""
        found: dict[str, Job] = {}
        wanted = [*changed, *(moving - changed)][:MAX_NEWS]
        if wanted:
            with ledger_time_limit():
                found |= self._many(wanted)
        now_s, until_ms = time.monotonic(), now_ms()
        if now_s - self._looked_at_s >= NEWEST_S:
            with ledger_time_limit():
                newest = self._newest(from_ms=self._from_ms - OVERLAP_MS, limit=NEWEST)
            self._looked_at_s, self._from_ms = now_s, until_ms
            found |= {job.id: job for job in newest}
        for known in (self._tenants, self._told):
            if len(known) > MAX_KNOWN:
                known.clear()
        self._tenants |= {job.id: job.tenant for job in found.values()}
        news = [job for job in found.values() if self._told.get(job.id, -1) < job.last_seq]
        self._told |= {job.id: job.last_seq for job in news}
        return news

    def _is_for(self, reader: Reader, job_id: str) -> bool:
        tenant = self._tenants.get(job_id)
        return tenant is not None and reader.sees(tenant)
