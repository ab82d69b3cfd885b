"""Jobs that come back from a GPU without a result: given up, taken back, or too late."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, exists, func, select, update

from core.background import failure_of
from core.clock import now_ms
from core.errors import LedgerUnavailable
from core.ledger.claims import Claim, held_by
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import instances, jobs
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.turns import LOOKED_AT, idle_instances
from core.ledger.transitions import transition
from core.ledger.usage.attempts import LOST_COLUMNS, lost_of, settle_lost
from core.metrics.counted import ATTEMPTS_LOST, LEASES_LOST
from core.records.job import (
    CANCELED,
    CANCELING,
    DELIVERING,
    EXPIRED,
    FAILED,
    LEASED,
    QUEUED,
    RUNNING,
    Status,
    prompt_id_of,
)
from core.records.job_error import JobError, Loss
from core.records.usage import GpuTime

#: How many jobs one run of the reconciler takes back, or lets expire.
BATCH = 500
#: Code of the loss of an instance or a worker. A job that causes too many of them fails as `POISON`.
INSTANCE_LOST, POISON = "instance_lost", "poison"
#: Why a job runs again whose prompt had ended well.
HOST_LOST = "Its machine was lost before its files were stored."
FILES_LOST = "Its machine lost its disk before its files were stored."
#: The newest losses that a job tells of.
MAX_LOSSES = 20
#: Code of a job that nobody could run in time.
QUEUE_TIMEOUT = "queue_timeout"
#: Code of one that nobody had begun by its own deadline.
START_TIMEOUT = "start_timeout"

#: What stands behind another prompt for so long was claimed in a wrong belief.
STALLED_MS = 20_000
_ON_DECK = select(jobs.c.id, jobs.c.attempt, jobs.c.line, jobs.c.started_at_ms, jobs.c.start_by_ms).where(
    jobs.c.status == RUNNING, jobs.c.on_deck
)

_LOST = (*LOST_COLUMNS, jobs.c.attempt, jobs.c.lost_attempts, jobs.c.losses, jobs.c.instance, jobs.c.lease_until_ms)

#: Spelled out, for the partial index.
_HAS_DEADLINE = and_(IS_QUEUED, jobs.c.start_by_ms.is_not(None))
_NEAREST_DEADLINE = select(func.min(jobs.c.start_by_ms)).where(_HAS_DEADLINE)


@dataclass(frozen=True, kw_only=True)
class GivenBack:
    """A job that an instance had, and what became of it."""

    job_id: str
    #: The prompt of the attempt that is over.
    prompt_id: str
    #: `queued`, or `failed` or `canceled` if it has ended.
    status: Status
    #: The attempt, and the instance that had it.
    attempt: int
    instance: str


class Requeue:
    """What workers, and the reconciler in their stead, do to jobs that did not come to their end."""

    def __init__(self, database: Database, lines: Lines, *, max_attempts: int, lease_s: float) -> None:
        self._database = database
        self._lease_ms = int(lease_s * 1000)
        self._lines = lines
        self._max_attempts = max_attempts

    def release(
        self,
        claim: Claim,
        *,
        reason: str,
        lost: bool = True,
        code: str = INSTANCE_LOST,
        error: JobError | None = None,
        spent: GpuTime | None = None,
    ) -> Status | None:
        """Give a job back because the instance or the worker failed under it, not because of the job.

        Parameters:
          lost: counts as one of its `max_attempts`; False for a job that had not begun, or an orderly stop.
          code: what lost it.
          error: what it fails with if that was the last of its `max_attempts`; None: a few words made from the others.
          spent: how long it had the GPU; None: since the ledger was told that it began.
        Returns: its new status (`queued`, `failed`, `canceled`), or None when the attempt is stale.
        """
        with self._database.write() as transaction:
            given_back = self._give_back(
                transaction, claim.job_id, held_by(claim), reason, lost=lost, code=code, error=error, spent=spent
            )
        return None if given_back is None else given_back.status

    def release_all(self, instance: str, *, reason: str, only_on_deck: bool = False) -> list[GivenBack]:
        """Give back everything an instance holds, or what has not begun there; it counts as no try."""
        mine = and_(jobs.c.instance == instance, jobs.c.status.in_(sorted(LEASED)))
        if only_on_deck:
            mine = and_(mine, jobs.c.on_deck)
        with self._database.write() as transaction:
            held = transaction.connection.execute(select(jobs.c.id).where(mine)).scalars().all()
            given_back = [
                self._give_back(transaction, job_id, mine, reason, lost=False, code=INSTANCE_LOST) for job_id in held
            ]
        return [found for found in given_back if found is not None]

    def release_stalled(self) -> list[GivenBack]:
        """Give back jobs on deck behind a prompt that does not end: others could begin them, or their deadline passes.

        They were claimed in the belief that it would end in a moment. It counts as no try.
        """
        now, reason = now_ms(), "The prompt before it takes longer than expected."
        with self._database.read() as connection:
            on_deck = connection.execute(_ON_DECK).all()
            late = [row for row in on_deck if row.start_by_ms is not None and row.start_by_ms < now]
            stalled = [row for row in on_deck if row not in late and row.started_at_ms < now - STALLED_MS]
            idle = idle_instances(connection, LOOKED_AT) if stalled else []
            kinds = self._lines.kinds_of(connection, {row.line for row in stalled if row.line is not None})
        for row in stalled:
            kind = kinds.get(row.line)
            if kind is not None and any(kind.suits(gpu.sort) for gpu in idle):
                late.append(row)
        given_back = []
        for row in late:
            still = and_(jobs.c.on_deck, jobs.c.status == RUNNING, jobs.c.attempt == row.attempt)
            with self._database.write() as transaction:
                given_back.append(
                    self._give_back(
                        transaction, row.id, still, reason, lost=False, code=INSTANCE_LOST, skip_locked=True
                    )
                )
        return [found for found in given_back if found is not None]

    def expire_leases(self, instance: str) -> None:
        """Let the leases of an instance's jobs lapse now: the worker process that held them is known to be dead."""
        with self._database.write() as transaction:
            transaction.connection.execute(
                update(jobs)
                .where(jobs.c.instance == instance, jobs.c.status.in_(sorted(LEASED)))
                .values(lease_until_ms=0)
            )

    def take_back_lapsed(self) -> dict[str, Status]:
        """Requeue, or end, every job whose lease has lapsed: `{job_id: new status}`.

        One whose row somebody holds locked is left for the next time: it must not keep the others waiting.
        """
        taken: dict[str, Status] = {}
        with self._database.read() as connection:
            lapsed = and_(jobs.c.status.in_(list(LEASED)), jobs.c.lease_until_ms < now_ms())
            candidates = connection.execute(select(jobs.c.id, jobs.c.attempt).where(lapsed).limit(BATCH)).all()
        for job_id, attempt in candidates:
            # One that cannot be taken back, whyever, must not keep the others waiting either.
            error = failure_of(functools.partial(self._take_back, job_id, attempt, taken), f"job {job_id}")
            if isinstance(error, LedgerUnavailable):
                break
        return taken

    def _take_back(self, job_id: str, attempt: int, taken: dict[str, Status]) -> None:
        with self._database.write() as transaction:
            still = and_(jobs.c.attempt == attempt, jobs.c.lease_until_ms < now_ms())
            reason = "The GPU worker was lost: its lease lapsed."
            found = self._give_back(transaction, job_id, still, reason, lost=True, code=INSTANCE_LOST, skip_locked=True)
            if found is not None:
                transaction.tally.add(LEASES_LOST)
        if found is not None:
            taken[job_id] = found.status

    def take_back_unstored(self, *, silent_s: float) -> dict[str, Status]:
        """Requeue, or end, every job whose files lie unstored on a machine that nobody has heard of for so long.

        Returns: `{job_id: new status}`.
        """
        before_ms = now_ms() - round(silent_s * 1000)
        is_heard = exists().where(instances.c.name == jobs.c.instance, instances.c.heartbeat_at_ms > before_ms)
        lost = and_(jobs.c.status == DELIVERING, jobs.c.generated_at_ms < before_ms, ~is_heard)
        with self._database.read() as connection:
            query = select(jobs.c.id, jobs.c.attempt, jobs.c.progress).where(lost).limit(BATCH)
            # Where only the GPU's worker has ended, the io worker beside it goes on and says so.
            silent = [
                row
                for row in connection.execute(query).all()
                if int((row.progress or {}).get("noted_at_ms") or 0) < before_ms
            ]
        taken: dict[str, Status] = {}
        for row in silent:
            mine = and_(lost, jobs.c.attempt == row.attempt)
            if (found := self._give_up_files(row.id, mine, HOST_LOST)) is not None:
                taken[row.id] = found
        return taken

    def lose_files(self, job_id: str, attempt: int) -> Status | None:
        """Requeue, or end, a job whose files went with a disk; returns its new status, None: the attempt is stale."""
        mine = and_(jobs.c.status == DELIVERING, jobs.c.attempt == attempt)
        return self._give_up_files(job_id, mine, FILES_LOST)

    def _give_up_files(self, job_id: str, condition: ColumnElement[bool], reason: str) -> Status | None:
        with self._database.write() as transaction:
            found = self._give_back(transaction, job_id, condition, reason, lost=True, code=INSTANCE_LOST)
        return None if found is None else found.status

    def expire_waiting(self, *, timeout_s: float) -> list[str]:
        """End jobs that have waited for their first GPU for too long; returns their ids."""
        late = and_(
            jobs.c.status == QUEUED, jobs.c.attempt == 0, jobs.c.created_at_ms < now_ms() - int(timeout_s * 1000)
        )
        error = JobError(code=QUEUE_TIMEOUT, message=f"No GPU was free for it within {timeout_s:g} s.").to_json()
        with self._database.write() as transaction:
            waiting = transaction.connection.execute(select(jobs.c.id).where(late).limit(BATCH)).scalars().all()
            ended = [transition(transaction, job_id, EXPIRED, late, error=error) for job_id in waiting]
        return [str(row.id) for row in ended if row is not None]

    def nearest_deadline_ms(self) -> int | None:
        """Return when the first job has to have begun that waits, in milliseconds since 1970; None if none has to."""
        with self._database.read() as connection:
            found: int | None = connection.execute(_NEAREST_DEADLINE).scalar()
        return found

    def expire_late(self) -> list[str]:
        """End jobs that have not begun by the deadlines they brought; returns their ids."""
        late = and_(_HAS_DEADLINE, jobs.c.start_by_ms < now_ms())
        query = select(jobs.c.id, jobs.c.start_within_s).where(late).order_by(jobs.c.start_by_ms).limit(BATCH)
        expired: list[str] = []
        with self._database.write() as transaction:
            for row in transaction.connection.execute(query).all():
                error = JobError(code=START_TIMEOUT, message=f"No GPU began it within {row.start_within_s:g} s.")
                if transition(transaction, row.id, EXPIRED, late, error=error.to_json()) is not None:
                    expired.append(row.id)
        return expired

    def _give_back(
        self,
        transaction: Transaction,
        job_id: str,
        condition: ColumnElement[bool],
        reason: str,
        *,
        lost: bool,
        code: str,
        error: JobError | None = None,
        spent: GpuTime | None = None,
        skip_locked: bool = False,
    ) -> GivenBack | None:
        row = transaction.connection.execute(
            select(*_LOST).where(jobs.c.id == job_id, condition).with_for_update(skip_locked=skip_locked)
        ).one_or_none()
        if row is None:
            return None
        # What stood behind another prompt had no part in the loss.
        counts = lost and not row.on_deck
        status, values = self._what_follows(row, reason, counts=counts, code=code, error=error)
        wasted = lost_of(row, until_ms=self._last_sign_ms(row), spent=spent)
        moved = transition(transaction, job_id, status, condition, **values, **wasted.columns(row))
        if moved is None:
            return None
        settle_lost(transaction, moved, wasted)
        if counts:
            transaction.tally.add(ATTEMPTS_LOST, code)
        prompt_id = prompt_id_of(job_id, row.attempt)
        return GivenBack(job_id=job_id, prompt_id=prompt_id, status=status, attempt=row.attempt, instance=row.instance)

    def _last_sign_ms(self, row: Row[Any]) -> int:
        """Return until when an attempt had its GPU: until its lease was renewed last, if that has lapsed."""
        now, until_ms = now_ms(), row.lease_until_ms
        # Let lapse because its process is known to be dead: until now, as near as anybody can tell.
        return now if not until_ms or until_ms >= now else int(until_ms) - self._lease_ms

    def _what_follows(
        self, row: Row[Any], reason: str, *, counts: bool, code: str, error: JobError | None
    ) -> tuple[Status, dict[str, Any]]:
        if row.status == CANCELING:
            return CANCELED, {}
        count = row.lost_attempts + int(counts)
        losses: dict[str, Any] = {"lost_attempts": count}
        if counts:
            loss = Loss(attempt=row.attempt, code=code, instance=row.instance, gpu=row.gpu, at_ms=now_ms())
            told = [*(row.losses or []), loss.to_json()][-MAX_LOSSES:]
            losses |= {"lost_on": row.instance, "lost_code": code, "losses": told}
        if counts and count >= self._max_attempts:
            final = POISON if code == INSTANCE_LOST else code
            error = error or JobError(code=final, message=f"Given up after {count} lost attempts. {reason}")
            return FAILED, {"error": error.to_json(), **losses}
        data = {"reason": reason, "code": code} if counts else {"reason": reason}
        anew = {"lease_until_ms": None, "generated_at_ms": None, "progress": None, "on_deck": False}
        losses["delivery_losses"] = 0
        return QUEUED, {"data": data, **anew, **losses}
