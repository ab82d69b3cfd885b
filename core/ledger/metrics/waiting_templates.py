"""How many jobs wait of each template, as the reconciler counted them last: a scrape reads no job that waits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.fleet_tables import facts
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import jobs
from core.ledger.facts import Facts

#: The fact: {"at_ms": ..., "templates": {template: jobs}}.
FACT: Final = "metrics.waiting_templates"
#: Between two counts of the fleet; what is older than four times that is not told any more: nobody counts.
EVERY_MS = 15_000
#: As many of them are noted, the ones with the most jobs.
MOST = 500

_HAS_TEMPLATE = jobs.c.workflow.is_not(None)
_COUNT = select(jobs.c.workflow, func.count()).where(IS_QUEUED, _HAS_TEMPLATE).group_by(jobs.c.workflow)


@dataclass(frozen=True, kw_only=True)
class _Noted:
    at_ms: int = 0
    templates: Mapping[str, int]


class WaitingTemplates:
    """Counts them, for whoever scrapes."""

    def __init__(self, database: Database, known: Facts) -> None:
        self._database = database
        self._facts = known

    def count(self) -> bool:
        """Count them, and write it down; returns False where somebody has done so a moment ago."""
        with self._database.read() as connection:
            # However the clock was set since.
            if abs(now_ms() - _noted(connection).at_ms) < EVERY_MS:
                return False
            found = {template: int(count) for template, count in connection.execute(_COUNT)}
        largest = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MOST]
        self._facts.mark(FACT, json.dumps({"at_ms": now_ms(), "templates": dict(largest)}, separators=(",", ":")))
        return True


def read_waiting_templates(connection: Connection, now: int) -> Mapping[str, int] | None:
    """Return what was counted last, by template, of those that have one; None where that is older than a minute."""
    noted = _noted(connection)
    return noted.templates if now - noted.at_ms <= 4 * EVERY_MS else None


def _noted(connection: Connection) -> _Noted:
    text = connection.execute(select(facts.c.value).where(facts.c.name == FACT)).scalar()
    try:
        found = json.loads(text or "{}")
        return _Noted(
            at_ms=int(found["at_ms"]), templates={str(name): int(n) for name, n in found["templates"].items()}
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return _Noted(templates={})
