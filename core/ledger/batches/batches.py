"""Batches as clients see them: look up, list, their children, what went wrong; pause and resume."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, or_, select

from core.errors import NotFound
from core.ledger.access.owned import is_owned
from core.ledger.database.batch_rows import BATCH_COLUMNS, batches_of
from core.ledger.database.batch_tables import batches
from core.ledger.database.connections import Database
from core.ledger.database.rows import JOB_COLUMNS, comes_after, job_of
from core.ledger.database.stored_fields import record_from
from core.ledger.database.tables import jobs
from core.ledger.scheduling.batch_lines import write_gate
from core.records.access import ALL_TENANTS
from core.records.batch import Batch, BatchState, ErrorGroup
from core.records.job import EXPIRED, FAILED, QUEUED, SUCCEEDED, Job, Status
from core.records.job_error import JobError
from core.records.requirements import Requirements

#: Causes that are told, and examples of each; characters of a message by which two are the same.
MAX_CAUSES, MAX_EXAMPLES, CAUSE_CHARS = 20, 5, 200
#: Jobs that succeeded of which the mean run is taken: those of the last places.
PACE_OF = 100

_WITH_ERRORS: tuple[Status, ...] = (FAILED, EXPIRED)
_ERRORS = (
    select(
        jobs.c.id,
        jobs.c.batch_index,
        jobs.c.error["code"].as_string().label("code"),
        func.substr(jobs.c.error["message"].as_string(), 1, CAUSE_CHARS).label("message"),
        jobs.c.error["node_id"].as_string().label("node_id"),
        jobs.c.error["class_type"].as_string().label("class_type"),
    )
    .where(jobs.c.batch == bindparam("of_batch"), jobs.c.status.in_(_WITH_ERRORS))
    .subquery()
)
_CAUSE = (_ERRORS.c.code, _ERRORS.c.message, _ERRORS.c.node_id, _ERRORS.c.class_type)
_GROUPED = select(
    _ERRORS,
    func.row_number().over(partition_by=_CAUSE, order_by=_ERRORS.c.batch_index).label("number"),
    func.count().over(partition_by=_CAUSE).label("jobs"),
    func.min(_ERRORS.c.batch_index).over(partition_by=_CAUSE).label("first"),
).subquery()
#: Grouped by the database: of thousands that failed, it tells no more than is shown.
_EXAMPLES = (
    select(_GROUPED)
    .where(_GROUPED.c.number <= MAX_EXAMPLES)
    .order_by(_GROUPED.c.jobs.desc(), _GROUPED.c.first, _GROUPED.c.number)
    .limit(MAX_CAUSES * MAX_EXAMPLES)
)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a batch gets on."""

    #: Mean run of the last jobs that succeeded, in seconds; None: none has.
    run_s: float | None
    #: The last of its jobs in line; None: none waits.
    last_waiting: Job | None


class JobKind(NamedTuple):
    """What a job asks for, as far as keys have a say in it."""

    template: str | None
    priority: int
    requires: Requirements | None


