"""How many GPU seconds tenants used today, by UTC: what their limits of a day are compared with.

What has ended stands in the books of usage, under the day on which it ended. What runs now counts from midnight on.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, case, func, select

from core.clock import DAY_MS, now_ms
from core.ledger.access.owned import is_owned
from core.ledger.database.tables import jobs
from core.ledger.usage.report import gpu_ms_ended_today
from core.records.access import ALL_TENANTS
from core.records.job import LEASED


def gpu_seconds_today(connection: Connection, tenant: str) -> float:
    """Return what one tenant used since midnight, with what runs now."""
    return gpu_seconds_by_tenant(connection, of=tenant).get(tenant, 0.0)


def gpu_seconds_by_tenant(connection: Connection, *, of: str = ALL_TENANTS) -> Mapping[str, float]:
    """Return the same of each tenant that used some."""
    now = now_ms()
    midnight = now - now % DAY_MS
    since = case((jobs.c.started_at_ms < midnight, midnight), else_=jobs.c.started_at_ms)
    running = (
        select(jobs.c.tenant, func.sum(now - since))
        .where(jobs.c.status.in_(sorted(LEASED)), jobs.c.on_deck.is_(False), is_owned(jobs.c.tenant, of))
        .where(jobs.c.started_at_ms < now)
        .group_by(jobs.c.tenant)
    )
    used_ms = dict(gpu_ms_ended_today(connection, of=of))
    for tenant, running_ms in connection.execute(running):
        used_ms[tenant] = used_ms.get(tenant, 0) + int(running_ms)
    return {tenant: each_ms / 1000 for tenant, each_ms in used_ms.items()}


def day_ends_in_s() -> float:
    """Return how long it is until the sums begin anew."""
    return (DAY_MS - now_ms() % DAY_MS) / 1000
