"""Where waiting jobs stand, when they begin, and why they wait; one look at the fleet serves a whole process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api.http.cached import CachedValue
from api.http.time_limits import ledger_time_limit
from api.service.batched_lookup import Batched
from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.scheduling.newcomers import FIRST_LINE, Newcomer
from core.ledger.scheduling.outlook import Outlook
from core.records.access import ALL_TENANTS
from core.records.job import QUEUED, Job
from core.scheduling.reasons import Reason

#: How long one process trusts its look at the fleet.
MAX_AGE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a waiting job stands."""

    #: 1 for the next one to run; None while no GPU would take it.
    position: int | None
    #: Seconds until its own work begins, estimated; None while no GPU would take it.
    starts_in_s: float | None
    #: Why it waits.
    reason: Reason
    #: The same in plain English. It names times, so it changes with them.
    sentence: str
    #: It is so far behind that asking where it stands costs a query.
    is_far: bool = False

    @property
    def wait_ms(self) -> int | None:
        """The estimated wait in milliseconds."""
        return None if self.starts_in_s is None else round(self.starts_in_s * 1000)


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What would become of jobs of one kind that came now."""

    #: Where the first of them would stand; None while no GPU would take it, or its deadline would pass first.
    position: int | None
    #: Seconds until a GPU would take it, and until its own work would begin there.
    taken_in_s: float | None
    starts_in_s: float | None
    #: How long its models would load between the two; None where the forecast does not come so far.
    load_s: float | None
    #: How long each of them would run, where its models are held.
    run_s: float
    #: Until the last of them would have run.
    ends_in_s: float | None
    reason: Reason
    sentence: str


class Estimates:
    """Places of waiting jobs, for all blueprints of one process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._outlook = CachedValue(ledger.outlook.read, max_age_s=MAX_AGE_S)
        self._indexes = Batched(ledger.outlook.indexes)
        self._renewing = threading.Lock()

    def outlook(self) -> Outlook:
        """Return what becomes of the fleet's work as it was about a second ago, in a very large fleet some seconds.

        Raises LedgerUnavailable.
        """
        with ledger_time_limit():
            return self._outlook.get()

    def renew(self) -> None:
        """Look again. Raises LedgerUnavailable."""
        self._outlook.renew()

    def look_at_moves(self) -> bool:
        """Look again, for something has moved; False: the last look was too dear to have another one so soon.

        Raises LedgerUnavailable.
        """
        return self._outlook.renew_if_due()

    def place(self, job: Job) -> Place | None:
        """Return the job's place of at most about a second ago; None when it does not wait. Raises LedgerUnavailable.

        One that just came has another look if the last one was not too dear for that. One that is in none is looked up
        together with the others of which that is true.
        """
        if job.status != QUEUED:
            return None
        outlook = self.outlook()
        if job.id not in outlook.indexes and outlook.at_ms <= job.updated_at_ms:
            # It just came: what it is told first is what it goes by.
            with ledger_time_limit():
                self._outlook.renew_if_due()
            outlook = self.outlook()
        found = outlook.indexes.get(job.id)
        if found is not None:
            return _place(outlook, *found)
        found = self._indexes.get(job.id)
        return None if found is None else self._far_place(outlook, job, *found)

    def places(self, jobs: Iterable[Job]) -> dict[str, Place]:
        """Return the places of several jobs; those that do not wait are left out. Raises LedgerUnavailable."""
        waiting = {job.id: job for job in jobs if job.status == QUEUED}
        if not waiting:
            return {}
        outlook = self.outlook()
        near = {job_id: found for job_id in waiting if (found := outlook.indexes.get(job_id)) is not None}
        places = {job_id: _place(outlook, *found) for job_id, found in near.items()}
        far = waiting.keys() - near.keys()
        if far:
            with ledger_time_limit():
                indexes = self._ledger.outlook.indexes(far)
            for job_id, found in indexes.items():
                place = self._far_place(outlook, waiting[job_id], *found)
                if place is not None:
                    places[job_id] = place
        return places

    def prospects(self, newcomers: Sequence[Newcomer]) -> list[Prospect]:
        """Return what would become of jobs if they came now, in this order. Raises LedgerUnavailable.

        It takes a look at the fleet of its own.
        """
        with ledger_time_limit():
            outlook = self._ledger.outlook.read(newcomers)
        return [_prospect(outlook, FIRST_LINE - number, each.count) for number, each in enumerate(newcomers)]

    def sizes(self, job: Job, *, of: str = ALL_TENANTS) -> dict[str, int]:
        """Count jobs by status of about a second ago, never from before this job came. Raises LedgerUnavailable.

        Parameters: of - the tenant whose jobs are counted.
        """
        outlook = self.outlook()
        return outlook.sizes_of(of) if outlook.at_ms > job.created_at_ms else self._ledger.outlook.sizes(of=of)

    def _far_place(self, outlook: Outlook, job: Job, line: int, index: int) -> Place | None:
        if line not in outlook.forecast.lines:
            outlook = self._since(job.updated_at_ms)
        if line not in outlook.forecast.lines:
            return None
        # One that just came is not far behind: the next look has it.
        return _place(outlook, line, index, is_far=job.updated_at_ms < outlook.at_ms)

    def _since(self, moment_ms: int) -> Outlook:
        """Return a look from after a moment: nobody waited in this line before. Those who want one share it."""
        # The slot first: who has one must not wait for somebody who waits for one.
        with ledger_time_limit(), self._renewing:
            if self._outlook.get().at_ms <= moment_ms:
                self._outlook.renew()
            return self._outlook.get()


def _prospect(outlook: Outlook, line: int, count: int) -> Prospect:
    first, last = outlook.place(line, 0), outlook.place(line, count - 1)
    load_s = None
    if first.is_seen and first.taken_in_s is not None and first.starts_in_s is not None:
        load_s = first.starts_in_s - first.taken_in_s
    run_s = outlook.forecast.lines[line].line.run_s
    return Prospect(
        position=first.position,
        taken_in_s=first.taken_in_s,
        starts_in_s=first.starts_in_s,
        load_s=load_s,
        run_s=run_s,
        ends_in_s=None if last.starts_in_s is None else last.starts_in_s + run_s,
        reason=outlook.forecast.reason(line),
        sentence=outlook.forecast.sentence(line),
    )


def _place(outlook: Outlook, line: int, index: int, *, is_far: bool = False) -> Place:
    passed_s = max(0.0, (now_ms() - outlook.at_ms) / 1000)
    place = outlook.place(line, index, passed_s=passed_s)
    return Place(
        position=place.position,
        starts_in_s=place.starts_in_s,
        reason=outlook.forecast.reason(line, index, passed_s=passed_s),
        sentence=outlook.forecast.sentence(line, index, passed_s=passed_s),
        is_far=is_far,
    )
