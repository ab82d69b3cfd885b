"""The counts of lines, read again and again: on PostgreSQL no more than what was written since the last time.

PostgreSQL keeps with each row which transaction wrote it (`xmin`), and says of each look which transactions it may not
have seen: none before `pg_snapshot_xmin`. So the rows of those that came since are enough, be they a few more. A look
that sees writes of its own, which may never be committed, is no beginning for others.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Boolean, Connection, Text, select, text

from core.ledger.database.tables import lines

#: Id, jobs, when its head came, and the nearest deadline.
LineCount: TypeAlias = tuple[int, int, int | None, int | None]

#: After so long all is read, whatever the database says of its transactions: it may be another one by now.
ALL_AGAIN_S = 5.0

_ALL = select(lines.c.id, lines.c.waiting, lines.c.head_ms, lines.c.start_by_ms).where(lines.c.waiting > 0)
# One statement, for what is read and what is said of the look have to be of one snapshot.
_CHANGED = text(
    "SELECT looked.unseen_from, looked.has_written, lines.id, lines.waiting, lines.head_ms, lines.start_by_ms"
    " FROM (SELECT CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS unseen_from,"
    " pg_current_xact_id_if_assigned() IS NOT NULL AS has_written) AS looked"
    " LEFT JOIN lines ON CAST(:unseen_from AS TEXT) IS NULL AND lines.waiting > 0"
    " OR age(lines.xmin) <= age(CAST(CAST(:unseen_from AS xid8) AS xid))"
).columns(
    unseen_from=Text,
    has_written=Boolean,
    id=BigInteger,
    waiting=BigInteger,
    head_ms=BigInteger,
    start_by_ms=BigInteger,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Up to where lines have been read."""

    #: The first transaction whose writes may be unseen.
    unseen_from: str
    #: By the clock that never jumps: when all was read.
    began_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChanges:
    """What a look found."""

    counts: Collection[LineCount]
    #: Lines that are not among them have no jobs; else they are as they were at the mark.
    is_all: bool
    #: None: the next look has to read all.
    mark: Mark | None


def read_changes(connection: Connection, mark: Mark | None) -> LineChanges:
    """Read the lines that were written since a mark; all that have jobs where that is unknown, or long ago."""
    if connection.dialect.name != "postgresql":
        return LineChanges(counts=_tuples(connection, _ALL), is_all=True, mark=None)
    now_s = time.monotonic()
    if mark is not None and now_s - mark.began_s > ALL_AGAIN_S:
        mark = None
    rows = _tuples(connection, _CHANGED, unseen_from=None if mark is None else mark.unseen_from)
    unseen_from, has_written = rows[0][:2]
    began_s = now_s if mark is None else mark.began_s
    return LineChanges(
        counts=[row[2:] for row in rows if row[2] is not None],
        is_all=mark is None,
        mark=None if has_written else Mark(unseen_from=unseen_from, began_s=began_s),
    )


def _tuples(connection: Connection, query: Any, **values: Any) -> Sequence[tuple[Any, ...]]:
    """Return rows as the driver has them: SQLAlchemy's take longer to make than a thousand of these to read."""
    with connection.execute(query, values) as result:
        assert result.cursor is not None
        return result.cursor.fetchall()
