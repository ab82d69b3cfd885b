"""Deliveries as operators and clients see them: what became of each, with its tries; sent again, or deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, delete, func, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.access.owned import is_of_owned_job
from core.ledger.audit import write_act
from core.ledger.database.connections import Database
from core.ledger.database.rows import comes_after
from core.ledger.database.tables import deliveries, delivery_attempts
from core.ledger.webhooks.outbox_writer import DEAD, DELIVERED, PENDING, SENDING
from core.records.access import ALL_TENANTS
from core.records.act import Actor
from core.records.job import ContractName

#: States of deliveries that have ended, one way or the other.
ENDED = (DELIVERED, DEAD)


@dataclass(frozen=True, kw_only=True)
class Try:
    """One line of a delivery's log."""

    #: Counted from 1. A number that is missing belongs to a sender that died, or did not get to it.
    number: int
    at_ms: int
    duration_ms: int
    status_code: int | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery as operators and clients see it."""

    id: str
    job_id: str
    contract: ContractName
    event: str
    seq: int
    url: str
    #: `pending`, `sending`, `delivered` or `dead`.
    state: str
    tries: int
    #: Of the last try.
    status_code: int | None
    error: str | None
    #: None once it has ended.
    next_try_at_ms: int | None
    created_at_ms: int
    updated_at_ms: int
    #: The batch that it tells of, by way of the job with which that came about; None: it tells of the job itself.
    batch: str | None = None
    log: tuple[Try, ...] = ()


_LISTED = [getattr(deliveries.c, name) for name in Delivery.__dataclass_fields__ if name != "log"]


class Deliveries:
    """What operators and clients do to webhooks.

    `of` is the tenant whose there are for who asks: a delivery belongs to its job's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        *,
        of: str = ALL_TENANTS,
        state: str | None = None,
        job_id: str | None = None,
        ids: tuple[str, str] | None = None,
        limit: int = 50,
        after: tuple[int, str] | None = None,
    ) -> list[Delivery]:
        """Return one page of deliveries with their logs, newest first.

        Parameters:
          ids: the first and the last id that are wanted.
          after: `(created_at_ms, id)` of the last one of the page before.
        """
        query = select(*_LISTED).order_by(deliveries.c.created_at_ms.desc(), deliveries.c.id.desc()).limit(limit)
        query = query.where(is_of_owned_job(deliveries.c.job_id, of))
        if state is not None:
            query = query.where(deliveries.c.state == state)
        if job_id is not None:
            query = query.where(deliveries.c.job_id == job_id)
        if ids is not None:
            query = query.where(deliveries.c.id.between(*ids))
        if after is not None:
            query = query.where(comes_after(deliveries, after))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            log = connection.execute(_log_of([row.id for row in rows])).all() if rows else []
        return [_delivery(row, log) for row in rows]

    def get(self, delivery_id: str, *, of: str = ALL_TENANTS) -> Delivery:
        """Return a delivery with its log. Raises NotFound."""
        is_meant = and_(deliveries.c.id == delivery_id, is_of_owned_job(deliveries.c.job_id, of))
        with self._database.read() as connection:
            row = connection.execute(select(*_LISTED).where(is_meant)).one_or_none()
            if row is None:
                raise NotFound(f"There is no delivery {delivery_id}.")
            return _delivery(row, connection.execute(_log_of([delivery_id])).all())

    def replay(self, delivery_id: str, *, by: Actor | None = None) -> Delivery:
        """Make a delivery due now, whether it was given up, has arrived, or waits; its schedule begins anew.

        It keeps its id, its body and its log. One that is being sent is left alone. Raises NotFound.

        Parameters: by - who does it; None: the user of this process.
        """
        with self._database.write() as transaction:
            job_id = transaction.connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id, deliveries.c.state != SENDING)
                .values(
                    state=PENDING,
                    tries_before=deliveries.c.tries,
                    next_try_at_ms=now_ms(),
                    updated_at_ms=now_ms(),
                )
                .returning(deliveries.c.job_id)
            ).scalar()
            if job_id is not None:
                write_act(transaction.connection, "webhook.replay", delivery_id, by, job_id=job_id)
        return self.get(delivery_id)

    def purge(self, state: str, *, older_than_ms: int = 0, of: str = ALL_TENANTS, by: Actor | None = None) -> int:
        """Delete deliveries that ended in `state` (`delivered` or `dead`) so long ago; returns how many.

        Parameters: by - as for `replay`.
        Raises: ValueError - deliveries in that state have not ended.
        """
        if state not in ENDED:
            raise ValueError(f"only {' and '.join(ENDED)} deliveries can be deleted, not {state!r}")
        old = and_(deliveries.c.state == state, deliveries.c.updated_at_ms <= now_ms() - older_than_ms)
        old = and_(old, is_of_owned_job(deliveries.c.job_id, of))
        with self._database.write() as transaction:
            purged = transaction.connection.execute(delete(deliveries).where(old)).rowcount
            if purged:
                write_act(transaction.connection, "webhook.purge", state, by, purged=purged, of=of)
        return purged

    def counts(self) -> tuple[int, int]:
        """Count the deliveries that were given up, and those that failed at least once and are tried again."""
        failed = and_(deliveries.c.state == PENDING, deliveries.c.error.is_not(None))
        query = select(func.count().filter(deliveries.c.state == DEAD), func.count().filter(failed)).select_from(
            deliveries
        )
        with self._database.read() as connection:
            dead, retried = connection.execute(query).one()
        return int(dead), int(retried)

    def open_count(self, job_id: str | None = None) -> int:
        """Count the deliveries that have not ended: of one job, or of all."""
        query = select(func.count()).select_from(deliveries).where(deliveries.c.next_try_at_ms.is_not(None))
        if job_id is not None:
            query = query.where(deliveries.c.job_id == job_id)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()


def _log_of(ids: Sequence[str]) -> Any:
    wanted = delivery_attempts.c.delivery_id.in_(ids)
    return select(delivery_attempts).where(wanted).order_by(delivery_attempts.c.number)


def _delivery(row: Row[Any], log: Iterable[Row[Any]]) -> Delivery:
    tries = tuple(
        Try(
            number=line.number,
            at_ms=line.at_ms,
            duration_ms=line.duration_ms,
            status_code=line.status_code,
            error=line.error,
        )
        for line in log
        if line.delivery_id == row.id
    )
    return Delivery(**row._mapping, log=tries)
