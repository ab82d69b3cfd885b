"""Whether a tenant has room for what it asks for: refused before anything is done for it, with when to ask again.

Far from a limit a look of a moment ago will do, so that a limit costs next to nothing. Near it the ledger is asked, and
asked once more in the transaction that records what was asked for.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from api.http.cached import CachedValue
from api.http.caller import caller, tenant_limits
from api.http.time_limits import ledger_time_limit
from api.service.estimates import Estimates
from core.clock import now_ms
from core.errors import LimitReached
from core.ledger import Ledger
from core.ledger.scheduling.lines import line_tenant
from core.ledger.scheduling.outlook import Outlook
from core.ledger.usage.gpu_seconds import day_ends_in_s
from core.ledger.usage.room import refuse_too_large, refuse_too_many
from core.records.tenant_limits import allows_nothing

T = TypeVar("T")

#: How long one process trusts its looks, in seconds.
WAITING_AGE_S, KEPT_AGE_S, GPU_AGE_S, EXPIRY_AGE_S = 0.25, 1.0, 2.0, 5.0
#: So near the limit each submission is checked in its transaction: more jobs than all processes of a fleet take in
#: while a look is trusted, and have under way.
NEAR = 1000
#: Jobs that a forecast is asked for, at most; for more of them it is drawn out.
FORESEEN = 500
#: When to try again where no GPU can run what waits, so that nobody can tell.
UNKNOWN_S: Final = 60


@dataclass
class _Waiting:
    """Waiting jobs at the last look, and those that this process has taken in since."""

    jobs: int


class TenantRoom:
    """What the tenants of one process's requests have, as far as it is limited."""

    def __init__(self, ledger: Ledger, estimates: Estimates) -> None:
        self._ledger = ledger
        self._estimates = estimates
        self._waiting: dict[str, CachedValue[_Waiting]] = {}
        self._kept: dict[str, CachedValue[int]] = {}
        self._gpu_s: dict[str, CachedValue[float]] = {}
        self._expiries: dict[str, CachedValue[int | None]] = {}

    def before_jobs(self, tenant: str, count: int = 1, *, counts: bool = True) -> int | None:
        """Refuse so many more jobs of a tenant where its limits leave no room for all of them.

        Parameters:
          counts: whether they are about to be recorded, and counted from now on.
        Returns: what their transaction has to hold the waiting jobs against, see `core.ledger.usage.room`; None:
          nothing, the limit is far.
        Raises: LimitReached, LedgerUnavailable.
        """
        limits = tenant_limits()
        if limits.max_gpu_s_per_day is not None:
            self._check_gpu_seconds(tenant, limits.max_gpu_s_per_day)
        if limits.max_kept_bytes is not None:
            # How much they will make nobody knows: there has to be some room.
            self._check_kept(tenant, 1, limits.max_kept_bytes)
        if limits.max_waiting is None:
            return None
        return self._check_waiting(tenant, count, limits.max_waiting, counts=counts)

    def before_keeping(self, tenant: str, size_bytes: int) -> None:
        """Refuse so many more bytes of a tenant where it may not keep them. Raises: LimitReached, LedgerUnavailable."""
        allowed = tenant_limits().max_kept_bytes
        if allowed is not None:
            self._check_kept(tenant, size_bytes, allowed)

    def told(self, error: LimitReached, tenant: str, count: int = 1) -> LimitReached:
        """Return a refusal by a transaction with the time after which the same may be taken; none where it never is.

        Parameters:
          count: how many jobs were refused, or bytes.
        """
        wait_s = None
        if count <= error.allowed:
            if error.limit == "max_waiting":
                wait_s = self._waiting_wait_s(tenant, int(error.used) + count - int(error.allowed))
            else:
                wait_s = self._expiry_wait_s(tenant)
        message, limit, allowed, used, _ = error.args
        if wait_s is None and limit == "max_waiting" and count <= allowed:
            message += " None of them will: max_running is 0, which an operator can change."
        return LimitReached(message, limit, allowed, used, wait_s)

    def _check_waiting(self, tenant: str, count: int, allowed: int, *, counts: bool) -> int | None:
        look = _of(self._waiting, tenant, lambda: _Waiting(self._ledger.room.waiting(tenant)), WAITING_AGE_S)
        waiting = look.get()
        if waiting.jobs + count + NEAR <= allowed:
            waiting.jobs += count if counts else 0
            return None
        if waiting.jobs + count > allowed:
            with ledger_time_limit():
                waiting.jobs = self._ledger.room.waiting(tenant)
            self._refused(lambda: refuse_too_many(waiting.jobs, count, allowed), tenant, count)
        waiting.jobs += count if counts else 0
        return allowed

    def _check_kept(self, tenant: str, size_bytes: int, allowed: int) -> None:
        look = _of(self._kept, tenant, lambda: self._ledger.room.kept_bytes(tenant), KEPT_AGE_S)
        if look.get() + size_bytes <= allowed:
            return
        with ledger_time_limit():
            kept_bytes = self._ledger.room.kept_bytes(tenant)
        self._refused(lambda: refuse_too_large(kept_bytes, size_bytes, allowed), tenant, size_bytes)

    def _check_gpu_seconds(self, tenant: str, allowed: float) -> None:
        look = _of(self._gpu_s, tenant, lambda: self._ledger.room.gpu_seconds_today(tenant), GPU_AGE_S)
        used_s = look.get()
        if used_s >= allowed:
            raise LimitReached(
                f"This tenant has used {used_s:.0f} GPU seconds of {allowed:g} that it may use in a day (UTC). What "
                "waits goes on; submit more when the day has turned."
                if allowed
                else allows_nothing("max_gpu_s_per_day", "use no GPU seconds"),
                "max_gpu_s_per_day",
                allowed,
                round(used_s, 3),
                math.ceil(day_ends_in_s()) if allowed else None,
            )

    def _refused(self, check: Callable[[], None], tenant: str, count: int) -> None:
        try:
            check()
        except LimitReached as exc:
            raise self.told(exc, tenant, count) from None

    def _waiting_wait_s(self, tenant: str, to_begin: int) -> int | None:
        """Return in how many seconds so many of a tenant's jobs will have begun; None: none of them ever does."""
        if tenant == caller().tenant and tenant_limits().max_running == 0:
            return None
        asked = min(to_begin, FORESEEN)
        starts_s = list(itertools.islice(_starts_s(self._estimates.outlook(), tenant), asked))
        if len(starts_s) < asked:
            # Some may have come since that look.
            with ledger_time_limit():
                self._estimates.look_at_moves()
            starts_s = list(itertools.islice(_starts_s(self._estimates.outlook(), tenant), asked))
        if not starts_s:
            return UNKNOWN_S
        return max(1, math.ceil(starts_s[-1] * to_begin / len(starts_s)))

    def _expiry_wait_s(self, tenant: str) -> int | None:
        look = _of(self._expiries, tenant, lambda: self._ledger.room.next_expiry_ms(tenant), EXPIRY_AGE_S)
        at_ms = look.get()
        return None if at_ms is None else max(1, math.ceil((at_ms - now_ms()) / 1000))


def _of(looks: dict[str, CachedValue[T]], tenant: str, load: Callable[[], T], age_s: float) -> CachedValue[T]:
    found = looks.get(tenant)
    if found is not None:
        return found

    def bounded() -> T:
        with ledger_time_limit():
            return load()

    return looks.setdefault(tenant, CachedValue(bounded, max_age_s=age_s))


def _starts_s(outlook: Outlook, tenant: str) -> Iterator[float]:
    """Yield in how many seconds jobs of a tenant are taken, in that order; those that no GPU takes are left out."""
    passed_s = max(0.0, (now_ms() - outlook.at_ms) / 1000)
    own = [line for line, kind in outlook.kinds.items() if kind.tenant == line_tenant(tenant)]

    def of_line(line_id: int) -> Iterator[float]:
        of = outlook.forecast.lines.get(line_id)
        for index in range(0 if of is None else of.line.waiting):
            place = outlook.place(line_id, index, passed_s=passed_s)
            if place.taken_in_s is None:
                return
            yield place.taken_in_s

    return heapq.merge(*(of_line(line_id) for line_id in own))
