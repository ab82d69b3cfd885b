"""Lines made right again: processes of an earlier version leave jobs without one, and counts as they were.

What matters is found by the index of lines alone: jobs in no line, lines that count jobs and have none, and lines that
have jobs and count none. A count that is merely wrong costs an estimate, and comes right when its line has run empty.
"""

from __future__ import annotations

from sqlalchemy import and_ as both
from sqlalchemy import exists, func, or_, select, update

from core.ledger.database.connections import Database
from core.ledger.database.line_counts import IS_QUEUED, write_counts
from core.ledger.database.tables import jobs, lines
from core.ledger.scheduling.lines import LineKind, Lines

#: Jobs that are put in line in one run of the reconciler.
BATCH = 500

_STRAY = select(jobs.c.id, jobs.c.priority, jobs.c.catalogues).where(IS_QUEUED, jobs.c.line.is_(None)).limit(BATCH)
_HAS_JOBS = exists().where(jobs.c.line == lines.c.id, IS_QUEUED).correlate(lines)
_WRONG = select(lines.c.id).where(or_(both(lines.c.waiting > 0, ~_HAS_JOBS), both(lines.c.waiting <= 0, _HAS_JOBS)))


class LineMender:
    """What the reconciler does for lines."""

    def __init__(self, database: Database, lines_: Lines) -> None:
        self._database = database
        self._lines = lines_

    def mend(self) -> int:
        """Put waiting jobs without a line into one, and count lines anew that are wrong; return how many there were."""
        with self._database.read() as connection:
            strays = connection.execute(_STRAY).all()
            wrong = list(connection.execute(_WRONG).scalars())
        for stray in strays:
            line_id = self._lines.id_of(LineKind(priority=stray.priority, catalogues=stray.catalogues))
            with self._database.write() as transaction:
                still = both(jobs.c.id == stray.id, IS_QUEUED, jobs.c.line.is_(None))
                if transaction.connection.execute(update(jobs).where(still).values(line=line_id)).rowcount:
                    transaction.joins_line(line_id)
        for line_id in wrong:
            self._recount(line_id)
        return len(strays) + len(wrong)

    def _recount(self, line_id: int) -> None:
        with self._database.write() as transaction:
            connection = transaction.connection
            # Locked first: whoever changes the count afterwards waits, and whoever did before can be seen.
            counted = connection.execute(
                select(lines.c.waiting).where(lines.c.id == line_id).with_for_update()
            ).scalar()
            if counted is None:
                return
            there = select(func.count()).select_from(jobs).where(jobs.c.line == line_id, IS_QUEUED)
            write_counts(connection, {line_id: connection.execute(there).scalar_one() - counted})
