"""Lines made right again: processes of an earlier version leave jobs without one, and counts as they were.

What matters is found by the index of lines alone: jobs in no line, lines that count jobs and have none, and lines that
have jobs and count none. A count that is merely wrong costs an estimate, and comes right when its line has run empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import and_ as both
from sqlalchemy import exists, func, or_, select, update

from core.ledger.database.connections import Database
from core.ledger.database.line_counts import IS_QUEUED, write_counts
from core.ledger.database.tables import jobs, lines
from core.ledger.scheduling.lines import LineKind, Lines, line_tenant
from core.scheduling.lines import NO_MODELS

#: Jobs that are put in line in one run of the reconciler.
BATCH = 500

_STRAY = (
    select(jobs.c.id, jobs.c.tenant, jobs.c.priority, jobs.c.catalogues)
    .where(IS_QUEUED, jobs.c.line.is_(None))
    .limit(BATCH)
)
_HAS_JOBS = exists().where(jobs.c.line == lines.c.id, IS_QUEUED).correlate(lines)
_WRONG = select(lines.c.id).where(or_(both(lines.c.waiting > 0, ~_HAS_JOBS), both(lines.c.waiting <= 0, _HAS_JOBS)))
_WITHOUT_MODELS = select(lines.c.id).where(lines.c.models == NO_MODELS)

FilesOf: TypeAlias = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]


class LineMender:
    """What the reconciler does for lines."""

    def __init__(self, database: Database, lines_: Lines) -> None:
        self._database = database
        self._lines = lines_

    def mend(self, files_of: FilesOf = lambda _job_ids: {}) -> int:
        """Put waiting jobs without a line into one, and count lines anew that are wrong; return how many there were.

        Parameters:
          files_of: tells which model files the graphs of jobs load, by their ids; those that load none may be left out.
        """
        with self._database.read() as connection:
            strays = connection.execute(_STRAY).all()
            wrong = list(connection.execute(_WRONG).scalars())
        files = files_of([stray.id for stray in strays])
        for stray in strays:
            kind = LineKind(
                priority=stray.priority,
                tenant=line_tenant(stray.tenant),
                catalogues=stray.catalogues,
                files=tuple(files.get(stray.id, ())),
            )
            line_id = self._lines.id_of(kind)
            with self._database.write() as transaction:
                still = both(jobs.c.id == stray.id, IS_QUEUED, jobs.c.line.is_(None))
                if transaction.connection.execute(update(jobs).where(still).values(line=line_id)).rowcount:
                    transaction.joins_line(line_id)
        for line_id in wrong:
            self._recount(line_id)
        return len(strays) + len(wrong)

    def without_models(self, *, after: str, limit: int) -> list[str]:
        """Return the ids of waiting jobs in lines without model files, in their order; those after one of them."""
        query = select(jobs.c.id).where(IS_QUEUED, jobs.c.line.in_(_WITHOUT_MODELS), jobs.c.id > after)
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(jobs.c.id).limit(limit)).scalars())

    def lead(self, files: Mapping[str, Sequence[str]]) -> int:
        """Lead waiting jobs from lines without model files into those with theirs; return how many.

        Parameters:
          files: by the ids of the jobs.
        """
        query = select(jobs.c.id, jobs.c.line).where(jobs.c.id.in_(list(files)), jobs.c.line.in_(_WITHOUT_MODELS))
        with self._database.read() as connection:
            rows = connection.execute(query).all() if files else []
            kinds = self._lines.kinds_of(connection, {row.line for row in rows})
        moves: dict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
        for row in rows:
            moves[row.line, tuple(files[row.id])].append(row.id)
        return sum(
            self._move(job_ids, line_id, self._lines.id_of(replace(kinds[line_id], files=names)))
            for (line_id, names), job_ids in moves.items()
            if line_id in kinds
        )

    def _move(self, job_ids: Sequence[str], line_id: int, other: int) -> int:
        still = both(jobs.c.id.in_(job_ids), IS_QUEUED, jobs.c.line == line_id)
        with self._database.write() as transaction:
            moved = transaction.connection.execute(update(jobs).where(still).values(line=other)).rowcount
            transaction.leaves_line(line_id, moved)
            transaction.joins_line(other, moved)
        return moved

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
