"""The log of a job: its events, one row each; once it has ended a while ago, all of them in the last row.

Few logs are read after that, and five rows of a usual job, with their entries in the index, are two fifths of what it
takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.tables import events, jobs
from core.ledger.facts import Facts

#: A log is left as it is for so long after the end: streams that were cut off are resumed until then, also by API
#: processes of the version before, which know of no folded logs and see their last event alone.
REST_MS = 3600_000
#: Jobs of one step.
LOOKED_AT = 200
#: The fact that says how far logs are folded: by when their jobs are past their time, which is in the order of their
#: ends.
FOLDED_TO: Final = "events.folded_to"
#: In the data of a log's last row, the events before it, from number 1: [[type, data, ms before the last], ...].
#: A status is its data alone, and only its name where it has no other: [data, ms before the last].
BEFORE: Final = "before"
_STATUS: Final = "status"

_LOG = (
    select(events).where(events.c.job_id == bindparam("of"), events.c.seq > bindparam("after")).order_by(events.c.seq)
)
_LOGS = select(events).where(events.c.job_id.in_(bindparam("these", expanding=True)))
_LOGS = _LOGS.order_by(events.c.job_id, events.c.seq)
_NEXT = (
    select(jobs.c.id, jobs.c.completed_at_ms, jobs.c.expires_at_ms)
    .where(jobs.c.expires_at_ms > bindparam("after"))
    .order_by(jobs.c.expires_at_ms)
    .limit(LOOKED_AT)
)
_OF = events.c.job_id == bindparam("of")
_KEEP = update(events).where(_OF, events.c.seq == bindparam("last"))
_KEEP = _KEEP.values(data=bindparam("told", type_=events.c.data.type))
_DROP = delete(events).where(_OF, events.c.seq < bindparam("last"))


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One line of a job's log: `status` {"status", ...} or `output` {"asset_id"}."""

    seq: int
    type: str
    data: dict[str, Any]
    at_ms: int


def read_log(connection: Connection, job_id: str, *, after_seq: int, limit: int | None) -> list[JobEvent]:
    """Return the log of a job after an event number, oldest first."""
    query = _LOG if limit is None else _LOG.limit(limit)
    rows = connection.execute(query, {"of": job_id, "after": after_seq}).all()
    return [event for event in _unfolded(rows) if event.seq > after_seq][:limit]


def _unfolded(rows: Iterable[Row[Any]]) -> Iterator[JobEvent]:
    for row in rows:
        data = dict(row.data)
        for seq, (*kinds, told, before_ms) in enumerate(data.pop(BEFORE, ()), start=1):
            its_data = {"status": told} if isinstance(told, str) else told
            yield JobEvent(seq=seq, type=kinds[0] if kinds else _STATUS, data=its_data, at_ms=row.at_ms - before_ms)
        yield JobEvent(seq=row.seq, type=row.type, data=data, at_ms=row.at_ms)


class EventFolding:
    """Folds the logs of jobs that have ended. For one process at a time; two that do it do it twice, in vain."""

    def __init__(self, database: Database, known: Facts) -> None:
        self._database = database
        self._facts = known

    def fold(self) -> int:
        """Look at the next jobs, and fold the logs of those that ended long enough ago; returns how many it passed,
        0 where it came no further.

        The first time it is noted where to begin: what ended before stays as it is, and goes with its retention.
        """
        noted = self._facts.get(FOLDED_TO)
        if noted is None or not noted.isdecimal():
            self._facts.mark(FOLDED_TO, str(self._newest()))
            return 0
        before, due_ms = int(noted), now_ms() - REST_MS
        with self._database.read() as connection:
            found = connection.execute(_NEXT, {"after": before}).all()
        # Those that have not ended come again later, behind those that have.
        young = (place for place, row in enumerate(found) if (row.completed_at_ms or 0) > due_ms)
        passed = found[: next(young, len(found))]
        if not passed:
            return 0
        with self._database.write() as transaction:
            _fold(transaction, [row.id for row in passed if row.completed_at_ms is not None])
        reached = int(passed[-1].expires_at_ms)
        is_cut = len(passed) < len(found) and found[len(passed)].expires_at_ms == reached
        if is_cut or (len(passed) == LOOKED_AT and passed[0].expires_at_ms < reached):
            # There are more of this moment, or may be.
            reached -= 1
        self._facts.mark(FOLDED_TO, str(reached))
        return len(passed) if reached > before else 0

    def _newest(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute(select(func.max(jobs.c.expires_at_ms))).scalar() or now_ms())


def _short(row: Row[Any]) -> list[Any]:
    if row.type != _STATUS:
        return [row.type, row.data]
    return [row.data["status"] if row.data.keys() == {"status"} else row.data]


def _fold(transaction: Transaction, job_ids: Sequence[str]) -> None:
    if not job_ids:
        return
    rows = transaction.connection.execute(_LOGS, {"these": list(job_ids)}).all()
    logs = [(job_id, list(log)) for job_id, log in groupby(rows, key=lambda row: row.job_id)]
    # Whole ones, from the first event on: what is folded already has but one row.
    whole = [(job_id, log) for job_id, log in logs if [row.seq for row in log] == list(range(1, len(log) + 1))]
    folded = [
        {
            "of": job_id,
            "last": log[-1].seq,
            "told": {**log[-1].data, BEFORE: [[*_short(row), log[-1].at_ms - row.at_ms] for row in log[:-1]]},
        }
        for job_id, log in whole
        if len(log) > 1
    ]
    if folded:
        transaction.connection.execute(_KEEP, folded)
        transaction.connection.execute(_DROP, [{"of": each["of"], "last": each["last"]} for each in folded])