class Batches:
    """What clients ask about batches. `of` is the tenant whose batches there are for who asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, batch_id: str, *, of: str = ALL_TENANTS) -> Batch:
        """Return a batch with its counts. Raises NotFound."""
        query = select(*BATCH_COLUMNS).where(batches.c.id == batch_id, is_owned(batches.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFound(f"There is no batch {batch_id}.")
            return batches_of(connection, [row])[0]

    def over_names(self, batch_id: str, *, of: str = ALL_TENANTS) -> list[str]:
        """Return what was varied when a batch was submitted, without a look at its jobs. Raises NotFound."""
        query = select(batches.c.over).where(batches.c.id == batch_id, is_owned(batches.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no batch {batch_id}.")
        return [each["name"] for each in row.over or ()]

    def page(
        self,
        *,
        of: str = ALL_TENANTS,
        label: str | None = None,
        states: Collection[BatchState] = (),
        limit: int = 50,
        after: tuple[int, str] | None = None,
    ) -> list[Batch]:
        """Return one page of batches, newest first.

        Parameters:
          states: only these; empty means all.
          after: `(created_at_ms, id)` of the last batch of the page before.
        """
        query = select(*BATCH_COLUMNS).order_by(batches.c.created_at_ms.desc(), batches.c.id.desc()).limit(limit)
        query = query.where(is_owned(batches.c.tenant, of))
        if label is not None:
            query = query.where(batches.c.label == label)
        if states:
            query = query.where(or_(*(_is_in(state) for state in states)))
        if after is not None:
            query = query.where(comes_after(batches, after))
        with self._database.read() as connection:
            return batches_of(connection, connection.execute(query).all())

    def errors(self, batch: Batch) -> list[ErrorGroup]:
        """Return why jobs of a batch failed or expired, the commonest cause first."""
        if not any(batch.counts.get(status) for status in _WITH_ERRORS):
            return []
        with self._database.read() as connection:
            rows = connection.execute(_EXAMPLES, {"of_batch": batch.id}).all()
        groups: dict[tuple[Any, ...], list[Row[Any]]] = {}
        for row in rows:
            groups.setdefault((row.code, row.message, row.node_id, row.class_type), []).append(row)
        return [
            ErrorGroup(
                code=cause[0] or JobError.code,
                message=cause[1] or JobError.message,
                node_id=cause[2],
                class_type=cause[3],
                count=examples[0].jobs,
                job_ids=tuple(row.id for row in examples),
            )
            for cause, examples in list(groups.items())[:MAX_CAUSES]
        ]

    def kinds(self, batch_id: str, statuses: Collection[Status]) -> list[JobKind]:
        """Return what the jobs of a batch with these statuses ask for, each kind once."""
        query = select(jobs.c.workflow, jobs.c.priority, jobs.c.requires)
        query = query.where(jobs.c.batch == batch_id, jobs.c.status.in_(list(statuses)))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found = (JobKind(row.workflow, row.priority, record_from(Requirements, row.requires)) for row in rows)
        return list(dict.fromkeys(found))

    def pace(self, batch_id: str) -> Pace:
        """Return what an estimate of the time left goes by."""
        mine, last = jobs.c.batch == batch_id, jobs.c.batch_index.desc()
        took = select((jobs.c.generated_at_ms - jobs.c.started_at_ms).label("ms"))
        # However many there are, a client that asks again and again has some of them read.
        some = took.where(mine, jobs.c.status == SUCCEEDED).order_by(last).limit(PACE_OF).subquery()
        waiting = select(*JOB_COLUMNS).where(mine, jobs.c.status == QUEUED).order_by(last).limit(1)
        with self._database.read() as connection:
            mean_ms = connection.execute(select(func.avg(some.c.ms))).scalar()
            row = connection.execute(waiting).one_or_none()
        return Pace(
            run_s=None if mean_ms is None else float(mean_ms) / 1000, last_waiting=None if row is None else job_of(row)
        )

    def pause(self, batch_id: str, *, is_paused: bool, of: str = ALL_TENANTS) -> Batch:
        """Let no further job of a batch begin, or let them begin again; safe to repeat. Raises NotFound.

        `BatchLines.lead` follows.
        """
        mine = select(batches.c.id).where(batches.c.id == batch_id, is_owned(batches.c.tenant, of))
        with self._database.write() as transaction:
            if transaction.connection.execute(mine).scalar() is not None:
                write_gate(transaction, batch_id, is_paused=is_paused)
        return self.get(batch_id, of=of)


def _is_in(state: BatchState) -> ColumnElement[bool]:
    is_over = batches.c.completed_at_ms.is_not(None)
    if state == "completed":
        return is_over
    return and_(~is_over, batches.c.is_paused.is_(state == "paused"))
