"""What ComfyUI printed while jobs ran. It is its job's in all: owned by its tenant, kept as long, and gone with it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, bindparam, delete, insert, or_, select

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.access.owned import is_owned
from core.ledger.database.connections import Database, write_rows
from core.ledger.database.log_tables import job_logs
from core.ledger.database.tables import jobs
from core.records.access import ALL_TENANTS
from core.records.printed import PrintedLines, PrintedPiece

#: Pieces that one attempt may have: numbers of the next one begin after these.
PIECES = 1_000_000

_INSERT = insert(job_logs)
_THERE = select(jobs.c.id).where(jobs.c.id.in_(bindparam("these", expanding=True)))
_AFTER = (
    select(job_logs)
    .where(job_logs.c.job_id == bindparam("of_job"), job_logs.c.number > bindparam("after"))
    .order_by(job_logs.c.number)
)


class JobLogs:
    """Written by GPU workers, read by clients."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pieces: Sequence[PrintedPiece]) -> dict[str, int]:
        """Keep pieces of any jobs in one transaction; those of jobs that are gone are dropped.

        Of the attempts before, that of the last one stays.
        Returns: by job, the number of its newest piece.
        """
        now, numbers = now_ms(), {}
        with self._database.write() as transaction:
            connection = transaction.connection
            # Held until the commit, without being in the way of what changes the job: a job that is removed goes with
            # its pieces, or before them.
            there = connection.execute(
                _THERE.with_for_update(read=True, key_share=True), {"these": list({each.job_id for each in pieces})}
            )
            known = set(there.scalars())
            rows = []
            for each in pieces:
                if each.job_id not in known:
                    continue
                first = each.attempt * PIECES
                numbers[each.job_id] = first + each.place
                rows.append(_row(each, first + each.place, now))
                if stale := _stale(each, first):
                    connection.execute(delete(job_logs).where(job_logs.c.job_id == each.job_id, or_(*stale)))
            write_rows(connection, _INSERT, rows)
        return numbers

    def read(self, job_id: str, *, after: int = 0, of: str = ALL_TENANTS) -> PrintedLines | None:
        """Return what was printed after a piece of this number; None where there is nothing. Raises NotFound."""
        owned = select(jobs.c.attempt).where(jobs.c.id == job_id, is_owned(jobs.c.tenant, of))
        with self._database.read() as connection:
            attempt = connection.execute(owned).scalar()
            if attempt is None:
                raise NotFound(f"There is no job {job_id}.")
            rows = connection.execute(_AFTER, {"of_job": job_id, "after": after}).all()
        if not rows:
            return None
        newest = rows[-1]
        return PrintedLines(
            lines=tuple(line for row in rows for line in row.text.splitlines()),
            number=newest.number,
            is_cut=any(row.is_cut for row in rows),
            is_whole=newest.is_last and newest.attempt == attempt,
            at_ms=newest.at_ms,
        )


def _row(piece: PrintedPiece, number: int, now: int) -> dict[str, object]:
    text = "".join(f"{line}\n" for line in piece.lines)
    return {
        "job_id": piece.job_id,
        "number": number,
        "attempt": piece.attempt,
        "text": text,
        "size_bytes": len(text.encode()),
        "is_cut": piece.is_cut,
        "is_last": piece.is_last,
        "at_ms": now,
    }


def _stale(piece: PrintedPiece, first: int) -> list[ColumnElement[bool]]:
    stale: list[ColumnElement[bool]] = []
    if piece.drop_until:
        stale.append(and_(job_logs.c.number > first, job_logs.c.number <= first + piece.drop_until))
    if piece.place == 1 and piece.attempt > 2:
        stale.append(job_logs.c.number <= first - PIECES)
    return stale
