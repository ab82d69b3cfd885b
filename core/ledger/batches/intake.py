"""Taking batches in: all jobs of a request in one transaction, or none."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from sqlalchemy import insert, select, update

from core.clock import now_ms
from core.errors import IdempotencyKeyReuse, InvalidRequest, NotFound
from core.ledger.access.owned import is_owned
from core.ledger.batch_end import reopened
from core.ledger.batches.secrets import BatchSecrets
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.batch_rows import BATCH_COLUMNS, BEGUN, batch_of, counts_of
from core.ledger.database.batch_tables import batches, shared_graphs
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.error_map import Conflict
from core.ledger.database.stored_fields import columns_from
from core.ledger.database.tables import events, job_inputs, jobs
from core.ledger.new_jobs import JobRows, line_of
from core.ledger.requests import Requests
from core.ledger.scheduling.lessons import Lessons
from core.ledger.scheduling.lines import LineKind, Lines
from core.ledger.secrets import Secrets
from core.ledger.usage.room import refuse_beyond
from core.records.access import ALL_TENANTS
from core.records.batch import MAX_JOBS, Batch, BatchSpec, NewBatch
from core.records.job import QUEUED
from core.records.job_request import AcceptedJob

#: Rows that are written, or made, before others are let in.
TOGETHER = 200


class BatchIntake:
    """What the API does with batches that come in."""

    def __init__(
        self,
        database: Database,
        lines: Lines,
        lessons: Lessons,
        secrets: Secrets,
        batch_secrets: BatchSecrets,
        requests: Requests,
        rows: JobRows,
    ) -> None:
        self._database = database
        self._lines = lines
        self._lessons = lessons
        self._secrets = secrets
        self._batch_secrets = batch_secrets
        self._requests = requests
        self._rows = rows

    def known(self, key: str | None, digest: bytes | None, *, tenant: str) -> str | None:
        """Return the id of the batch that a request has already; None: it is to be made.

        Raises: IdempotencyKeyReuse - another request has this key.
        """
        if key is None or digest is None:
            return None
        query = select(batches.c.id, batches.c.request_mark)
        query = query.where(batches.c.idempotency_key == key, batches.c.tenant == tenant)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.request_mark is None or not self._requests.is_mark(digest, row.request_mark):
            raise IdempotencyKeyReuse(
                f"This Idempotency-Key was used before, for batch {row.id} from another body: send a new one.", row.id
            )
        batch_id: str = row.id
        return batch_id

    def submit(self, new: NewBatch, *, max_waiting: int | None = None) -> Batch:
        """Record a batch with all its jobs in one transaction; the same request again gets the batch it has.

        Parameters:
          max_waiting: how many jobs of its tenant may wait, with these; None: as many as come.
        Raises:
          LimitReached: these would be too many; nothing was recorded.
          IdempotencyKeyReuse: another request has its key; nothing was recorded.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        batch = _begun(new)
        # Its row is not there yet, and says whether it has a gate; one that is limited begins with one.
        rows = self._job_rows(new.jobs, batch.id, gate=batch.id if batch.max_running is not None else "")
        mark = self._requests.mark(new.request_digest) if new.request_digest and new.idempotency_key else None
        row = columns_from(batch, BEGUN) | {
            "idempotency_key": new.idempotency_key,
            "request_mark": mark,
            "source": new.source,
            "common": new.common.to_json() or None,
            "told_at_ms": batch.created_at_ms,
        }
        try:
            with self._database.write() as transaction:
                transaction.connection.execute(insert(batches), row)
                # After the key: what was taken once is told apart from what is too much.
                refuse_beyond(transaction, batch.tenant, len(new.jobs), max_waiting=max_waiting)
                self._batch_secrets.record(transaction.connection, batch.id, new.secrets)
                self._record(transaction, new.jobs, rows, new.graphs, first=0)
        except Conflict:
            known = self.known(new.idempotency_key, new.request_digest, tenant=batch.tenant)
            if known is None:
                raise
            return self._read(known)
        return batch

    def add(
        self,
        batch_id: str,
        new: Sequence[AcceptedJob],
        graphs: Mapping[str, str],
        *,
        key: str | None,
        max_waiting: int | None = None,
    ) -> Batch:
        """Record further jobs of a batch in one transaction. What comes again under its key is not added again.

        `BatchLines.lead` follows: the batch may have a gate.

        Parameters:
          max_waiting: as for `submit`.
        Raises: InvalidRequest - it would have too many; LimitReached; NotFound; LedgerUnavailable.
        """
        rows = self._job_rows(new, batch_id, gate="")
        try:
            with self._database.write() as transaction:
                connection = transaction.connection
                first = connection.execute(
                    select(batches.c.next_index).where(batches.c.id == batch_id).with_for_update()
                ).scalar()
                if first is None:
                    raise NotFound(f"There is no batch {batch_id}.")
                check_room(first, len(new))
                if key is not None:
                    connection.execute(insert(idempotency_keys).values(**_key_row(batch_id, key, new[0])))
                refuse_beyond(transaction, new[0].request.tenant, len(new), max_waiting=max_waiting)
                anew = {"next_index": first + len(new), "is_led": False, **reopened()}
                connection.execute(update(batches).where(batches.c.id == batch_id).values(**anew))
                self._record(transaction, new, rows, graphs, first=first)
        except Conflict:
            if key is None or not self.was_added(batch_id, key, tenant=new[0].request.tenant):
                raise
        return self._read(batch_id)

    def was_added(self, batch_id: str, key: str, *, tenant: str) -> bool:
        """Return whether jobs were added to a batch under this key."""
        name = _key_name(batch_id, key)
        query = select(idempotency_keys.c.key)
        query = query.where(idempotency_keys.c.tenant == tenant, idempotency_keys.c.key == name)
        with self._database.read() as connection:
            return connection.execute(query).scalar() is not None

    def source(self, batch_id: str, *, of: str = ALL_TENANTS) -> tuple[str | None, Any]:
        """Return what further jobs of a batch are made of: its columns `source` and `common`. Raises NotFound."""
        query = select(batches.c.source, batches.c.common)
        query = query.where(batches.c.id == batch_id, is_owned(batches.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no batch {batch_id}.")
        return row.source, row.common

    def _job_rows(self, new: Sequence[AcceptedJob], batch_id: str, *, gate: str) -> list[dict[str, Any]]:
        """Make the rows before the transaction begins, so that it holds nobody up.

        Parameters:
          gate: what their lines say, see `LineKind.batch`.
        """
        lines: dict[tuple[LineKind, str | None], int] = {}
        rows: list[dict[str, Any]] = []
        for number, accepted in enumerate(new):
            if number % TOGETHER == 0:
                # Other requests of this process are let in.
                time.sleep(0)
            which = (line_of(accepted), accepted.shape)
            if which not in lines:
                kind = replace(which[0], avoids=self._lessons.avoided_by(accepted.shape), batch=gate)
                lines[which] = self._lines.id_of(kind)
            if rows:
                rows.append(self._rows.alike(rows[0], accepted, lines[which]))
            else:
                rows.append(self._rows.of(accepted, lines[which])[1] | {"batch": batch_id})
        return rows

    def _record(
        self,
        transaction: Transaction,
        new: Sequence[AcceptedJob],
        rows: Sequence[dict[str, Any]],
        graphs: Mapping[str, str],
        *,
        first: int,
    ) -> None:
        connection, now = transaction.connection, now_ms()
        kept = [{"id": graph_id, "graph": graph, "created_at_ms": now} for graph_id, graph in graphs.items()]
        connection.execute(insert(shared_graphs), kept)
        for begin in range(0, len(rows), TOGETHER):
            part = [row | {"batch_index": first + begin + at} for at, row in enumerate(rows[begin : begin + TOGETHER])]
            connection.execute(insert(jobs), part)
            connection.execute(insert(events), [first_event(row["id"], now) for row in part])
            for row in part:
                transaction.joins_line(row["line"])
        inputs = {(job.id, file.key) for job in new for file in job.inputs}
        if inputs:
            rows_of = [{"job_id": job_id, "storage_key": key} for job_id, key in sorted(inputs)]
            connection.execute(insert(job_inputs), rows_of)
        for job in new:
            if job.request.secrets:
                self._secrets.record(connection, job.id, job.request.secrets)

    def _read(self, batch_id: str) -> Batch:
        query = select(*BATCH_COLUMNS).where(batches.c.id == batch_id)
        with self._database.read() as connection:
            row = connection.execute(query).one()
            return batch_of(row, counts_of(connection, [batch_id])[batch_id])


def check_room(jobs: int, more: int) -> None:
    """Raise InvalidRequest where a batch that has had so many jobs may not have so many more."""
    if jobs + more > MAX_JOBS:
        raise InvalidRequest(f"The batch has had {jobs} jobs, and {more} more are too many: at most {MAX_JOBS}.")


def first_event(job_id: str, now: int) -> dict[str, Any]:
    """Return the row of a new job's first event."""
    return {"job_id": job_id, "seq": 1, "type": "status", "data": {"status": QUEUED}, "at_ms": now}


def _begun(new: NewBatch) -> Batch:
    spec: dict[str, Any] = {name: getattr(new.spec, name) for name in BatchSpec.__dataclass_fields__}
    count = len(new.jobs)
    return Batch(**spec, id=str(uuid.uuid4()), created_at_ms=now_ms(), next_index=count, counts={QUEUED: count})


def _key_name(batch_id: str, key: str) -> str:
    """Keys of additions stand among those of submissions, under names that no client can send."""
    return f"batch\n{sha256(f'{batch_id}:{key}'.encode()).hexdigest()}"


def _key_row(batch_id: str, key: str, first: AcceptedJob) -> dict[str, Any]:
    name, tenant = _key_name(batch_id, key), first.request.tenant
    return {"tenant": tenant, "key": name, "job_id": first.id, "created_at_ms": now_ms()}
