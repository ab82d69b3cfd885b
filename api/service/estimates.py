"""Where jobs stand in the queue and how long they will wait; one look at the queue serves a whole process."""

from __future__ import annotations

from dataclasses import dataclass

from api.http.cached import CachedValue
from api.http.time_limits import ledger_time_limit
from api.service.batched_lookup import Batched
from core.ledger import Ledger
from core.ledger.workload import Workload
from core.records.job import QUEUED, Job

#: How long one process trusts its look at the queue.
MAX_AGE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job stands in the queue."""

    #: 1 for the next one to run.
    position: int
    #: Seconds until it begins, estimated; None while no healthy GPU can run it.
    wait_s: float | None

    @property
    def wait_ms(self) -> int | None:
        """The estimated wait in milliseconds."""
        return None if self.wait_s is None else round(self.wait_s * 1000)


class Estimates:
    """Places and waits of queued jobs, for all blueprints of one process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._workload = CachedValue(ledger.workload.read, max_age_s=MAX_AGE_S)
        self._positions = Batched(ledger.jobs.queue_positions)

    def workload(self) -> Workload:
        """Return the fleet's work as it was at most about a second ago. Raises LedgerUnavailable."""
        return self._workload.get()

    def renew(self) -> None:
        """Look again: the queue has moved. Raises LedgerUnavailable."""
        self._workload.renew()

    def place(self, job: Job) -> Place | None:
        """Return the job's place as it is now; None when it does not wait. Raises LedgerUnavailable."""
        position = self._ledger.jobs.queue_position(job)
        return None if position is None else self._at(job, position)

    def recent_place(self, job: Job) -> Place | None:
        """Return the job's place of about a second ago; jobs that are far behind, or just came, are looked up together.

        Raises: LedgerUnavailable.
        """
        if job.status != QUEUED:
            return None
        with ledger_time_limit():
            workload = self.workload()
        position = workload.position(job) if workload.at_ms > job.created_at_ms else None
        if position is None:
            position = self._positions.get(job.id)
        if position is None:
            return None
        with ledger_time_limit():
            return self._at(job, position)

    def sizes(self, job: Job) -> dict[str, int]:
        """Count jobs by status of about a second ago, never from before this job came. Raises LedgerUnavailable."""
        workload = self.workload()
        return workload.sizes if workload.at_ms > job.created_at_ms else self._ledger.workload.sizes()

    def _at(self, job: Job, position: int) -> Place:
        workload = self.workload()
        typical_s = None
        if position > 1 and workload.at_ms <= job.created_at_ms:
            # Those ahead may be just as new; a client's jobs are often alike.
            typical_s = self._ledger.durations.expect(job, workload.kinds)
        return Place(position=position, wait_s=workload.wait_s(job, position, typical_s=typical_s))
