"""A GPU worker's side of the ledger: claim, lease, progress, and the end of the GPU's part of a job.

Every write carries the attempt it was claimed with. A worker that was frozen, cut off or replaced meanwhile holds an
old attempt; its writes change nothing and it is told so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, insert, or_, select, update

from core.errors import StaleAttempt
from core.job import CANCELED, CANCELING, DELIVERING, FAILED, LEASED, QUEUED, RUNNING, prompt_id_of
from core.ledger.database import Change, Database, Transaction, now_ms
from core.ledger.instances import is_alive
from core.ledger.tables import assets, instances, jobs, secrets
from core.ledger.transitions import transition


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt at one job, held by this worker until its lease lapses."""

    job_id: str
    attempt: int
    #: JSON text, API format.
    graph: str
    nodes_total: int
    timeout_s: float | None
    has_webhook: bool
    has_secrets: bool

    @property
    def prompt_id(self) -> str:
        """The id to post this attempt's prompt with."""
        return prompt_id_of(self.job_id, self.attempt)


@dataclass(frozen=True, kw_only=True)
class ProducedFile:
    """One output as the instance reported it, before it is in storage."""

    asset_id: str
    node_id: str
    name: str
    type: str
    content_type: str
    comfy_type: str
    comfy_key: str
    subfolder: str
    #: `{"path": str}` on the GPU host's disk, `{"url": str}` of its instance, or `{"text": str}`.
    source: dict[str, str]


# Statements on the path between two jobs of a GPU, built once: building one takes longer than running it.
_OWN_CATALOGUE = select(instances.c.catalogue).where(instances.c.name == bindparam("instance")).scalar_subquery()
_FITS = and_(jobs.c.status == QUEUED, or_(jobs.c.catalogues.is_(None), jobs.c.catalogues.contains(_OWN_CATALOGUE)))
_BEST = (
    select(jobs.c.id, jobs.c.priority)
    .where(_FITS)
    .order_by(jobs.c.priority.desc(), jobs.c.created_at_ms, jobs.c.id)
    .limit(1)
)
_NAMED = select(jobs.c.id).where(jobs.c.id == bindparam("wanted"), _FITS, jobs.c.priority >= bindparam("priority"))
_HAS_SECRETS = select(secrets.c.job_id).where(secrets.c.job_id == bindparam("wanted")).exists()
_REST = select(jobs.c.graph, _HAS_SECRETS.label("has_secrets")).where(jobs.c.id == bindparam("wanted"))
_ANY_QUEUED = select(jobs.c.id).where(jobs.c.status == QUEUED).limit(1)


