"""Limits over their defaults: what is set for a tenant wins, also where that is none at all."""

from __future__ import annotations

from core.ledger.database.access_tables import tenants
from core.records.tenant_limits import LIMITS, NO_LIMITS, UNLIMITED, TenantLimits
from core.settings import Settings


def test_what_is_set_wins_over_the_default() -> None:
    defaults = TenantLimits(max_waiting=10, max_kept_bytes=100, max_gpu_s_per_day=1.5)
    own = TenantLimits(max_waiting=UNLIMITED, max_kept_bytes=0, max_running=3)

    assert own.in_force(defaults) == TenantLimits(max_kept_bytes=0, max_running=3, max_gpu_s_per_day=1.5)
    assert NO_LIMITS.in_force(defaults) == defaults
    assert NO_LIMITS.in_force(NO_LIMITS) == NO_LIMITS


def test_a_limit_has_one_name_everywhere() -> None:
    assert set(LIMITS) == {column.name for column in tenants.c if column.name.startswith("max_")}
    fields = {name for name in Settings.model_fields if name.startswith("tenant_")}
    assert fields == {f"tenant_{name}" for name in LIMITS}
