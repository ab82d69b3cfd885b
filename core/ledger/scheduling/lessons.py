"""What running out of memory teaches: a shape is kept off a kind of GPU, as long as GPUs of another kind can run it.

Its jobs stand in lines of their own, which say what they are kept off (`LineKind.avoids`), so that a claim looks at
lines as ever. Who submits goes by what its process read a moment ago. Those that wait are led over when the lesson is
learned, and the reconciler sees to those that were missed. A lesson ends after a week, or with a run that disproves it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import and_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.learned_tables import lessons
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import instances, jobs, lines
from core.ledger.durations import gpu_kind
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.presence import read_sorts
from core.ledger.scheduling.reach import Outgrown, Sort
from core.records.job import LEASED

#: A lesson counts for so long; its row stays for longer, so that those that wait are led back.
COUNTS_MS, KEPT_MS = 7 * 24 * 3600 * 1000, 8 * 24 * 3600 * 1000
#: Rows kept, those learned last.
KEPT = 1_000
#: How long a process goes by what it has read.
KNOWN_S = 1.0
#: Jobs led into another line in one transaction.
BATCH = 500
#: Code of the loss of a job that ran out of memory.
OUT_OF_MEMORY = "out_of_memory"

_ALL = select(lessons).order_by(lessons.c.learned_at_ms.desc()).limit(KEPT)
_ATTEMPT = select(jobs.c.shape, jobs.c.line, instances.c.device, instances.c.kind, instances.c.vram_bytes)
_ATTEMPT = _ATTEMPT.join_from(jobs, instances, jobs.c.instance == instances.c.name).where(
    jobs.c.id == bindparam("job"), jobs.c.attempt == bindparam("attempt"), jobs.c.status.in_(sorted(LEASED))
)
_IS_ITS = jobs.c.shape == bindparam("wanted")
_LINES_WITH = select(lines.c.id).where(
    lines.c.waiting > 0,
    select(jobs.c.id).where(jobs.c.line == lines.c.id, IS_QUEUED, _IS_ITS).correlate(lines).exists(),
)
_LINES_OF_CLAIMED = select(jobs.c.line).where(jobs.c.status.in_(sorted(LEASED)), _IS_ITS, jobs.c.line.is_not(None))


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The lessons of one moment."""

    #: By shape, those that count; none where all have ended.
    by_shape: Mapping[str, tuple[Outgrown, ...]]
    #: Of the GPUs that there are; not read where nothing is known.
    sorts: frozenset[Sort]

    def have_another(self, avoids: Collection[Outgrown]) -> bool:
        """Whether there are GPUs that jobs are not kept off."""
        return any(not any(each.is_no_smaller_than(sort) for each in avoids) for sort in self.sorts)