class Claims:
    """What GPU workers, and the reconciler in their stead, do to jobs."""

    def __init__(self, database: Database, *, lease_s: float, max_attempts: int) -> None:
        self._database = database
        self._lease_ms = int(lease_s * 1000)
        self._max_attempts = max_attempts

    def claim(self, instance: str, *, named: str | None = None, only_surplus: bool = False) -> Claim | None:
        """Take the next job for an instance: the highest priority, then the one a turn names, then the oldest.

        Parameters:
          instance: who claims, `gpu0@host`.
          named: the job the turn was published for.
          only_surplus: take a job only if more of them wait than there are idle healthy instances, so that a busy
            instance never takes what an idle one would start now.
        Returns: the claim, or None when there is nothing to take.
        """
        with self._database.write() as transaction:
            if only_surplus and not self._is_surplus(transaction):
                return None
            job_id = self._choose(transaction, instance, named)
            if job_id is None:
                return None
            now = now_ms()
            row = transition(
                transaction,
                job_id,
                RUNNING,
                data={"instance": instance},
                attempt=jobs.c.attempt + 1,
                instance=instance,
                lease_until_ms=now + self._lease_ms,
                started_at_ms=now,
                progress=None,
            )
            if row is None:
                return None
            rest = transaction.connection.execute(_REST, {"wanted": job_id}).one()
        return Claim(
            job_id=job_id,
            attempt=row.attempt,
            graph=rest.graph,
            nodes_total=row.nodes_total,
            timeout_s=row.timeout_s,
            has_webhook=row.webhook is not None,
            has_secrets=rest.has_secrets,
        )

    def anything_waits(self) -> bool:
        """Whether a claim is worth trying; much cheaper than one."""
        with self._database.read() as connection:
            return connection.execute(_ANY_QUEUED).scalar() is not None

    def renew(self, claims: Collection[Claim]) -> dict[str, str]:
        """Prolong the leases.

        Returns: `{job_id: status}` of those still held (`running`, or `canceling`: interrupt it). A claim that is
        missing was lost: stop working on it and write nothing.
        """
        held: dict[str, str] = {}
        with self._database.write() as transaction:
            for claim in claims:
                status = transaction.connection.execute(
                    update(jobs)
                    .where(self._mine(claim))
                    .values(lease_until_ms=now_ms() + self._lease_ms)
                    .returning(jobs.c.status)
                ).scalar()
                if status is not None:
                    held[claim.job_id] = status
        return held

    def progress(self, claim: Claim, snapshot: dict[str, Any]) -> None:
        """Keep the newest progress of a running attempt; a stale attempt's is dropped."""
        with self._database.write() as transaction:
            row = transaction.connection.execute(
                update(jobs)
                .where(self._mine(claim))
                .values(progress=snapshot)
                .returning(jobs.c.last_seq, jobs.c.status)
            ).one_or_none()
            if row is not None:
                transaction.changes.append(Change(job_id=claim.job_id, seq=row.last_seq, status=row.status))

    def generated(self, claim: Claim, files: Sequence[ProducedFile], *, outputs_reused: bool) -> None:
        """The GPU is done: record what it made and hand the job to delivery.

        Raises: StaleAttempt - the job was cancelled meanwhile, or another attempt owns it.
        """
        with self._database.write() as transaction:
            now = now_ms()
            moved = transition(
                transaction,
                claim.job_id,
                DELIVERING,
                self._mine(claim),
                lease_until_ms=None,
                generated_at_ms=now,
                outputs_reused=outputs_reused,
            )
            if moved is None:
                raise StaleAttempt(f"Job {claim.job_id} attempt {claim.attempt} was overtaken; its result is dropped.")
            if files:
                transaction.connection.execute(
                    insert(assets), [_asset(claim, ordinal, file, now) for ordinal, file in enumerate(files)]
                )

    def fail(self, claim: Claim, error: dict[str, Any]) -> bool:
        """End the job as failed; False when the attempt is stale.

        Parameters:
          error: `{"code", "message", "node_id", "class_type", "traceback"}`.
        """
        with self._database.write() as transaction:
            return transition(transaction, claim.job_id, FAILED, self._mine(claim), error=error) is not None

    def canceled(self, claim: Claim) -> bool:
        """The GPU has let go of a job that was to be cancelled; False when the attempt is stale."""
        with self._database.write() as transaction:
            return transition(transaction, claim.job_id, CANCELED, self._mine(claim)) is not None

    def release(self, claim: Claim, *, reason: str, lost: bool = True) -> str | None:
        """Give a job back because the instance or the worker failed under it, not because of the job.

        Parameters:
          lost: counts as one of its `max_attempts`; False for a job that had not begun, or an orderly stop.
        Returns: its new status (`queued`, `failed`, `canceled`), or None when the attempt is stale.
        """
        with self._database.write() as transaction:
            return self._give_back(transaction, claim.job_id, self._mine(claim), reason, lost=lost)

    def expire_leases(self, instance: str) -> None:
        """The worker process that held an instance's jobs is known to be dead: nobody need wait for the leases."""
        with self._database.write() as transaction:
            transaction.connection.execute(
                update(jobs)
                .where(jobs.c.instance == instance, jobs.c.status.in_(sorted(LEASED)))
                .values(lease_until_ms=0)
            )

    def take_back_lapsed(self) -> dict[str, str]:
        """Requeue, or end, every job whose lease has lapsed: `{job_id: new status}`."""
        taken: dict[str, str] = {}
        with self._database.read() as connection:
            lapsed = and_(jobs.c.status.in_(list(LEASED)), jobs.c.lease_until_ms < now_ms())
            candidates = connection.execute(select(jobs.c.id, jobs.c.attempt).where(lapsed).limit(500)).all()
        for job_id, attempt in candidates:
            with self._database.write() as transaction:
                still = and_(jobs.c.attempt == attempt, jobs.c.lease_until_ms < now_ms())
                reason = "The GPU worker was lost: its lease lapsed."
                status = self._give_back(transaction, job_id, still, reason, lost=True)
                if status is not None:
                    taken[job_id] = status
        return taken

    def _mine(self, claim: Claim) -> ColumnElement[bool]:
        return and_(jobs.c.id == claim.job_id, jobs.c.attempt == claim.attempt, jobs.c.status.in_(sorted(LEASED)))

    def _choose(self, transaction: Transaction, instance: str, named: str | None) -> str | None:
        connection = transaction.connection
        if named is not None:
            # Only what is taken is locked: a row locked and then left would look taken to everybody else.
            highest = connection.execute(_BEST, {"instance": instance}).one_or_none()
            if highest is None:
                return None
            as_good = {"instance": instance, "wanted": named, "priority": highest.priority}
            taken = connection.execute(_locked(transaction, _NAMED), as_good).scalar()
            if taken is not None:
                return str(taken)
        first = connection.execute(_locked(transaction, _BEST), {"instance": instance}).first()
        return None if first is None else str(first.id)

    def _is_surplus(self, transaction: Transaction) -> bool:
        waiting = select(jobs.c.id).where(jobs.c.status == QUEUED).limit(65).subquery()
        busy = select(jobs.c.instance).where(jobs.c.status.in_(sorted(LEASED)), jobs.c.instance.is_not(None))
        idle = select(func.count()).select_from(instances).where(is_alive(), instances.c.name.not_in(busy))
        connection = transaction.connection
        waiting_count = connection.execute(select(func.count()).select_from(waiting)).scalar_one()
        return waiting_count > 0 and waiting_count > connection.execute(idle).scalar_one()

    def _give_back(
        self, transaction: Transaction, job_id: str, condition: ColumnElement[bool], reason: str, *, lost: bool
    ) -> str | None:
        row = transaction.connection.execute(
            select(jobs.c.status, jobs.c.lost_attempts).where(jobs.c.id == job_id, condition).with_for_update()
        ).one_or_none()
        if row is None:
            return None
        count = row.lost_attempts + int(lost)
        if row.status == CANCELING:
            moved = transition(transaction, job_id, CANCELED, condition)
        elif count >= self._max_attempts:
            error = {"code": "instance_lost", "message": f"Given up after {count} lost attempts. {reason}"}
            moved = transition(transaction, job_id, FAILED, condition, error=error, lost_attempts=count)
        else:
            moved = transition(
                transaction,
                job_id,
                QUEUED,
                condition,
                data={"reason": reason},
                lost_attempts=count,
                lease_until_ms=None,
                progress=None,
            )
        return None if moved is None else str(moved.status)


def _locked(transaction: Transaction, query: Select[Any]) -> Select[Any]:
    """Lock the rows found, passing over those another claim holds. SQLite has one writer at a time anyway."""
    return query if transaction.is_sqlite else query.with_for_update(skip_locked=True)


def _asset(claim: Claim, ordinal: int, file: ProducedFile, now: int) -> dict[str, Any]:
    return {
        "id": file.asset_id,
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "ordinal": ordinal,
        "node_id": file.node_id,
        "name": file.name,
        "type": file.type,
        "content_type": file.content_type,
        "comfy_type": file.comfy_type,
        "comfy_key": file.comfy_key,
        "subfolder": file.subfolder,
        "source": file.source,
        "size_bytes": 0,
        "created_at_ms": now,
    }
