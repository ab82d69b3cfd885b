"""What a transaction has to put down as used, written at its end in one statement; and whom it charges for turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from core.clock import DAY_MS, now_ms
from core.ledger.database.access_tables import tenants
from core.ledger.database.usage_tables import AMOUNTS, DURATIONS, usage_entries
from core.scheduling.shares import decayed

_RECORD = insert(usage_entries)
#: No lock on what refers to a tenant.
_USED = (
    select(tenants.c.used_s, tenants.c.used_at_ms)
    .where(tenants.c.name == bindparam("who"))
    .with_for_update(key_share=True)
)
_CHARGE = (
    update(tenants)
    .where(tenants.c.name == bindparam("who"))
    .values(used_s=bindparam("total_s"), used_at_ms=bindparam("now"))
)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """What something used is put down to; empty texts where there is none."""

    #: The job or file, and the number of its step.
    source: str
    seq: int
    tenant: str
    key_id: str = ""
    template: str = ""
    gpu: str = ""


class UsageBook:
    """The entries of one transaction: one for each job or file, whatever happens to it there."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Owner, Counter[str]]] = {}
        #: By source.
        self._durations: dict[str, dict[str, int]] = {}

    def add(self, owner: Owner, **amounts: int) -> None:
        """Add amounts, by the names in `AMOUNTS`; a correction is negative."""
        _, sums = self._entries.setdefault(owner.source, (owner, Counter()))
        for name, amount in amounts.items():
            sums[name] += amount

    def took(self, owner: Owner, **durations: int) -> None:
        """Note how long something took, by the names in `DURATIONS`."""
        self._entries.setdefault(owner.source, (owner, Counter()))
        # A clock that was set back makes nothing shorter than nothing.
        known = self._durations.setdefault(owner.source, {})
        known |= {name: max(0, each_ms) for name, each_ms in durations.items()}

    def write(self, connection: Connection) -> None:
        """Write the entries that say anything."""
        day = now_ms() // DAY_MS
        rows = [
            {
                **vars(owner),
                "day": day,
                **{name: sums[name] for name in AMOUNTS},
                **dict.fromkeys(DURATIONS),
                **self._durations.get(source, {}),
            }
            for source, (owner, sums) in self._entries.items()
            if any(sums.values()) or source in self._durations
        ]
        if rows:
            connection.execute(_RECORD, rows)


def write_charges(connection: Connection, charges: Mapping[str, float]) -> None:
    """Add GPU seconds to what tenants used of late, for their turns.

    Last in a transaction, for their rows stay locked until its end, and in the order of their names, so that two
    transactions never wait for each other.

    Parameters:
      charges: by tenant; negative where less was used than was charged.
    """
    now = now_ms()
    for tenant, seconds in sorted(charges.items()):
        who: dict[str, Any] = {"who": tenant}
        row = connection.execute(_USED, who).one_or_none()
        if row is not None and seconds:
            total_s = max(0.0, decayed(row.used_s, (now - row.used_at_ms) / 1000) + seconds)
            connection.execute(_CHARGE, {**who, "total_s": total_s, "now": now})
