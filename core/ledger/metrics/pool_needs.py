"""What pools of GPUs want and what waits for them, as the reconciler saw it last: a scrape only reads what it noted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import Connection, select

from core.ledger.database.fleet_tables import facts
from core.ledger.scheduling.scaling_reader import FleetScale

#: The fact in which it is noted.
NEEDS: Final = "scaling.needs"
#: What is older is not told any more: nobody looks.
MAX_AGE_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class PoolNeeds:
    """One pool."""

    pool: str
    gpus_wanted: int
    replicas_wanted: int
    #: Seconds of work that wait: of jobs, and of the loads of models that they bring.
    run_s: float
    load_s: float
    #: How long the job that has waited longest has waited.
    oldest_s: float
    #: GPUs that are idle, and how long the longest has been.
    idle: int
    longest_idle_s: float


def needs_text(scale: FleetScale) -> str:
    """Return what is noted of all pools at one moment."""
    pools = [
        PoolNeeds(
            pool=name,
            gpus_wanted=pool.wanted.gpus,
            replicas_wanted=pool.replicas,
            run_s=round(pool.demand.run_s, 1),
            load_s=round(pool.demand.load_s, 1),
            oldest_s=round(pool.demand.oldest_s, 1),
            idle=pool.idle,
            longest_idle_s=round(pool.longest_idle_s, 1),
        )
        for name, pool in scale.pools.items()
    ]
    return json.dumps({"at_ms": scale.at_ms, "pools": [asdict(pool) for pool in pools]}, separators=(",", ":"))


def read_needs(connection: Connection, now: int) -> list[PoolNeeds]:
    """Return what was noted within the last minute; nothing where that is older, or another version's."""
    noted = connection.execute(select(facts.c.value).where(facts.c.name == NEEDS)).scalar()
    if now - noted_ms(noted) > MAX_AGE_MS:
        return []
    try:
        return [PoolNeeds(**pool) for pool in json.loads(noted or "")["pools"]]
    except (ValueError, TypeError, KeyError):
        return []


def noted_ms(text: str | None) -> int:
    """Return when this was noted; 0 where nothing was, or not by any version that we know."""
    try:
        return int(json.loads(text or "{}").get("at_ms", 0))
    except (ValueError, TypeError, AttributeError):
        return 0
