"""Requests that come again: the same `request_id` with the same body is the same request, and has one job.

A job keeps a mark of the body it was made from. It also counts its callers: one that hangs up must not end what another
one, who asked the same, still waits for.
"""

from __future__ import annotations

from sqlalchemy import null, select, update

from core.errors import RequestIdReuse
from core.ledger.database.connections import Database
from core.ledger.database.tables import jobs
from core.ledger.sealing import Sealer
from core.ledger.transitions import transition
from core.records.access import DEFAULT_TENANT
from core.records.job import CANCELED, CANCELING, DELIVERING, QUEUED, RUNNING

_GONE = (CANCELED, CANCELING)
_IS_WAITED_FOR = jobs.c.status.in_([QUEUED, DELIVERING])


class Requests:
    """What is asked about requests by the ids of their clients."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def mark(self, digest: bytes) -> str:
        """Return what a job keeps of its request's digest; bodies are compared with it by the fleet's key alone."""
        return self._sealer.mark(digest)

    def is_mark(self, digest: bytes, mark: str) -> bool:
        """Return whether a mark is that of this digest."""
        return self._sealer.is_mark(digest, mark)

    def join(self, request_id: str, digest: bytes, *, tenant: str = DEFAULT_TENANT) -> str | None:
        """Return the id of the job that this request has already, with one more caller; None: it is to be made.

        Ids of clients are their tenant's own: another tenant's request of the same id is another request.

        A job that was cancelled because all its callers had hung up gives its request id away: who asks again wants it.

        Raises:
          RequestIdReuse: another request has this id.
        """
        query = select(jobs.c.id, jobs.c.status, jobs.c.request_mark)
        query = query.where(jobs.c.tenant == tenant, jobs.c.own_request_id == request_id)
        with self._database.read() as connection:
            found = connection.execute(query).first()
        if found is None or (found.request_mark is None and self._freed(found.id)):
            return None
        if found.request_mark is None or not self._sealer.is_mark(digest, found.request_mark):
            raise RequestIdReuse.of(request_id, found.id)
        with self._database.write() as transaction:
            joined = transaction.connection.execute(
                update(jobs)
                .where(jobs.c.id == found.id, jobs.c.request_mark == found.request_mark)
                .values(callers=jobs.c.callers + 1)
            )
        # The last of its callers may have hung up in this moment.
        return found.id if joined.rowcount else self.join(request_id, digest, tenant=tenant)

    def leave(self, job_id: str) -> None:
        """Note that a caller has hung up; with the last one the job is cancelled, and its request id is free again."""
        with self._database.write() as transaction:
            connection = transaction.connection
            # Locked first, so that nobody joins between the look and the end.
            callers = connection.execute(select(jobs.c.callers).where(jobs.c.id == job_id).with_for_update()).scalar()
            if callers is not None and callers > 1:
                connection.execute(update(jobs).where(jobs.c.id == job_id).values(callers=callers - 1))
                return
            transition(transaction, job_id, CANCELED, _IS_WAITED_FOR, request_mark=None) or transition(
                transaction, job_id, CANCELING, jobs.c.status == RUNNING, request_mark=None
            )

    def _freed(self, job_id: str) -> bool:
        with self._database.write() as transaction:
            freed = transaction.connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.request_mark.is_(None), jobs.c.status.in_(_GONE))
                .values(own_request_id=null())
            )
        return freed.rowcount > 0
