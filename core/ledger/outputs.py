"""After the GPU: files on their way into storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, String, and_, bindparam, func, select, update

from core.errors import DeliveryFailed, NotFound, StaleAttempt
from core.job import DELIVERING, FAILED, SUCCEEDED, Job, Output
from core.ledger.database.connections import Database, now_ms
from core.ledger.database.rows import job_of, output_of
from core.ledger.database.tables import assets, jobs
from core.ledger.transitions import transition
from core.ledger.webhooks.outbox_writer import record_event
from core.output_options import OutputOptions
from core.storage.job_files import owner_of

#: A job that has been delivering for this long without an end is given another turn.
DELIVERING_MS = 15_000
#: How many jobs one run of the reconciler ends.
BATCH = 500


@dataclass(frozen=True, kw_only=True)
class PendingFile:
    """A produced file that is not in storage yet."""

    asset_id: str
    job_id: str
    name: str
    source: dict[str, str]
    content_type: str = "application/octet-stream"
    node_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """What an attempt still has to deliver."""

    files: list[PendingFile]
    output_options: OutputOptions
    generated_at_ms: int


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Where a file now is, and what it holds."""

    asset_id: str
    storage_key: str
    size_bytes: int
    hash: str
    # None: as the instance reported it.
    name: str | None = None
    content_type: str | None = None
    #: As in `Output`.
    upload: dict[str, Any] | None = None


# On the path of every job, so built once.
_MINE = and_(jobs.c.id == bindparam("job"), jobs.c.attempt == bindparam("mine"), jobs.c.status == DELIVERING)
_HELD = select(jobs.c.delivery, jobs.c.generated_at_ms).where(_MINE)
_UNSTORED = (
    select(assets)
    .where(assets.c.job_id == bindparam("job"), assets.c.attempt == bindparam("mine"), assets.c.storage_key.is_(None))
    .order_by(assets.c.ordinal)
)
_WITH_JOB = select(assets, jobs.c.files_removed).join(jobs, jobs.c.id == assets.c.job_id)
_NUMBER_OUTPUTS = (
    update(jobs)
    .where(_MINE)
    .values(last_seq=jobs.c.last_seq + bindparam("files", type_=Integer), updated_at_ms=bindparam("now"))
    .returning(jobs.c.last_seq)
)
_STORE = (
    update(assets)
    .where(assets.c.id == bindparam("asset"))
    .values(
        storage_key=bindparam("key"),
        size_bytes=bindparam("size"),
        hash=bindparam("digest"),
        name=func.coalesce(bindparam("new_name", type_=String), assets.c.name),
        content_type=func.coalesce(bindparam("new_type", type_=String), assets.c.content_type),
        upload=bindparam("uploaded", type_=assets.c.upload.type),
    )
)
_MISS = (
    update(assets).where(assets.c.id == bindparam("asset")).values(upload=bindparam("said", type_=assets.c.upload.type))
)
_COUNT_LOSS = (
    update(jobs)
    .where(_MINE)
    .values(delivery_losses=jobs.c.delivery_losses + bindparam("more", type_=Integer))
    .returning(jobs.c.delivery_losses)
)


def _abandoned(instance: str | None) -> dict[str, Any]:
    message = "Its outputs could not be delivered: nobody came for them where they lie"
    host = (instance or "").partition("@")[2]
    return {"code": DeliveryFailed.code, "message": f"{message} ({host})." if host else f"{message}."}


def _place(file: StoredFile) -> dict[str, Any]:
    return {
        "key": file.storage_key,
        "size": file.size_bytes,
        "digest": file.hash,
        "new_name": file.name,
        "new_type": file.content_type,
        "uploaded": file.upload,
    }


