"""What was used: entries are folded into the sums of their day, and read together with those that are not yet.

An entry is written with what it tells of, so none is missing and none is there twice. Folding takes entries away and
adds them to their day in one transaction: whoever is interrupted has changed nothing. A reader sees both in one
statement, and with that an entry on one side alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, select, tuple_, union_all
from sqlalchemy.dialects import postgresql, sqlite

from core.clock import DAY_MS, now_ms
from core.ledger.access.owned import is_owned
from core.ledger.database.access_tables import keys
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.usage_tables import AMOUNTS, OWNER, usage_days, usage_entries
from core.ledger.metrics.job_sums import count_entries
from core.ledger.usage.kept import kept_by_tenant
from core.records.access import ALL_TENANTS

#: Entries of one step of folding, and with that of one transaction.
FOLDED = 500

_KEY = (usage_entries.c.source, usage_entries.c.seq)


@dataclass(frozen=True, kw_only=True)
class UsageSum:
    """What was used by one group of a report, on one kind of GPU."""

    #: By the names of what was asked for, see `OWNER`; an empty text where there is none, the day as a number.
    group: tuple[Any, ...]
    #: Empty for what needed none.
    gpu: str
    #: By the names in `AMOUNTS`.
    amounts: dict[str, int]


class Usage:
    """The books of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sums(
        self, by: Sequence[str], *, since: int, until: int, of: str = ALL_TENANTS, limit: int | None = None
    ) -> list[UsageSum]:
        """Return what was used, by groups and within each by kind of GPU, in their order.

        Parameters:
          by: names in `OWNER`; none: one group.
          since, until: the first and the last day, counted from 1970 in UTC.
          of: the tenant whose books there are for who asks.
          limit: sums at most.
        """
        groups = [name for name in OWNER if name in by]
        named = [*groups, *(["gpu"] if "gpu" not in groups else [])]
        with self._database.read() as connection:
            rows = connection.execute(_grouped(named, since=since, until=until, of=of).limit(limit)).all()
        return [
            UsageSum(
                group=tuple(getattr(row, name) for name in by),
                gpu=row.gpu,
                amounts={name: int(getattr(row, name)) for name in AMOUNTS},
            )
            for row in rows
        ]

    def kept(self, *, of: str = ALL_TENANTS) -> dict[str, int]:
        """Return the bytes that tenants keep now, see `core.ledger.usage.kept`; those without any are left out."""
        with self._database.read() as connection:
            return kept_by_tenant(connection, of)

    def key_names(self, key_ids: Collection[str]) -> dict[str, str]:
        """Return the names of keys by their ids; keys that are gone are left out."""
        query = select(keys.c.id, keys.c.name).where(keys.c.id.in_(list(key_ids)))
        with self._database.read() as connection:
            return {row.id: row.name for row in connection.execute(query)}

    def fold(self, *, limit: int = FOLDED) -> int:
        """Fold the next entries into the sums of their days; returns how many. Several may do so at once."""
        # What others are folding is theirs.
        picked = select(*_KEY).order_by(*_KEY).limit(limit).with_for_update(skip_locked=True)
        with self._database.write() as transaction:
            gone = delete(usage_entries).where(tuple_(*_KEY).in_(picked)).returning(*usage_entries.columns)
            entries = transaction.connection.execute(gone).all()
            if entries:
                _add_up(transaction, entries)
                count_entries(transaction, entries)
        return len(entries)


def gpu_ms_ended_today(connection: Connection, *, of: str = ALL_TENANTS) -> dict[str, int]:
    """Return the milliseconds that attempts had GPUs which ended today (UTC) and were not lost, by tenant."""
    both = union_all(
        *(
            select(table.c.tenant, (table.c.run_ms + table.c.load_ms).label("used_ms")).where(
                table.c.day == now_ms() // DAY_MS, is_owned(table.c.tenant, of)
            )
            for table in (usage_days, usage_entries)
        )
    ).subquery()
    sums = select(both.c.tenant, func.sum(both.c.used_ms)).group_by(both.c.tenant)
    return {tenant: int(used_ms) for tenant, used_ms in connection.execute(sums) if used_ms}


def _grouped(named: Sequence[str], *, since: int, until: int, of: str) -> Select[Any]:
    columns = (*named, *AMOUNTS)
    both = union_all(
        *(
            select(*(table.c[name] for name in columns)).where(
                table.c.day.between(since, until), is_owned(table.c.tenant, of)
            )
            for table in (usage_days, usage_entries)
        )
    ).subquery()
    groups = [both.c[name] for name in named]
    sums = [func.sum(both.c[name]).label(name) for name in AMOUNTS]
    return select(*groups, *sums).group_by(*groups).order_by(*groups)


def _add_up(transaction: Transaction, entries: Iterable[Row[Any]]) -> None:
    sums: dict[tuple[Any, ...], Counter[str]] = {}
    for entry in entries:
        of_day = sums.setdefault(tuple(getattr(entry, name) for name in OWNER), Counter())
        for name in AMOUNTS:
            of_day[name] += getattr(entry, name)
    insert = sqlite.insert(usage_days) if transaction.is_sqlite else postgresql.insert(usage_days)
    add = insert.on_conflict_do_update(
        index_elements=[usage_days.c[name] for name in OWNER],
        set_={name: usage_days.c[name] + insert.excluded[name] for name in AMOUNTS},
    )
    # In one order everywhere: two that fold at once cannot block each other.
    rows = [
        {**dict(zip(OWNER, whose, strict=True)), **{name: sums[whose][name] for name in AMOUNTS}}
        for whose in sorted(sums)
    ]
    transaction.connection.execute(add, rows)
