"""What tenants may have, have, and have left: for them to see, and for operators."""

from __future__ import annotations

from dataclasses import dataclass

from api.http.request_counts import RequestCounts
from api.http.time_limits import ledger_time_limit
from core.ledger import Ledger
from core.records.tenant_limits import InUse, TenantLimits


@dataclass(frozen=True, kw_only=True)
class Level:
    """One limit of a tenant, and how it stands with it."""

    #: As set for the tenant, see `TenantLimits`.
    own: float | None
    #: As in force; None: no limit.
    allowed: float | None
    #: None: it is not counted, for it is not limited.
    used: float | None

    @property
    def left(self) -> float | None:
        """What it may still have; None: no end of it."""
        return None if self.allowed is None or self.used is None else max(0, self.allowed - self.used)


class TenantUse:
    """Tenants as one process sees them."""

    def __init__(self, ledger: Ledger, counts: RequestCounts) -> None:
        self._ledger = ledger
        self._counts = counts

    def in_use(self, *, of: str) -> dict[str, InUse]:
        """Return what tenants have, see `Room.in_use`. Raises LedgerUnavailable."""
        with ledger_time_limit():
            return self._ledger.room.in_use(of=of)

    def levels(self, tenant: str, own: TenantLimits, in_force: TenantLimits, has: InUse) -> dict[str, Level]:
        """Return how a tenant stands with each limit, by its name."""
        used: dict[str, float | None] = {
            "max_waiting": has.waiting,
            "max_running": has.running,
            "max_requests_per_minute": self._requests(tenant, in_force.max_requests_per_minute),
            "max_kept_bytes": has.kept_bytes,
            "max_gpu_s_per_day": round(has.gpu_s_today, 3),
        }
        set_for_it, allowed = own.numbers(), in_force.numbers()
        return {name: Level(own=set_for_it[name], allowed=allowed[name], used=used[name]) for name in used}

    def _requests(self, tenant: str, allowed: int | None) -> int | None:
        return None if allowed is None else allowed - self._counts.standing(tenant, allowed).left