class Outputs:
    """What io workers do to jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self, job_id: str, attempt: int) -> Pending:
        """What this attempt still has to deliver. Raises StaleAttempt when the job is not being delivered."""
        mine = {"job": job_id, "mine": attempt}
        with self._database.read() as connection:
            held = connection.execute(_HELD, mine).one_or_none()
            if held is None:
                raise StaleAttempt(f"Job {job_id} attempt {attempt} has nothing left to deliver.")
            rows = connection.execute(_UNSTORED, mine).all()
        files = [
            PendingFile(
                asset_id=row.id,
                job_id=job_id,
                name=row.name,
                source=row.source,
                content_type=row.content_type,
                node_id=row.node_id,
            )
            for row in rows
        ]
        return Pending(
            files=files,
            output_options=OutputOptions.from_json(held.delivery or {}),
            generated_at_ms=held.generated_at_ms,
        )

    def succeed(
        self, job_id: str, attempt: int, stored: list[StoredFile], missing: Mapping[str, str] | None = None
    ) -> Job:
        """Every file is in storage: record them, in order, and end the job. Requeue it as it now is.

        Parameters:
          missing: `{asset id: why}` of files that the instance reported and nobody can find.
        Raises: StaleAttempt - the job was cancelled or ended meanwhile; nothing was written.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            seq = connection.execute(
                _NUMBER_OUTPUTS, {"job": job_id, "mine": attempt, "files": len(stored), "now": now_ms()}
            ).scalar()
            if seq is None:
                raise StaleAttempt(f"Job {job_id} attempt {attempt} was ended by somebody else.")
            for number, file in enumerate(stored, start=seq - len(stored) + 1):
                connection.execute(_STORE, {"asset": file.asset_id, **_place(file)})
                record_event(transaction, job_id, number, "output", {"asset_id": file.asset_id}, DELIVERING)
            for asset_id, reason in (missing or {}).items():
                connection.execute(_MISS, {"asset": asset_id, "said": {"missing": reason}})
            row = transition(transaction, job_id, SUCCEEDED)
            assert row is not None, "the row is ours since the first statement"
            return job_of(row)

    def count_loss(self, job_id: str, attempt: int) -> int:
        """One more turn came to no end, or may; returns how many. Raises StaleAttempt as `pending`."""
        with self._database.write() as transaction:
            lost = transaction.connection.execute(_COUNT_LOSS, {"job": job_id, "mine": attempt, "more": 1}).scalar()
        if lost is None:
            raise StaleAttempt(f"Job {job_id} attempt {attempt} has nothing left to deliver.")
        return int(lost)

    def forgive_loss(self, job_id: str, attempt: int) -> None:
        """A turn that was counted has ended after all."""
        with self._database.write() as transaction:
            transaction.connection.execute(_COUNT_LOSS, {"job": job_id, "mine": attempt, "more": -1})

    def losses(self, job_id: str) -> int:
        """How many turns came to no end."""
        query = select(jobs.c.delivery_losses).where(jobs.c.id == job_id)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def abandon(self, *, after_s: float) -> list[str]:
        """End jobs whose files nobody came for in so long, for their host is gone; returns their ids."""
        old = and_(jobs.c.status == DELIVERING, jobs.c.generated_at_ms < now_ms() - round(after_s * 1000))
        query = select(jobs.c.id, jobs.c.instance).where(old).limit(BATCH)
        with self._database.write() as transaction:
            ended = [
                transition(transaction, row.id, FAILED, old, error=_abandoned(row.instance))
                for row in transaction.connection.execute(query).all()
            ]
        return [str(row.id) for row in ended if row is not None]

    def fail(self, job_id: str, attempt: int, error: dict[str, Any]) -> bool:
        """The outputs cannot be stored: end the job as failed; False when the attempt is stale."""
        with self._database.write() as transaction:
            held = and_(jobs.c.attempt == attempt, jobs.c.status == DELIVERING)
            return transition(transaction, job_id, FAILED, held, error=error) is not None

    def overdue(self) -> list[tuple[str, int, str]]:
        """`(job_id, attempt, instance)` of jobs whose delivery seems forgotten; each is returned once a while."""
        late = and_(jobs.c.status == DELIVERING, jobs.c.updated_at_ms < now_ms() - DELIVERING_MS)
        with self._database.write() as transaction:
            rows = transaction.connection.execute(
                update(jobs)
                .where(late)
                .values(updated_at_ms=now_ms())
                .returning(jobs.c.id, jobs.c.attempt, jobs.c.instance)
            ).all()
        return [(row.id, row.attempt, row.instance) for row in rows]

    def undelivered(self, instance: str) -> list[str]:
        """Ids of the jobs whose files still lie where an instance left them."""
        query = select(jobs.c.id).where(jobs.c.status == DELIVERING, jobs.c.instance == instance)
        with self._database.read() as connection:
            return [str(job_id) for job_id in connection.execute(query).scalars()]

    def asset(self, asset_id: str) -> Output:
        """One stored output. Raises NotFound."""
        query = _WITH_JOB.where(assets.c.id == asset_id, assets.c.storage_key.is_not(None))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no asset {asset_id}.")
        return output_of(row, is_expired=row.files_removed)

    def output_at(self, storage_key: str) -> Output:
        """One stored output by its place, `<job id>/<name>`. Raises NotFound."""
        job_id = owner_of(storage_key)
        query = _WITH_JOB.where(assets.c.job_id == job_id, assets.c.storage_key == storage_key)
        with self._database.read() as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        if row is None:
            raise NotFound(f"There is no output {storage_key}.")
        return output_of(row, is_expired=row.files_removed)
