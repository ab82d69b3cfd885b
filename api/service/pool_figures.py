"""What pools of GPUs have and want, for all that shows it: one look serves a process for a second, whoever asks."""

from __future__ import annotations

from api.http.cached import CachedValue
from api.http.time_limits import ledger_time_limit
from api.service.estimates import MAX_AGE_S, Estimates
from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.scheduling.scaling_reader import FleetScale, PoolScale


class PoolFigures:
    """The figures of one process."""

    def __init__(self, ledger: Ledger, estimates: Estimates) -> None:
        self._scale = CachedValue(lambda: ledger.scaling.read(estimates.outlook()), max_age_s=MAX_AGE_S)
        self._estimates = estimates

    def fleet(self) -> FleetScale:
        """Return all pools as they were about a second ago. Raises LedgerUnavailable."""
        with ledger_time_limit():
            return self._scale.get()

    def newest(self) -> FleetScale:
        """Return all pools as they are now. Raises LedgerUnavailable."""
        with ledger_time_limit():
            self._estimates.renew()
            self._scale.renew()
            return self._scale.get()


def pool_of(scale: FleetScale, name: str) -> PoolScale:
    """Return one pool. Raises NotFound."""
    if name in scale.pools:
        return scale.pools[name]
    known = ", ".join(scale.pools) or "none"
    raise NotFound(f"There is no pool {name} in this fleet, nor in COMFYLINE_AUTOSCALE_POOLS. Known: {known}.")
