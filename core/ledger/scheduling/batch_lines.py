"""Leads the waiting jobs of a batch into lines of their own, from when it has a gate: it is paused, or limited.

Without a gate they stand with all others, so that many batches do not make many lines. Until all are led, a claim
passes over those that are not (`IS_GATED_BY_BATCH`). Whoever gives a batch its gate leads them at once; `is_led` of its
row says whether all have been, and while it does not, the reconciler goes on. A batch that lost its gate keeps its
lines until they have run empty: an open gate keeps nobody waiting.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sqlalchemy import and_, bindparam, select, update

from core.ledger.database.batch_tables import batches
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import jobs, lines
from core.ledger.scheduling.gates import HAS_GATE
from core.ledger.scheduling.lines import LineKind, Lines
from core.records.job import DELIVERING, LEASED, QUEUED

#: Jobs led in one transaction: others wait for it no longer than for a claim or two.
CHUNK = 500
#: How long whoever gives a batch its gate leads its jobs; 10,000 take less.
AT_ONCE_S = 2.0

#: Jobs that wait, or that may come back.
_MAY_WAIT = jobs.c.status.in_([QUEUED, *sorted(LEASED), DELIVERING])
_IS_ELSEWHERE = jobs.c.line.in_(select(lines.c.id).where(lines.c.batch != bindparam("of_batch")))
_GATED = select(batches.c.id).where(batches.c.id == bindparam("of_batch"), HAS_GATE)
_STRAY_LINES = (
    select(jobs.c.line)
    .where(jobs.c.batch == bindparam("of_batch"), _MAY_WAIT, _IS_ELSEWHERE, _GATED.exists())
    .distinct()
)
_NOT_LED = select(batches.c.id).where(~batches.c.is_led).order_by(batches.c.id)
_ALL_ARE_LED = update(batches).where(batches.c.id == bindparam("of_batch")).values(is_led=True)


class BatchLines:
    """What is done to the lines of batches."""

    def __init__(self, database: Database, known_lines: Lines) -> None:
        self._database = database
        self._lines = known_lines

    def lead(self, batch_id: str, *, time_limit_s: float = AT_ONCE_S) -> bool:
        """Lead the jobs of a batch that has a gate into its lines; returns whether all have been in that time.

        When they have been, no claim is under way that took one of them past the gate.

        Raises: LedgerUnavailable - some may have been led.
        """
        ends_at_s = time.monotonic() + time_limit_s
        while kinds := self._stray_kinds(batch_id):
            for line_id, kind in kinds.items():
                other = self._lines.id_of(replace(kind, batch=batch_id))
                while self._move_some(batch_id, line_id, other):
                    if time.monotonic() >= ends_at_s:
                        return False
        with self._database.write() as transaction:
            transaction.connection.execute(_ALL_ARE_LED, {"of_batch": batch_id})
        return True

    def lead_all(self, *, time_limit_s: float) -> int:
        """Lead what is left of all batches, for at most about so long; returns how many batches are done with."""
        ends_at_s = time.monotonic() + time_limit_s
        with self._database.read() as connection:
            left = list(connection.execute(_NOT_LED).scalars())
        done = 0
        for batch_id in left:
            done += self.lead(batch_id, time_limit_s=ends_at_s - time.monotonic())
            if time.monotonic() >= ends_at_s:
                break
        return done

    def _stray_kinds(self, batch_id: str) -> dict[int, LineKind]:
        """The lines of others in which jobs of a batch with a gate stand, by their ids."""
        with self._database.read() as connection:
            found = list(connection.execute(_STRAY_LINES, {"of_batch": batch_id}).scalars())
            return self._lines.kinds_of(connection, found)

    def _move_some(self, batch_id: str, line_id: int, other: int) -> int:
        """Lead some jobs of a batch from one line into another; returns how many that wait, 0 when all have been."""
        theirs = and_(jobs.c.batch == batch_id, jobs.c.line == line_id)
        waiting = select(jobs.c.id).where(theirs, IS_QUEUED).order_by(jobs.c.batch_index)
        with self._database.write() as transaction:
            free = waiting.limit(CHUNK).with_for_update(skip_locked=True)
            moved = _lead(transaction, list(transaction.connection.execute(free).scalars()), line_id, other)
            if moved:
                return moved
        # What others hold is waited for one by one: who waits for several may wait in a circle.
        with self._database.write() as transaction:
            held = list(transaction.connection.execute(waiting.limit(1)).scalars())
            if held:
                _lead(transaction, held, line_id, other)
                return 1
            back = and_(theirs, jobs.c.status.in_([*sorted(LEASED), DELIVERING]))
            transaction.connection.execute(update(jobs).where(back).values(line=other))
        return 0


def write_gate(transaction: Transaction, batch_id: str, **values: Any) -> None:
    """Change a batch's gate: `is_paused`, `max_running`. `BatchLines.lead` follows, once it is committed."""
    changed = update(batches).where(batches.c.id == batch_id).values(**values, is_led=False)
    transaction.connection.execute(changed)


def _lead(transaction: Transaction, job_ids: list[str], line_id: int, other: int) -> int:
    still = and_(jobs.c.id.in_(job_ids), IS_QUEUED, jobs.c.line == line_id)
    moved: int = transaction.connection.execute(update(jobs).where(still).values(line=other)).rowcount
    transaction.leaves_line(line_id, moved)
    transaction.joins_line(other, moved)
    return moved
