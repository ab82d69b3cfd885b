"""Which sorts of GPUs there are, for jobs that are kept off some of them: they wait for no GPU that is not there."""

from __future__ import annotations

from sqlalchemy import Connection, and_, bindparam, or_, select

from core.ledger.database.tables import instances
from core.ledger.durations import gpu_kind
from core.ledger.instances import HEALTHY, STARTING
from core.ledger.scheduling.reach import Sort

#: A GPU that was lost is counted on for so long: a worker that was killed is started again, with its ComfyUI.
AWAY_MS = 60_000

#: What makes instances alike for a line, for `sort_of`.
SORT_COLUMNS = (instances.c.catalogue, instances.c.pool, instances.c.vram_bytes, instances.c.device, instances.c.kind)
_STARTS_AGAIN = and_(instances.c.state == STARTING, instances.c.catalogue.is_not(None))
_SORTS = (
    select(*SORT_COLUMNS)
    .where(or_(instances.c.state == HEALTHY, _STARTS_AGAIN), instances.c.heartbeat_at_ms > bindparam("heard_since_ms"))
    .distinct()
)


def read_sorts(connection: Connection, now: int) -> frozenset[Sort]:
    """Return the sorts of the instances that take jobs, or did a minute ago and are expected to."""
    rows = connection.execute(_SORTS, {"heard_since_ms": now - AWAY_MS})
    return frozenset(sort_of(*row) for row in rows)


def sort_of(catalogue: str | None, pool: str | None, vram_bytes: int | None, device: str | None, kind: str) -> Sort:
    """Return the sort of an instance, from its `SORT_COLUMNS`."""
    return Sort(catalogue, pool, vram_bytes, gpu_kind(device, kind))