class Lessons:
    """The lessons of a fleet, as one process knows them."""

    def __init__(self, database: Database, known_lines: Lines) -> None:
        self._database = database
        self._lines = known_lines
        self._known = _Known(by_shape={}, sorts=frozenset())
        self._read_at_s = float("-inf")

    def avoided_by(self, shape: str | None) -> tuple[Outgrown, ...]:
        """Return what new jobs of a shape are kept off: nothing where there are no other GPUs.

        Raises: LedgerUnavailable.
        """
        if time.monotonic() - self._read_at_s >= KNOWN_S:
            self._read()
        avoids = self._known.by_shape.get(shape or "", ())
        return avoids if avoids and self._known.have_another(avoids) else ()

    def learn(self, job_id: str, attempt: int) -> bool:
        """Learn that an attempt ran out of memory; it may be told more than once.

        The job itself, and a batch of those of its shape that wait, stand in the lines of other GPUs then.

        Returns: whether there are other GPUs, of a kind on which its shape did not run out of memory, that can run it.
        """
        with self._database.read() as connection:
            found = connection.execute(_ATTEMPT, {"job": job_id, "attempt": attempt}).one_or_none()
            kind = None if found is None or found.line is None else self._lines.kind_of(connection, found.line)
        if found is None or found.shape is None:
            return False
        self._write(found.shape, Outgrown(gpu_kind(found.device, found.kind), found.vram_bytes))
        known = self._read()
        avoids = known.by_shape.get(found.shape, ())
        if kind is None or not known.have_another(avoids):
            return False
        self.lead(found.shape, avoids, first=found.line)
        there = replace(kind, avoids=avoids)
        return any(there.suits(sort) for sort in known.sorts)

    def refute(self, shape: str | None, gpu: str) -> None:
        """Note that a job of a shape has run on a kind of GPU; costs nothing where there is no lesson.

        Raises: LedgerUnavailable.
        """
        if shape is None or not self._is_known(shape, gpu):
            return
        which = and_(lessons.c.shape == shape, lessons.c.gpu == gpu, lessons.c.refuted_at_ms.is_(None))
        with self._database.write() as transaction:
            transaction.connection.execute(update(lessons).where(which).values(refuted_at_ms=now_ms()))
        self._read()

    def wanted(self) -> dict[str, tuple[Outgrown, ...]]:
        """Return what the jobs of each shape are to be kept off, as it is now.

        Left out are shapes that there are no other GPUs for: where their jobs wait they may run on any.
        """
        known = self._read()
        return {shape: avoids for shape, avoids in known.by_shape.items() if not avoids or known.have_another(avoids)}

    def lead(self, shape: str, avoids: tuple[Outgrown, ...], *, first: int | None = None) -> int:
        """Lead jobs of a shape into lines that are kept off this and nothing else; returns how many, a batch at most.

        Those that GPUs have now stand there when they come back. What ran out of memory itself is led to no fewer.

        Parameters:
          first: the line that it is begun with.
        """
        wanted = {"wanted": shape}
        with self._database.read() as connection:
            found = {row.id for row in connection.execute(_LINES_WITH, wanted)}
            found.update(connection.execute(_LINES_OF_CLAIMED, wanted).scalars())
            kinds = self._lines.kinds_of(connection, found)
        moved = 0
        for line_id in sorted(kinds, key=lambda line_id: (line_id != first, line_id)):
            kind = kinds[line_id]
            if kind.avoids != avoids and moved < BATCH:
                is_back = not set(kind.avoids) <= set(avoids)
                other = self._lines.id_of(replace(kind, avoids=avoids))
                moved += self._move(shape, line_id, other, BATCH - moved, is_back=is_back)
        return moved

    def forget(self) -> None:
        """Remove what was learned long ago, and the oldest of more than `KEPT`."""
        beyond = select(lessons.c.learned_at_ms).order_by(lessons.c.learned_at_ms.desc()).offset(KEPT).limit(1)
        with self._database.read() as connection:
            oldest_ms = connection.execute(select(func.min(lessons.c.learned_at_ms))).scalar()
            limit_ms = max(now_ms() - KEPT_MS, connection.execute(beyond).scalar() or 0)
        if oldest_ms is not None and oldest_ms <= limit_ms:
            with self._database.write() as transaction:
                transaction.connection.execute(delete(lessons).where(lessons.c.learned_at_ms <= limit_ms))

    def _is_known(self, shape: str, gpu: str) -> bool:
        if time.monotonic() - self._read_at_s >= KNOWN_S:
            self._read()
        return any(each.gpu == gpu for each in self._known.by_shape.get(shape, ()))

    def _read(self) -> _Known:
        now = now_ms()
        with self._database.read() as connection:
            rows = connection.execute(_ALL).all()
            sorts = read_sorts(connection, now) if rows else frozenset()
        by_shape: dict[str, tuple[Outgrown, ...]] = {}
        for row in sorted(rows, key=lambda row: (row.shape, row.gpu)):
            counts = row.refuted_at_ms is None and row.learned_at_ms > now - COUNTS_MS
            before = by_shape.get(row.shape, ())
            by_shape[row.shape] = (*before, Outgrown(row.gpu, row.vram_bytes)) if counts else before
        self._known, self._read_at_s = _Known(by_shape=by_shape, sorts=sorts), time.monotonic()
        return self._known

    def _write(self, shape: str, on: Outgrown) -> None:
        values = {"vram_bytes": on.vram_bytes, "learned_at_ms": now_ms(), "refuted_at_ms": None}
        with self._database.write() as transaction:
            insert = sqlite.insert(lessons) if transaction.is_sqlite else postgresql.insert(lessons)
            row = insert.values(shape=shape, gpu=on.gpu, **values)
            again = row.on_conflict_do_update(index_elements=[lessons.c.shape, lessons.c.gpu], set_=values)
            transaction.connection.execute(again)

    def _move(self, shape: str, line_id: int, other: int, limit: int, *, is_back: bool) -> int:
        stands = and_(jobs.c.line == line_id, jobs.c.shape == shape)
        if is_back:
            stands = and_(stands, or_(jobs.c.lost_code.is_(None), jobs.c.lost_code != OUT_OF_MEMORY))
        waits = and_(stands, IS_QUEUED)
        which = (
            select(jobs.c.id).where(waits).order_by(jobs.c.created_at_ms).limit(limit).with_for_update(skip_locked=True)
        )
        with self._database.write() as transaction:
            connection = transaction.connection
            job_ids = connection.execute(which).scalars().all()
            moved = connection.execute(update(jobs).where(jobs.c.id.in_(job_ids), waits).values(line=other)).rowcount
            transaction.leaves_line(line_id, moved)
            transaction.joins_line(other, moved)
            connection.execute(update(jobs).where(stands, jobs.c.status.in_(sorted(LEASED))).values(line=other))
        return moved
