"""Notices when the clock that the ledger goes by was set, and puts right what would otherwise wait for days.

Set ahead, it makes everything look old: for a while nothing is removed, nothing expires, and workers get the time to
renew their leases. Set back, it leaves times in the future, for which those who wait would wait as long: such times are
moved. A fleet that was switched off for a while cannot be told from a clock set ahead, and is treated likewise.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, case, cast, or_, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.fleet_tables import facts
from core.ledger.database.line_counts import IS_QUEUED, write_counts
from core.ledger.database.tables import deliveries, instances, jobs, lines
from core.ledger.facts import CLOCK, Facts
from core.records.job import DELIVERING, LEASED, QUEUED

log = logging.getLogger(__name__)

#: So far the clocks of io hosts may be apart, where each goes by its own.
APART_MS = 60_000
#: Nobody looked for so long: either the clock was set ahead, or nobody was there.
GAP_MS = 600_000
#: How often a look is written down.
NOTE_EVERY_MS = 60_000
#: The reconciler looks more often than that.
LATE_LOOK_MS = 10_000
#: Never set, as far as anybody knows.
NEVER_S = float("inf")


class Timekeeping:
    """The ledger's clock, watched by the reconciler."""

    def __init__(self, database: Database, known: Facts, *, lease_s: float) -> None:
        self._database = database
        self._facts = known
        self._lease_ms = int(lease_s * 1000)
        #: The ledger's time at the last look, and the monotonic one.
        self._seen: tuple[int, float] | None = None

    def look(self) -> float:
        """Look at the clock, every few seconds; returns how many seconds ago it was set, by its own account."""
        now, noted = now_ms(), self._facts.get(CLOCK)
        seen, self._seen = self._seen, (now, time.monotonic())
        if noted is None:
            self._facts.settle(CLOCK, _note(now, 0))
            return NEVER_S
        try:
            at, set_at = (int(part) for part in noted.split())
        except ValueError:
            # Not ours to read: as if the clock had just been set.
            at, set_at = 0, 0
        if not -APART_MS <= now - at <= GAP_MS:
            self._set(noted, now - at, now, exact_ms=_set_by_ms(now, at, seen))
            return 0.0
        if now - at > NOTE_EVERY_MS:
            with self._database.write() as transaction:
                _replace(transaction, noted, _note(now, set_at))
        return max(0.0, (now - set_at) / 1000) if set_at else NEVER_S

    def looked_s_ago(self) -> float | None:
        """Return how long ago the reconciler last noted its look, to a minute; None: it never did."""
        noted = self._facts.get(CLOCK)
        at = (noted or "").partition(" ")[0]
        return max(0.0, (now_ms() - int(at)) / 1000) if at.isdecimal() else None

    def ahead_s(self) -> float | None:
        """Return by how much this machine's clock is ahead of the database's; None on SQLite, which has none."""
        server_ms = self._database.server_ms()
        return None if server_ms is None else time.time() - server_ms / 1000

    def _set(self, noted: str, by_ms: int, now: int, *, exact_ms: int) -> None:
        """Put right what a clock has spoiled that was set.

        Parameters:
          by_ms: by how much, with the time since somebody looked last.
          exact_ms: without that time, where this process can tell.
        """
        with self._database.write() as transaction:
            # Only one of those who notice puts things right, or they would be moved twice.
            if not _replace(transaction, noted, _note(now, now)):
                return
            self._move_deadlines(transaction, exact_ms, now)
            if by_ms < 0:
                self._bring_back(transaction, by_ms, now)
                self._keep_order(transaction, exact_ms, now)
            else:
                self._give_time(transaction, by_ms)
            self._count_lines(transaction)
        log.warning("the ledger's clock was set by %.0f s, or nobody has looked at it for so long", by_ms / 1000)

    def _give_time(self, transaction: Transaction, by_ms: int) -> None:
        """A delivery has as long as it had before, to come about before it is given up."""
        later = {"generated_at_ms": jobs.c.generated_at_ms + by_ms}
        transaction.connection.execute(update(jobs).where(jobs.c.status == DELIVERING).values(later))

    def _bring_back(self, transaction: Transaction, by_ms: int, now: int) -> None:
        """Nothing that somebody waits for lies further in the future than it did."""
        connection = transaction.connection
        # Whoever lives says so within seconds. The dead must not look alive until the clock comes to it again.
        ahead = instances.c.heartbeat_at_ms > now
        connection.execute(update(instances).where(ahead).values(heartbeat_at_ms=now))
        until = now + self._lease_ms
        held = jobs.c.status.in_(sorted(LEASED))
        connection.execute(update(jobs).where(held, jobs.c.lease_until_ms > until).values(lease_until_ms=until))
        is_open = jobs.c.status.in_(sorted({*LEASED, QUEUED, DELIVERING}))
        for column in (jobs.c.updated_at_ms, jobs.c.generated_at_ms):
            connection.execute(update(jobs).where(is_open, column > now).values({column: now}))
        moved: Any = deliveries.c.next_try_at_ms + by_ms
        next_try = case((moved > now, moved), else_=now)
        connection.execute(update(deliveries).where(deliveries.c.next_try_at_ms > now).values(next_try_at_ms=next_try))

    def _keep_order(self, transaction: Transaction, by_ms: int, now: int) -> None:
        """Jobs that came before do not stand behind those that come from now on."""
        times = (jobs.c.created_at_ms, jobs.c.expires_at_ms, jobs.c.files_expire_at_ms)
        # A second more than that: so exact is it.
        earlier: dict[Any, Any] = {column: column + by_ms - 1000 for column in times}
        came_before = and_(jobs.c.status == QUEUED, _came_before(now))
        transaction.connection.execute(update(jobs).where(came_before).values(earlier))

    def _move_deadlines(self, transaction: Transaction, by_ms: int, now: int) -> None:
        """A job has as long to begin as it had before, and never longer than it asked for."""
        moved = jobs.c.start_by_ms + by_ms
        latest = now + cast(jobs.c.start_within_s * 1000, BigInteger)
        has_deadline = and_(IS_QUEUED, jobs.c.start_by_ms.is_not(None), _came_before(now))
        start_by = case((moved < latest, moved), else_=latest)
        transaction.connection.execute(update(jobs).where(has_deadline).values(start_by_ms=start_by))

    def _count_lines(self, transaction: Transaction) -> None:
        """What is known of lines follows their jobs."""
        waiting = transaction.connection.execute(select(lines.c.id).where(lines.c.waiting > 0)).scalars().all()
        write_counts(transaction.connection, dict.fromkeys(waiting, 0))


def _came_before(now: int) -> ColumnElement[bool]:
    """Return the condition that a job came by the clock as it was: those of the last moments came by the new one."""
    return or_(jobs.c.created_at_ms > now, jobs.c.created_at_ms < now - LATE_LOOK_MS)


def _set_by_ms(now: int, noted: int, seen: tuple[int, float] | None) -> int:
    """Return by how much the clock was set: to the second, if this process looked before."""
    if seen is not None:
        at, at_s = seen
        return now - at - int(time.monotonic() - at_s) * 1000
    return now - noted if noted else 0


def _note(at_ms: int, set_at_ms: int) -> str:
    return f"{at_ms} {set_at_ms}"


def _replace(transaction: Transaction, noted: str, note: str) -> bool:
    ours = update(facts).where(facts.c.name == CLOCK, facts.c.value == noted).values(value=note)
    return transaction.connection.execute(ours).rowcount > 0
