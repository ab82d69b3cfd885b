"""On which machines processes of the fleet run: each says so now and then, and looks who else does.

A database and a broker at 127.0.0.1 may be the ends of a tunnel. So whether a fleet is one machine is not told by where
its parts are reached alone: a process on another machine, or in another network namespace of this one, has a loopback
of its own. The same machine has another id after each boot, so what was said before this one's boot may be its own.
"""

from __future__ import annotations

from sqlalchemy import delete, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.fleet_tables import facts
from core.ledger.facts import Facts
from core.machine import loopback_id, seconds_since_boot

#: Begins the names of the facts; the id of a machine follows.
PREFIX = "machine:"
#: What was said is good for so long.
HOLDS_MS = 300_000


class Machines:
    """The machines of a fleet, seen from this one."""

    def __init__(self, database: Database, known: Facts, *, here: str | None = None) -> None:
        """Parameters: here - the id of this machine, for tests."""
        self._database = database
        self._facts = known
        self._here = loopback_id() if here is None else here

    def note(self) -> None:
        """Say that a process of the fleet runs here, and forget who has been silent for long. Raises LedgerUnavailable.

        Where the machine has no id nobody could tell it from others, and nothing is said.
        """
        if not self._here:
            return
        self._facts.mark(PREFIX + self._here, str(now_ms()))
        silent = [name for name, at_ms in self._said() if at_ms < now_ms() - HOLDS_MS]
        if silent:
            with self._database.write() as transaction:
                transaction.connection.execute(delete(facts).where(facts.c.name.in_(silent)))

    def others(self) -> int:
        """Return on how many other machines processes of the fleet run. Raises LedgerUnavailable."""
        booted_ms = now_ms() - int(seconds_since_boot() * 1000)
        since_ms = max(booted_ms, now_ms() - HOLDS_MS)
        return sum(at_ms > since_ms for name, at_ms in self._said() if name != PREFIX + self._here)

    def _said(self) -> list[tuple[str, int]]:
        """Who said so, and when."""
        query = select(facts.c.name, facts.c.value).where(facts.c.name.startswith(PREFIX, autoescape=True))
        with self._database.read() as connection:
            return [(name, int(value)) for name, value in connection.execute(query).all() if value.isdecimal()]
