"""What was counted: entries of transactions and processes are folded into sums, and sums are what a scrape reads.

An entry is a row of its own, so that nobody who counts waits for anybody else. Folding takes entries away and adds them
to the sums in one transaction. A scrape reads sums alone: it is a few seconds behind, never counts backwards, and costs
the same however much has been counted since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.clock import now_ms
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.error_map import Conflict
from core.ledger.database.metric_entries import write_amounts
from core.ledger.database.metric_tables import metric_entries, metric_processes, metric_sums

#: Entries of one step of folding.
FOLDED = 500
#: Nobody counts on a process that has said nothing for so long, for its reports are at most a minute apart; and its row
#: goes after the longer time.
SILENT_MS = 150_000
FORGET_MS = 600_000

_READ = select(metric_sums.c.sample, metric_sums.c.amount)


class MetricSums:
    """What the fleet has counted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, report_id: str, amounts: Mapping[str, float]) -> None:
        """Take what a process has counted; a report that has arrived already changes nothing."""
        with suppress(Conflict), self._database.write(is_timed=False) as transaction:
            write_amounts(transaction.connection, amounts, entry_id=report_id)

    def note_process(self, process_id: str, *, role: str, host: str, gauges: Mapping[str, float]) -> None:
        """Take how a process is now."""
        values: dict[str, Any] = {"gauges": dict(gauges), "at_ms": now_ms()}
        with suppress(Conflict), self._database.write(is_timed=False) as transaction:
            known = update(metric_processes).where(metric_processes.c.id == process_id).values(**values)
            if not transaction.connection.execute(known).rowcount:
                row = {"id": process_id, "role": role, "host": host, **values}
                transaction.connection.execute(metric_processes.insert(), row)

    def forget_process(self, process_id: str) -> None:
        """Forget a process that ends."""
        with self._database.write() as transaction:
            transaction.connection.execute(delete(metric_processes).where(metric_processes.c.id == process_id))

    def forget_silent(self) -> None:
        """Forget processes that ended without a word."""
        silent = metric_processes.c.at_ms < now_ms() - FORGET_MS
        with self._database.read() as connection:
            gone = connection.execute(select(metric_processes.c.id).where(silent)).scalars().all()
        if gone:
            with self._database.write() as transaction:
                transaction.connection.execute(delete(metric_processes).where(metric_processes.c.id.in_(gone), silent))

    def fold(self, *, limit: int = FOLDED) -> int:
        """Fold the next entries into the sums; returns how many. Several may do so at once."""
        # What others are folding is theirs.
        picked = (
            select(metric_entries.c.id).order_by(metric_entries.c.id).limit(limit).with_for_update(skip_locked=True)
        )
        with self._database.write() as transaction:
            gone = delete(metric_entries).where(metric_entries.c.id.in_(picked)).returning(metric_entries.c.amounts)
            entries = transaction.connection.execute(gone).scalars().all()
            amounts: Counter[str] = Counter()
            for entry in entries:
                amounts.update(entry)
            add_to_sums(transaction, amounts)
        return len(entries)

    def read(self) -> dict[str, float]:
        """Return every sum, by its sample."""
        with self._database.read() as connection:
            return read_sums(connection)


def read_sums(connection: Connection) -> dict[str, float]:
    """Return every sum, by its sample."""
    return dict(connection.execute(_READ).tuples().all())


def add_to_sums(transaction: Transaction, amounts: Mapping[str, float]) -> None:
    """Add amounts by sample; in one order everywhere, so that two that fold at once cannot block each other."""
    if not amounts:
        return
    insert = sqlite.insert(metric_sums) if transaction.is_sqlite else postgresql.insert(metric_sums)
    add = insert.on_conflict_do_update(
        index_elements=[metric_sums.c.sample], set_={"amount": metric_sums.c.amount + insert.excluded.amount}
    )
    rows = [{"sample": sample, "amount": float(amounts[sample])} for sample in sorted(amounts)]
    transaction.connection.execute(add, rows)
