"""After the GPU: files on their way into storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Integer, String, and_, bindparam, cast, insert, literal, or_, select, update

from core.clock import now_ms
from core.errors import NotFound, StaleAttempt, UploadFailed
from core.ledger.access.owned import is_owned
from core.ledger.claims import Claim
from core.ledger.database.connections import Database
from core.ledger.database.rows import asset_row, job_of, output_file_of, output_of, upload_column
from core.ledger.database.tables import assets, jobs
from core.ledger.transitions import transition
from core.ledger.usage.attempts import owner_of
from core.ledger.webhooks.outbox_writer import record_event
from core.records.access import ALL_TENANTS
from core.records.job import DELIVERING, FAILED, SUCCEEDED, Job
from core.records.job_error import JobError, JobWarning
from core.records.output import Output, OutputFile
from core.records.output_options import OutputOptions
from core.records.progress import Progress
from core.records.usage import GpuTime

#: A job that has been delivering for this long without an end is given another turn.
DELIVERING_MS = 15_000
#: How many jobs one run of the reconciler ends.
BATCH = 500
#: What its row forgets of a job that needs no GPU any more: of which shape it is, a digest, matters while it may run.
_DONE_WITH: Final[Mapping[str, Any]] = {"shape": None}


@dataclass(frozen=True, kw_only=True)
class Pending:
    """What of an attempt is still to be stored."""

    files: list[OutputFile]
    output_options: OutputOptions
    generated_at_ms: int
    tenant: str
    #: As in `JobSpec`.
    traceparent: str | None


# On the path of every job, so built once.
_MINE = and_(jobs.c.id == bindparam("job"), jobs.c.attempt == bindparam("mine"), jobs.c.status == DELIVERING)
_HELD = select(jobs.c.delivery, jobs.c.generated_at_ms, jobs.c.tenant, jobs.c.traceparent).where(_MINE)
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
        name=bindparam("new_name"),
        content_type=bindparam("new_type"),
        upload=bindparam("uploaded", type_=assets.c.upload.type),
    )
)
_MISS = (
    update(assets).where(assets.c.id == bindparam("asset")).values(upload=bindparam("said", type_=assets.c.upload.type))
)
_RECORD = insert(assets)
_COUNT_LOSS = (
    update(jobs)
    .where(_MINE)
    .values(delivery_losses=jobs.c.delivery_losses + bindparam("more", type_=Integer))
    .returning(jobs.c.delivery_losses)
)


def _abandoned(instance: str | None) -> JobError:
    message = "Its outputs could not be stored: nobody came for them where they lie"
    host = (instance or "").partition("@")[2]
    return JobError(code=UploadFailed.code, message=f"{message} ({host})." if host else f"{message}.")


def _kept_bytes(stored: Iterable[OutputFile]) -> int:
    return sum(file.size_bytes for file in stored if file.storage_key is not None)


def _place(file: OutputFile) -> dict[str, Any]:
    return {
        "asset": file.id,
        "key": file.storage_key,
        "size": file.size_bytes,
        "digest": file.hash,
        "new_name": file.name,
        "new_type": file.content_type,
        "uploaded": upload_column(file),
    }


class Outputs:
    """What io workers do to jobs, and GPU workers in their stead."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self, job_id: str, attempt: int) -> Pending:
        """Return what of an attempt is still to be stored. Raises StaleAttempt: the job has ended, or has another."""
        mine = {"job": job_id, "mine": attempt}
        with self._database.read() as connection:
            held = connection.execute(_HELD, mine).one_or_none()
            if held is None:
                raise StaleAttempt(f"Job {job_id} attempt {attempt} has nothing left to store.")
            rows = connection.execute(_UNSTORED, mine).all()
        return Pending(
            files=[output_file_of(row) for row in rows],
            output_options=OutputOptions.from_json(held.delivery or {}),
            generated_at_ms=held.generated_at_ms,
            tenant=held.tenant,
            traceparent=held.traceparent,
        )

    def late(self, *, older_than_ms: int) -> list[str]:
        """Return jobs whose outputs have been on their way for so long, the oldest first, a hundred at most."""
        query = (
            select(jobs.c.id)
            .where(jobs.c.status == DELIVERING, jobs.c.generated_at_ms < now_ms() - older_than_ms)
            .order_by(jobs.c.generated_at_ms)
            .limit(100)
        )
        with self._database.read() as connection:
            return [str(job_id) for job_id in connection.execute(query).scalars()]

    def succeed(
        self, job_id: str, attempt: int, stored: list[OutputFile], missing: Mapping[str, str] | None = None
    ) -> Job:
        """Record the files, which are all in storage now, in their order, and end the job; returns it as it now is.

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
                connection.execute(_STORE, _place(file))
                record_event(transaction, job_id, number, "output", {"asset_id": file.id}, DELIVERING)
            for asset_id, reason in (missing or {}).items():
                connection.execute(_MISS, {"asset": asset_id, "said": {"missing": reason}})
            row = transition(transaction, job_id, SUCCEEDED, **_DONE_WITH)
            assert row is not None, "the row is ours since the first statement"
            transaction.kept_changes[row.tenant] += _kept_bytes(stored)
            transaction.usage.add(owner_of(row), bytes_out=_kept_bytes(stored))
            return job_of(row)

    def succeed_at_once(
        self,
        claim: Claim,
        stored: Sequence[OutputFile],
        *,
        outputs_reused: bool,
        warnings: Sequence[JobWarning] = (),
        spent: GpuTime | None = None,
    ) -> None:
        """End a job whose prompt has just ended, and whose files are all in storage: its log tells of the same steps.

        Parameters: as for `Claims.generated`, which this is together with `succeed`.
        Raises: StaleAttempt - the job was cancelled meanwhile, or another attempt owns it; nothing was written.
        """
        with self._database.write() as transaction:
            now = now_ms()
            moved = transition(
                transaction,
                claim.job_id,
                DELIVERING,
                of_attempt=claim.attempt,
                spent=spent,
                generated_at_ms=now,
                outputs_reused=outputs_reused,
                warnings=[warning.to_json() for warning in warnings] or None,
            )
            if moved is None:
                raise StaleAttempt(f"Job {claim.job_id} attempt {claim.attempt} was overtaken; its result is dropped.")
            if stored:
                transaction.connection.execute(
                    _RECORD,
                    [
                        asset_row(file, attempt=claim.attempt, ordinal=ordinal, now=now)
                        for ordinal, file in enumerate(stored)
                    ],
                )
            for number, file in enumerate(stored, start=moved.last_seq + 1):
                record_event(transaction, claim.job_id, number, "output", {"asset_id": file.id}, DELIVERING)
            transition(transaction, claim.job_id, SUCCEEDED, after=len(stored), **_DONE_WITH)
            transaction.kept_changes[moved.tenant] += _kept_bytes(stored)
            transaction.usage.add(owner_of(moved), bytes_out=_kept_bytes(stored))

    def count_loss(self, job_id: str, attempt: int) -> int:
        """Count one more turn that came to no end, or may; returns how many. Raises StaleAttempt as `pending`."""
        with self._database.write() as transaction:
            lost = transaction.connection.execute(_COUNT_LOSS, {"job": job_id, "mine": attempt, "more": 1}).scalar()
        if lost is None:
            raise StaleAttempt(f"Job {job_id} attempt {attempt} has nothing left to store.")
        return int(lost)

    def note_delay(self, job_id: str, attempt: int, reason: str) -> Progress | None:
        """Tell on a job why its files are not stored yet; that is also a sign that somebody has them.

        Returns: what the job says from now on; None where there is nothing to be stored any more.
        """
        with self._database.write() as transaction:
            mine = and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == DELIVERING)
            query = select(jobs.c.progress, jobs.c.nodes_total).where(mine).with_for_update()
            found = transaction.connection.execute(query).one_or_none()
            if found is None:
                return None
            known = found.progress or Progress(nodes_total=found.nodes_total).to_json()
            told = {**known, "note": reason, "noted_at_ms": now_ms()}
            transaction.connection.execute(update(jobs).where(mine).values(progress=told))
        return Progress.from_json(told)

    def forgive_loss(self, job_id: str, attempt: int) -> None:
        """Take back the count of a turn that has ended after all."""
        with self._database.write() as transaction:
            transaction.connection.execute(_COUNT_LOSS, {"job": job_id, "mine": attempt, "more": -1})

    def losses(self, job_id: str) -> int:
        """Return how many turns came to no end."""
        query = select(jobs.c.delivery_losses).where(jobs.c.id == job_id)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def abandon(self, *, after_s: float) -> list[str]:
        """End jobs whose files were not fetched in so long, because their host is gone; returns their ids."""
        old = and_(jobs.c.status == DELIVERING, jobs.c.generated_at_ms < now_ms() - round(after_s * 1000))
        query = select(jobs.c.id, jobs.c.instance).where(old).limit(BATCH)
        with self._database.write() as transaction:
            ended = [
                transition(transaction, row.id, FAILED, old, error=_abandoned(row.instance).to_json())
                for row in transaction.connection.execute(query).all()
            ]
        return [str(row.id) for row in ended if row is not None]

    def fail(self, job_id: str, attempt: int, error: JobError) -> bool:
        """End a job as failed whose outputs cannot be stored; False when the attempt is stale."""
        with self._database.write() as transaction:
            held = and_(jobs.c.attempt == attempt, jobs.c.status == DELIVERING)
            return transition(transaction, job_id, FAILED, held, error=error.to_json()) is not None

    def overdue(self) -> list[tuple[str, int, str]]:
        """Return `(job_id, attempt, instance)` of jobs whose files seem forgotten; each one once in a while."""
        late = and_(jobs.c.status == DELIVERING, jobs.c.updated_at_ms < now_ms() - DELIVERING_MS)
        with self._database.write() as transaction:
            rows = transaction.connection.execute(
                update(jobs)
                .where(late)
                .values(updated_at_ms=now_ms())
                .returning(jobs.c.id, jobs.c.attempt, jobs.c.instance)
            ).all()
        return [(row.id, row.attempt, row.instance) for row in rows]

    def unstored(self, instance: str) -> list[str]:
        """Return the ids of the jobs whose files still lie where an instance left them."""
        query = select(jobs.c.id).where(jobs.c.status == DELIVERING, jobs.c.instance == instance)
        with self._database.read() as connection:
            return [str(job_id) for job_id in connection.execute(query).scalars()]

    def asset(self, asset_id: str, *, of: str = ALL_TENANTS) -> Output:
        """Return a stored output of a tenant's job. Raises NotFound."""
        query = _WITH_JOB.where(assets.c.id == asset_id, assets.c.storage_key.is_not(None), is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no asset {asset_id}.")
        return output_of(row, is_expired=row.files_removed)

    def kept(self, *, after: str = "", limit: int = 500) -> list[Output]:
        """Return stored outputs whose files are kept, in the order of their ids, those behind `after`."""
        query = _WITH_JOB.where(assets.c.id > after, assets.c.storage_key.is_not(None), jobs.c.files_removed.is_(False))
        with self._database.read() as connection:
            return [output_of(row) for row in connection.execute(query.order_by(assets.c.id).limit(limit))]

    def output_at(self, storage_key: str, *, of: str = ALL_TENANTS) -> Output:
        """Return a stored output by its place, `<job id>/<name>`, whichever attempt made it. Raises NotFound."""
        job_id, _, name = storage_key.partition("/")
        # Between them is the number of a later attempt, see `tasks.upload`.
        of_attempt = literal(f"{job_id}/") + cast(assets.c.attempt, String) + literal(f"/{name}")
        is_there = or_(assets.c.storage_key == storage_key, assets.c.storage_key == of_attempt)
        query = _WITH_JOB.where(assets.c.job_id == job_id, is_there, is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        if row is None:
            raise NotFound(f"There is no output {storage_key}.")
        return output_of(row, is_expired=row.files_removed)
