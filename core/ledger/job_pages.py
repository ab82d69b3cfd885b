"""Jobs by their places in a list, as clients of ComfyUI's own protocol count them, with what was submitted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update

from core.clock import now_ms
from core.ledger.access.owned import is_owned
from core.ledger.database.connections import Database
from core.ledger.database.graph_texts import GRAPH_COLUMNS, whole_graphs
from core.ledger.database.rows import job_of, newest, outputs_of
from core.ledger.database.tables import jobs
from core.records.access import ALL_TENANTS
from core.records.job import TERMINAL, Job, Status

#: Jobs that a list has, as many as ComfyUI keeps: older ones are found by their ids alone.
MAX_JOBS = 10_000


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What a client sent to be run."""

    #: JSON text.
    graph: str
    #: JSON text; None where it sent none.
    extra_pnginfo: str | None


class JobPages:
    """What lists are made of. `of` is the tenant whose jobs there are for who asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        *,
        of: str,
        statuses: Collection[Status],
        limit: int,
        offset: int = 0,
        from_ms: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Return some jobs, the newest first, without those that were hidden.

        Parameters:
          offset: how many newer ones are left out.
          from_ms: only those submitted then or later.
          labels: only jobs whose `metadata` has all of these.
        """
        wanted = _wanted(of, labels)
        if from_ms is not None:
            wanted.append(jobs.c.created_at_ms >= from_ms)
        query = newest(wanted, statuses, limit=offset + limit, by_status=True).limit(limit).offset(offset)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            outputs = outputs_of(connection, [row.id for row in rows]) if rows else {}
        return [job_of(row, outputs.get(row.id, ())) for row in rows]

    def count(self, *, of: str, statuses: Collection[Status], labels: Mapping[str, str] | None = None) -> int:
        """Return how many there are, `MAX_JOBS` at most."""
        some = select(jobs.c.id).where(*_wanted(of, labels), jobs.c.status.in_(list(statuses))).limit(MAX_JOBS)
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(some.subquery())).scalar_one())

    def labelled(self, name: str, *, of: str, from_ms: int) -> dict[str, str]:
        """Return `{job id: label}` of the jobs submitted since whose `metadata` has this label, the oldest first.

        Of `MAX_JOBS` at most, the newest ones.
        """
        label = jobs.c.metadata[name].as_string()
        query = select(jobs.c.id, label.label("label")).where(*_wanted(of, None), jobs.c.created_at_ms >= from_ms)
        query = query.where(label.is_not(None)).order_by(jobs.c.created_at_ms.desc()).limit(MAX_JOBS)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {row.id: row.label for row in reversed(rows)}

    def named(self, name: str, *, of: str) -> str | None:
        """Return the id of the job that a client knows by an id of its own, or by ours; None: there is none."""
        query = select(jobs.c.id).where(or_(jobs.c.own_request_id == name, jobs.c.id == name))
        query = query.where(is_owned(jobs.c.tenant, of)).order_by((jobs.c.id == name).desc()).limit(1)
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar()
        return found

    def submitted(self, job_ids: Collection[str], *, of: str = ALL_TENANTS) -> dict[str, Submitted]:
        """Return what was sent of several jobs, by their ids; unknown ones are left out."""
        query = select(jobs.c.id, *GRAPH_COLUMNS, jobs.c.extra_pnginfo)
        query = query.where(jobs.c.id.in_(list(job_ids)), is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            rows = {row.id: row for row in connection.execute(query)}
            graphs = whole_graphs(connection, {row.id: (row.graph, row.shared_graph) for row in rows.values()})
        return {
            job_id: Submitted(graph=graphs[job_id], extra_pnginfo=row.extra_pnginfo) for job_id, row in rows.items()
        }

    def hide(self, job_ids: Collection[str] | None, *, of: str) -> None:
        """Leave ended jobs out of such lists from now on; the jobs and their files stay. None: all of a tenant."""
        ended = [is_owned(jobs.c.tenant, of), jobs.c.status.in_(sorted(TERMINAL)), jobs.c.hidden_at_ms.is_(None)]
        if job_ids is not None:
            ended.append(jobs.c.id.in_(list(job_ids)))
        with self._database.write() as transaction:
            transaction.connection.execute(update(jobs).where(*ended).values(hidden_at_ms=now_ms()))


def _wanted(of: str, labels: Mapping[str, str] | None) -> list[ColumnElement[bool]]:
    of_labels: list[Any] = [jobs.c.metadata[key].as_string() == value for key, value in (labels or {}).items()]
    return [is_owned(jobs.c.tenant, of), jobs.c.hidden_at_ms.is_(None), *of_labels]
