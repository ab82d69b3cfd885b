"""Whose turn it is among tenants: those that used the fewest GPU seconds of late, for their weight.

What a tenant used decays, so that a week of nights does not make up for one busy hour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping

#: After so many seconds a used second counts half.
HALF_LIFE_S = 300.0


def decayed(used_s: float, passed_s: float) -> float:
    """Return what used GPU seconds count after some time; a clock that was set back changes nothing."""
    return used_s * math.pow(0.5, max(0.0, passed_s) / HALF_LIFE_S)


def by_turn(
    tenants: Collection[str], used_s: Mapping[str, float] | None, quantum_s: Callable[[], float]
) -> Iterator[Collection[str]]:
    """Yield the tenants whose turn it is, then the others; all at once where they take no turns.

    Parameters: see `in_turn`; without `used_s` they take no turns.
    """
    if used_s is None or len(tenants) < 2:
        yield tenants
        return
    first = in_turn(tenants, used_s, quantum_s())
    yield first
    if len(first) < len(tenants):
        yield [tenant for tenant in tenants if tenant not in first]


def in_turn(tenants: Collection[str], used_s: Mapping[str, float], quantum_s: float) -> frozenset[str]:
    """Return the tenants whose turn it is: within one quantum of the one that used least.

    Parameters:
      tenants: those that have jobs waiting.
      used_s: GPU seconds of late, divided by the tenant's weight; a tenant that is missing used none.
      quantum_s: the larger of one load and one job: affinity decides within this much unfairness.
    """
    if len(tenants) < 2:
        return frozenset(tenants)
    least_s = min(used_s.get(tenant, 0.0) for tenant in tenants)
    return frozenset(tenant for tenant in tenants if used_s.get(tenant, 0.0) <= least_s + quantum_s)
