"""Counts of the lines of waiting jobs, written last in the transactions that move jobs.

Last, because a count is a row that many wait for: it is locked for the time of a commit only. In the order of their
ids, so that two transactions never wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, literal_column, select, update

from core.clock import now_ms
from core.ledger.database.tables import jobs, lines
from core.records.job import QUEUED

#: Spelled out: neither database matches a parameter with the condition of a partial index.
IS_QUEUED: Any = jobs.c.status == literal_column(f"'{QUEUED}'")

_OF_THE_LINE = (jobs.c.line == bindparam("line_id"), IS_QUEUED)
# The first of an order and not the least: for that PostgreSQL may read all that waits, by an index of another order. It
# plans so while the queue is short, and goes by that plan when it is long.
_HEAD = select(jobs.c.created_at_ms).where(*_OF_THE_LINE).order_by(jobs.c.created_at_ms).limit(1).scalar_subquery()
_DEADLINE = (
    select(jobs.c.start_by_ms)
    .where(*_OF_THE_LINE, jobs.c.start_by_ms.is_not(None))
    .order_by(jobs.c.start_by_ms)
    .limit(1)
    .scalar_subquery()
)
_COUNT = (
    update(lines)
    .where(lines.c.id == bindparam("line_id"))
    .values(
        waiting=lines.c.waiting + bindparam("delta"),
        head_ms=_HEAD,
        start_by_ms=_DEADLINE,
        updated_at_ms=bindparam("now"),
    )
)


def write_counts(connection: Connection, changes: Mapping[int, int]) -> None:
    """Add to the counts of lines, and see which job is at their head now.

    Parameters:
      changes: by line, how many more jobs stand in it.
    """
    for line_id in sorted(changes):
        connection.execute(_COUNT, {"line_id": line_id, "delta": changes[line_id], "now": now_ms()})
