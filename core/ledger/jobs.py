"""Jobs as clients see them: submit, look up, list, cancel."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, or_, select

from core.clock import now_ms
from core.errors import IdempotencyKeyReuse, NotFound, RequestIdReuse
from core.ledger.access.owned import is_owned
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.error_map import Conflict
from core.ledger.database.rows import JOB_COLUMNS, job_of, outputs_of
from core.ledger.database.stored_fields import columns_from
from core.ledger.database.tables import events, job_errors, job_inputs, jobs
from core.ledger.requests import Requests
from core.ledger.scheduling.lessons import Lessons
from core.ledger.scheduling.lines import LineKind, Lines, line_tenant
from core.ledger.secrets import Secrets
from core.ledger.transitions import transition
from core.ledger.webhooks.outbox_writer import record_event
from core.records.access import ALL_TENANTS, DEFAULT_TENANT
from core.records.job import CANCELED, CANCELING, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, Job, JobSpec, Status
from core.records.job_error import JobError
from core.records.job_request import AcceptedJob
from core.settings import Settings
from core.texts.stored_json import json_text

#: Built once: the look-up on every client's path.
_BY_ID = select(*JOB_COLUMNS).where(jobs.c.id == bindparam("wanted"))
_OWN_BY_ID = _BY_ID.where(jobs.c.tenant == bindparam("owner"))
_MANY = select(*JOB_COLUMNS).where(jobs.c.id.in_(bindparam("wanted", expanding=True)))
_LOG = (
    select(events).where(events.c.job_id == bindparam("of"), events.c.seq > bindparam("after")).order_by(events.c.seq)
)
_INSERT = insert(jobs)
#: Fields that every job has from its beginning: what its client asked for, what the check added, and where it stands.
_ASKED = tuple(field.name for field in fields(JobSpec))
_BEGUN = (
    *_ASKED,
    *("id", "status", "attempt", "last_seq", "nodes_total", "shape", "inputs"),
    *("created_at_ms", "updated_at_ms", "expires_at_ms", "files_expire_at_ms"),
)


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One line of a job's log: `status` {"status", ...} or `output` {"asset_id"}."""

    seq: int
    type: str
    data: dict[str, Any]
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long jobs are kept after their end, in milliseconds, where they do not say themselves."""

    job_ms: int
    #: The same for their files; never more.
    files_ms: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Retention:
        """Return the times that the operator set."""
        files_s = settings.output_retention_s or settings.retention_s
        return cls(job_ms=int(settings.retention_s * 1000), files_ms=int(files_s * 1000))

    def of(self, retention_s: float | None) -> Retention:
        """Return the times of one job, which may ask for one of its own."""
        if retention_s is None:
            return self
        return Retention(job_ms=int(retention_s * 1000), files_ms=int(retention_s * 1000))


class Jobs:
    """Everything that is asked about jobs, or by their clients.

    `of` is the tenant whose jobs there are for who asks; those of others are not found. Workers see all.
    """

    def __init__(
        self,
        database: Database,
        lines: Lines,
        lessons: Lessons,
        secrets: Secrets,
        requests: Requests,
        retention: Retention,
    ) -> None:
        self._database = database
        self._lines = lines
        self._lessons = lessons
        self._secrets = secrets
        self._requests = requests
        self._retention = retention

    def submit(self, new: AcceptedJob) -> Job:
        """Record a job with its key, secrets and first event in one transaction.

        Raises:
          IdempotencyKeyReuse: the key was used before; nothing was recorded.
          RequestIdReuse: the request id belongs to a job already; `Requests.join` tells whether it is of the same.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        line_id = self._lines.id_of(replace(line_of(new), avoids=self._lessons.avoided_by(new.shape)))
        try:
            with self._database.write() as transaction:
                return self._record(transaction, new, line_id)
        except Conflict as exc:
            key, request_id = new.request.idempotency_key, new.request.request_id
            if key and (used_by := self._job_of_key(key, new.request.tenant)):
                raise IdempotencyKeyReuse(
                    f"This Idempotency-Key was used before, for job {used_by}. A key is good for one submission: send "
                    "a new one.",
                    used_by,
                ) from exc
            if request_id:
                raise RequestIdReuse.of(request_id) from exc
            raise

    def get(self, job_id: str, *, of: str = ALL_TENANTS) -> Job:
        """Return the job with its stored outputs. Raises NotFound."""
        query = _BY_ID if of == ALL_TENANTS else _OWN_BY_ID
        wanted = {"wanted": job_id} if of == ALL_TENANTS else {"wanted": job_id, "owner": of}
        with self._database.read() as connection:
            return self._found(connection, connection.execute(query, wanted).first(), job_id)

    def many(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return several jobs at once, with their stored outputs; unknown ids are left out."""
        with self._database.read() as connection:
            rows = connection.execute(_MANY, {"wanted": list(job_ids)}).all()
            outputs = outputs_of(connection, [row.id for row in rows]) if rows else {}
        return {row.id: job_of(row, outputs.get(row.id, ())) for row in rows}

    def get_by_request_id(self, request_id: str, *, by: str = DEFAULT_TENANT, of: str = ALL_TENANTS) -> Job:
        """Return the job a `/generate` client knows by its own id, or by ours. Raises NotFound.

        Parameters:
          by: the tenant who asks; where several have this id, its own job is meant.
        """
        is_meant = or_(jobs.c.own_request_id == request_id, jobs.c.id == request_id)
        query = select(*JOB_COLUMNS).where(is_meant, is_owned(jobs.c.tenant, of))
        query = query.order_by(
            (jobs.c.id == request_id).desc(), (jobs.c.tenant == by).desc(), jobs.c.created_at_ms.desc()
        ).limit(1)
        with self._database.read() as connection:
            return self._found(connection, connection.execute(query).first(), request_id)

    def graph(self, job_id: str, *, of: str = ALL_TENANTS) -> str:
        """Return the job's graph as JSON text. Raises NotFound."""
        query = select(jobs.c.graph).where(jobs.c.id == job_id, is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            graph: str | None = connection.execute(query).scalar()
        if graph is None:
            raise NotFound(f"There is no job {job_id}.")
        return graph

    def error(self, job_id: str, *, of: str = ALL_TENANTS) -> JobError:
        """Return the error of a job that failed or expired, at full length. Raises NotFound, also where it has none."""
        query = select(jobs.c.status, jobs.c.error, job_errors.c.error.label("whole"))
        query = query.outerjoin(job_errors, job_errors.c.job_id == jobs.c.id)
        query = query.where(jobs.c.id == job_id, is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no job {job_id}.")
        if row.status not in (FAILED, EXPIRED):
            raise NotFound(f"Job {job_id} has no error: it is {row.status}.")
        return JobError.from_json((row.error or {}) if row.whole is None else json.loads(zlib.decompress(row.whole)))

    def page(
        self,
        *,
        of: str = ALL_TENANTS,
        statuses: Collection[Status] = (),
        labels: Mapping[str, str] | None = None,
        template: str | None = None,
        ids: tuple[str, str] | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 50,
        after: tuple[int, str] | None = None,
    ) -> list[Job]:
        """Return one page of jobs, newest first.

        Parameters:
          statuses: only these; empty means all.
          labels: only jobs whose `metadata` has all of these.
          template: only jobs that were made from this template.
          ids: the first and the last id that are wanted.
          from_ms, until_ms: submitted at or after the one, and before the other.
          after: `(created_at_ms, id)` of the last job of the page before.
        """
        query = select(*JOB_COLUMNS).order_by(jobs.c.created_at_ms.desc(), jobs.c.id.desc()).limit(limit)
        query = query.where(is_owned(jobs.c.tenant, of))
        if statuses:
            query = query.where(jobs.c.status.in_(list(statuses)))
        for key, value in (labels or {}).items():
            query = query.where(jobs.c.metadata[key].as_string() == value)
        if template is not None:
            query = query.where(jobs.c.workflow == template)
        if ids is not None:
            query = query.where(jobs.c.id.between(*ids))
        if from_ms is not None:
            query = query.where(jobs.c.created_at_ms >= from_ms)
        if until_ms is not None:
            query = query.where(jobs.c.created_at_ms < until_ms)
        if after:
            created_at_ms, job_id = after
            query = query.where(
                or_(
                    jobs.c.created_at_ms < created_at_ms,
                    and_(jobs.c.created_at_ms == created_at_ms, jobs.c.id < job_id),
                )
            )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            outputs = outputs_of(connection, [row.id for row in rows])
        return [job_of(row, outputs.get(row.id, ())) for row in rows]

    def events(self, job_id: str, *, after_seq: int = 0, limit: int | None = None) -> list[JobEvent]:
        """Return the job's log after an event number, oldest first."""
        query = _LOG if limit is None else _LOG.limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query, {"of": job_id, "after": after_seq}).all()
        return [JobEvent(seq=row.seq, type=row.type, data=row.data, at_ms=row.at_ms) for row in rows]

    def states(self, job_ids: Collection[str], *, of: str = ALL_TENANTS) -> dict[str, tuple[Status, int]]:
        """Return status and newest event number of many jobs at once; unknown ids are left out."""
        query = select(jobs.c.id, jobs.c.status, jobs.c.last_seq).where(jobs.c.id.in_(list(job_ids)))
        query = query.where(is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            return {row.id: (row.status, row.last_seq) for row in connection.execute(query)}

    def count(self, *statuses: Status) -> int:
        """Return how many jobs have one of these statuses."""
        query = select(func.count()).select_from(jobs).where(jobs.c.status.in_(statuses))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def cancel(self, job_id: str, *, of: str = ALL_TENANTS) -> Job:
        """Ask for an end, whatever the job is doing; asking twice is harmless.

        queued: it never runs. running: `canceling` until the GPU has let go. delivering: it is dropped. Terminal:
        unchanged. Raises NotFound.
        """
        with self._database.write() as transaction:
            # Locked first, so that it cannot move on between the two statements and the wish be lost.
            mine = select(jobs.c.id).where(jobs.c.id == job_id, is_owned(jobs.c.tenant, of))
            if transaction.connection.execute(mine.with_for_update()).scalar() is None:
                raise NotFound(f"There is no job {job_id}.")
            moved = transition(transaction, job_id, CANCELED, jobs.c.status.in_([QUEUED, DELIVERING])) or transition(
                transaction, job_id, CANCELING, jobs.c.status == RUNNING
            )
            if moved is not None:
                outputs = outputs_of(transaction.connection, [job_id])
                return job_of(moved, outputs.get(job_id, ()))
        return self.get(job_id)

    def _record(self, transaction: Transaction, new: AcceptedJob, line_id: int) -> Job:
        connection, request = transaction.connection, new.request
        job = _begun(new, self._retention.of(request.retention_s))
        if request.idempotency_key:
            connection.execute(
                insert(idempotency_keys).values(
                    tenant=job.tenant, key=request.idempotency_key, job_id=job.id, created_at_ms=job.created_at_ms
                )
            )
        hidden = self._hidden_columns(new) | {"line": line_id, "start_by_ms": _start_by_ms(job)}
        connection.execute(_INSERT, {**columns_from(job, _BEGUN), **hidden})
        transaction.joins_line(line_id)
        record_event(transaction, job.id, 1, "status", {"status": QUEUED}, QUEUED)
        if new.inputs:
            keys = sorted({file.key for file in new.inputs})
            connection.execute(insert(job_inputs), [{"job_id": job.id, "storage_key": key} for key in keys])
        if request.secrets:
            self._secrets.record(connection, job.id, request.secrets)
        return job

    def _hidden_columns(self, new: AcceptedJob) -> dict[str, Any]:
        """Return the columns of a new job that look-ups leave out."""
        request = new.request
        return {
            "lost_attempts": 0,
            "graph": new.graph_text,
            "catalogues": _catalogues_column(new),
            "request_mark": self._requests.mark(request.request_digest) if request.request_digest else None,
            "extra_pnginfo": json_text(request.extra_pnginfo) if request.extra_pnginfo else None,
        }

    @staticmethod
    def _found(connection: Connection, row: Row[Any] | None, wanted: str) -> Job:
        if row is None:
            raise NotFound(f"There is no job {wanted}.")
        return job_of(row, outputs_of(connection, [row.id]).get(row.id, ()))

    def _job_of_key(self, key: str, tenant: str) -> str | None:
        own = idempotency_keys.c.tenant == tenant
        query = select(idempotency_keys.c.job_id).where(own, idempotency_keys.c.key == key)
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar()
        return found


def line_of(new: AcceptedJob) -> LineKind:
    """Return the line that a new job joins."""
    return LineKind(
        priority=new.request.priority,
        tenant=line_tenant(new.request.tenant),
        files=new.models,
        catalogues=_catalogues_column(new),
        requires=new.request.requires,
    )


def _catalogues_column(new: AcceptedJob) -> str | None:
    return ",".join(new.catalogues) if new.catalogues else None


def _start_by_ms(job: Job) -> int | None:
    return None if job.start_within_s is None else job.created_at_ms + int(job.start_within_s * 1000)


def _begun(new: AcceptedJob, retention: Retention) -> Job:
    """Return the job of a request as it begins."""
    now = now_ms()
    return Job(
        **{name: getattr(new.request, name) for name in _ASKED},
        id=new.id,
        status=QUEUED,
        attempt=0,
        last_seq=1,
        nodes_total=new.nodes_total,
        shape=new.shape,
        inputs=new.inputs,
        created_at_ms=now,
        updated_at_ms=now,
        expires_at_ms=now + retention.job_ms,
        files_expire_at_ms=now + retention.files_ms,
    )
