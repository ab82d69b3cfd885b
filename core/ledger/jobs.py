"""Jobs as clients see them: submit, look up, list, cancel."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, insert, or_, select

from core.clock import now_ms
from core.errors import IdempotencyKeyReuse, NotFound, RequestIdReuse
from core.ledger.access.owned import is_owned
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.connections import Database, Transaction, write_rows
from core.ledger.database.error_map import Conflict
from core.ledger.database.graph_texts import GRAPH_COLUMNS, whole_graph
from core.ledger.database.group_commit import GroupCommit
from core.ledger.database.rows import JOB_COLUMNS, comes_after, job_of, newest, outputs_of
from core.ledger.database.tables import job_errors, job_inputs, jobs
from core.ledger.event_log import JobEvent, read_log
from core.ledger.new_jobs import JobRows, line_of
from core.ledger.scheduling.lessons import Lessons
from core.ledger.scheduling.lines import LineKind, Lines
from core.ledger.secrets import Secrets
from core.ledger.transitions import transition
from core.ledger.usage.room import refuse_beyond
from core.ledger.webhooks.outbox_writer import record_events
from core.records.access import ALL_TENANTS, DEFAULT_TENANT
from core.records.job import CANCELED, CANCELING, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, Job, Status
from core.records.job_error import JobError
from core.records.job_request import AcceptedJob

#: Built once: the look-up on every client's path.
_BY_ID = select(*JOB_COLUMNS).where(jobs.c.id == bindparam("wanted"))
_OWN_BY_ID = _BY_ID.where(jobs.c.tenant == bindparam("owner"))
_MANY = select(*JOB_COLUMNS).where(jobs.c.id.in_(bindparam("wanted", expanding=True)))
#: Jobs in whose errors words are looked for, the newest: what a search costs does not grow with all that ever failed.
MAX_SEARCHED = 1_000
_INSERT, _INSERT_KEY, _INSERT_INPUT = insert(jobs), insert(idempotency_keys), insert(job_inputs)


class _Submission(NamedTuple):
    """A job that is to be recorded."""

    new: AcceptedJob
    line_id: int
    #: As in `Jobs.submit`.
    max_waiting: int | None


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
        rows: JobRows,
    ) -> None:
        self._database = database
        self._lines = lines
        self._lessons = lessons
        self._secrets = secrets
        self._rows = rows
        self._recording = GroupCommit(self._record_all, weight_of=lambda each: len(each.new.graph_text))

    def submit(self, new: AcceptedJob, *, max_waiting: int | None = None) -> Job:
        """Record a job with its key, secrets and first event in one transaction, with others that come meanwhile.

        Jobs of batches come in by `BatchIntake`, which knows of their gates.

        Parameters:
          max_waiting: how many jobs of its tenant may wait, with this one; None: as many as come.
        Raises:
          LimitReached: one more would be too many; nothing was recorded.
          IdempotencyKeyReuse: the key was used before; nothing was recorded.
          RequestIdReuse: the request id belongs to a job already; `Requests.join` tells whether it is of the same.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        line_id = self._lines.id_of(self.line_kind(new))
        try:
            return self._recording.write(_Submission(new, line_id, max_waiting))
        except Conflict as exc:
            self.refuse_used_key(new.request.idempotency_key, tenant=new.request.tenant)
            if new.request.request_id:
                raise RequestIdReuse.of(new.request.request_id) from exc
            raise

    def line_kind(self, new: AcceptedJob) -> LineKind:
        """Return what the line is that a new job joins. Raises LedgerUnavailable."""
        return replace(line_of(new), avoids=self._lessons.avoided_by(new.shape))

    def refuse_used_key(self, key: str | None, *, tenant: str) -> None:
        """Raise IdempotencyKeyReuse where a submission of this tenant had this key."""
        if key and (used_by := self._job_of_key(key, tenant)):
            raise IdempotencyKeyReuse(
                f"This Idempotency-Key was used before, for job {used_by}. A key is good for one submission: send "
                "a new one.",
                used_by,
            )

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
        query = select(*GRAPH_COLUMNS).where(jobs.c.id == job_id, is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFound(f"There is no job {job_id}.")
            return whole_graph(connection, row.graph, row.shared_graph)

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
        label: str | None = None,
        template: str | None = None,
        error: str | None = None,
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
          label: only jobs with this label of their own.
          template: only jobs that were made from this template.
          error: only jobs with these words in the code or the message of their error, of the newest `MAX_SEARCHED`
            that failed or expired and are wanted otherwise.
          ids: the first and the last id that are wanted.
          from_ms, until_ms: submitted at or after the one, and before the other.
          after: `(created_at_ms, id)` of the last job of the page before.
        """
        wanted: list[ColumnElement[bool]] = [is_owned(jobs.c.tenant, of)]
        wanted += [jobs.c.metadata[key].as_string() == value for key, value in (labels or {}).items()]
        if label is not None:
            wanted.append(jobs.c.label == label)
        if template is not None:
            wanted.append(jobs.c.workflow == template)
        if ids is not None:
            wanted.append(jobs.c.id.between(*ids))
        if from_ms is not None:
            wanted.append(jobs.c.created_at_ms >= from_ms)
        if until_ms is not None:
            wanted.append(jobs.c.created_at_ms < until_ms)
        # What has an index of its own is few; else a look for each status finds any.
        has_own_index = label is not None or template is not None or ids is not None
        by_status = (bool(statuses) or of != ALL_TENANTS) and not has_own_index
        if error is not None:
            wanted, by_status = _with_error(error, wanted, statuses or (FAILED, EXPIRED), not has_own_index), False
        if after:
            wanted.append(comes_after(jobs, after))
        query = newest(wanted, statuses, limit=limit, by_status=by_status)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            outputs = outputs_of(connection, [row.id for row in rows])
        return [job_of(row, outputs.get(row.id, ())) for row in rows]

    def events(self, job_id: str, *, after_seq: int = 0, limit: int | None = None) -> list[JobEvent]:
        """Return the job's log after an event number, oldest first."""
        with self._database.read() as connection:
            return read_log(connection, job_id, after_seq=after_seq, limit=limit)

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

    def _record_all(self, submissions: Sequence[_Submission]) -> list[Job]:
        """Record jobs, each in its line, in one transaction; return them in the same order."""
        # What one job alone may have is written in an order: of two transactions that want the same two keys none has
        # the one and waits for the other.
        ordered = sorted(submissions, key=_own_names)
        made = {each.new.id: self._rows.of(each.new, each.line_id) for each in ordered}
        with self._database.write() as transaction:
            connection = transaction.connection
            write_rows(connection, _INSERT_KEY, [row for each in ordered for row in _key_rows(each.new)])
            # After the keys: what was taken once is told apart from what is too much.
            _refuse_beyond(transaction, ordered)
            write_rows(connection, _INSERT, [row for _, row in made.values()])
            record_events(transaction, made, 1, "status", {"status": QUEUED}, QUEUED)
            write_rows(connection, _INSERT_INPUT, [row for each in ordered for row in _input_rows(each.new)])
            for each in ordered:
                transaction.joins_line(each.line_id)
                if each.new.request.secrets:
                    self._secrets.record(connection, each.new.id, each.new.request.secrets)
        return [made[each.new.id][0] for each in submissions]

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


def _own_names(submission: _Submission) -> tuple[str, str, str]:
    """By what the rows are sorted that a request's own names must be free in."""
    request = submission.new.request
    return request.tenant, request.idempotency_key or "", request.request_id or ""


def _refuse_beyond(transaction: Transaction, ordered: Iterable[_Submission]) -> None:
    """Raise LimitReached where a tenant would have more waiting jobs than it may. Parameters: ordered - by tenant."""
    for tenant, its in groupby(ordered, key=lambda each: each.new.request.tenant):
        limits = [each.max_waiting for each in its]
        smallest = min((each for each in limits if each is not None), default=None)
        refuse_beyond(transaction, tenant, len(limits), max_waiting=smallest)


def _key_rows(new: AcceptedJob) -> list[dict[str, Any]]:
    request = new.request
    if not request.idempotency_key:
        return []
    return [{"tenant": request.tenant, "key": request.idempotency_key, "job_id": new.id, "created_at_ms": now_ms()}]


def _input_rows(new: AcceptedJob) -> list[dict[str, Any]]:
    return [{"job_id": new.id, "storage_key": key} for key in sorted({file.key for file in new.inputs})]


def _with_error(
    words: str, wanted: list[ColumnElement[bool]], statuses: Collection[Status], by_status: bool
) -> list[ColumnElement[bool]]:
    """Return the conditions of those jobs, of the newest ones that are wanted, whose error has these words."""
    searched = newest(wanted, statuses, limit=MAX_SEARCHED, by_status=by_status).subquery()
    # Of those alone the text is read, and not of all whose error a plan would have read first.
    texts = [searched.c.error[part].as_string() for part in ("code", "message")]
    found = or_(*(text.icontains(words, autoescape=True) for text in texts))
    return [jobs.c.id.in_(select(searched.c.id).where(found))]
