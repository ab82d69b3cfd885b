"""The jobs of a batch, by their places in it: all of them in a few words, or page after page as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select

from core.errors import NotFound
from core.ledger.access.owned import is_owned
from core.ledger.batches.varied import is_varied, varied_names
from core.ledger.database.connections import Database
from core.ledger.database.rows import JOB_COLUMNS, job_of, outputs_of
from core.ledger.database.tables import jobs
from core.records.job import Job, Status

#: Rows that are read at once.
CHUNK = 2_000


@dataclass(frozen=True, kw_only=True)
class Child:
    """A job of a batch, in a few words."""

    #: Its place, from 0.
    index: int
    job_id: str
    status: Status
    varied: dict[str, Any]
    label: str | None


class BatchChildren:
    """What the API asks about the jobs of one batch. `of` is the tenant whose jobs there are for who asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def outline(self, batch: str, *, of: str) -> list[Child]:
        """Return all jobs of a batch in the order of their places. Raises NotFound: there is none of them."""
        columns = (jobs.c.batch_index, jobs.c.id, jobs.c.status, jobs.c.varied, jobs.c.label)
        found: list[Child] = []
        with self._database.read() as connection:
            while True:
                query = select(*columns).where(*_of_batch(batch, of, found[-1].index if found else None))
                rows = connection.execute(query.order_by(jobs.c.batch_index).limit(CHUNK)).all()
                found += [
                    Child(
                        index=row.batch_index,
                        job_id=row.id,
                        status=row.status,
                        varied=row.varied or {},
                        label=row.label,
                    )
                    for row in rows
                ]
                if len(rows) < CHUNK:
                    break
        if not found:
            raise NotFound(f"There is no batch {batch}, or none of its jobs is kept any more.")
        return found

    def page(
        self,
        batch: str,
        *,
        of: str,
        statuses: Collection[Status] = (),
        varied: Mapping[str, str] | None = None,
        limit: int = 50,
        after: int | None = None,
    ) -> list[Job]:
        """Return some jobs of a batch with their outputs, in the order of their places.

        Parameters:
          statuses: only these; empty means all.
          varied: only those that were made with all of these values, each as text, see `is_varied`.
          after: the place of the last job of the page before.
        """
        query = select(*JOB_COLUMNS).where(*_of_batch(batch, of, after))
        if statuses:
            query = query.where(jobs.c.status.in_(list(statuses)))
        for name, value in (varied or {}).items():
            query = query.where(is_varied(name, value, is_sqlite=self._database.is_sqlite))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.batch_index).limit(limit)).all()
            outputs = outputs_of(connection, [row.id for row in rows]) if rows else {}
        return [job_of(row, outputs.get(row.id, ())) for row in rows]

    def varied_names(self, batch: str, *, of: str) -> list[str]:
        """Return the names of all that was varied among the jobs of a batch, sorted. It looks at each of them."""
        query = varied_names(is_sqlite=self._database.is_sqlite).where(*_of_batch(batch, of, None))
        with self._database.read() as connection:
            return sorted(connection.execute(query).scalars())


def _of_batch(batch: str, of: str, after: int | None) -> list[ColumnElement[bool]]:
    conditions = [jobs.c.batch == batch, jobs.c.batch_index.is_not(None), is_owned(jobs.c.tenant, of)]
    return conditions if after is None else [*conditions, jobs.c.batch_index > after]
