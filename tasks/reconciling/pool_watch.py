"""Keeps what pools of GPUs needed of late, and has it told when one wants another number of them.

Metrics tell what was seen here last. Where no pool is scaled that is all it is for, and it is looked at less often.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Final

from core.background import in_background
from core.clock import now_ms
from core.ledger.metrics.pool_needs import NEEDS, needs_text, noted_ms
from core.ledger.scheduling.scaling_reader import FleetScale
from tasks.messaging.context import context_of
from tasks.reconciling.telling import NotTold, Teller
from tasks.runtime import Runtime

#: Between two looks of the fleet at pools that are not scaled.
UNSCALED_MS = 15_000
#: The fact that says which numbers were told last: `{pool: GPUs}` as JSON.
TOLD: Final = "scaling.told"
#: The type of the event that is told.
EVENT: Final = "pools.wanted"


def watch_pools(runtime: Runtime) -> None:
    """Note what each pool needs, and have told what has changed."""
    settings, facts = runtime.settings, runtime.ledger.facts
    is_scaled = bool(settings.autoscale_pools)
    # However the clock was set since.
    if not is_scaled and abs(now_ms() - noted_ms(facts.get(NEEDS))) < UNSCALED_MS:
        return
    scaling, outlook = runtime.ledger.scaling, runtime.ledger.outlook.read()
    scale = scaling.remember(outlook) if is_scaled else scaling.read(outlook)
    facts.mark(NEEDS, needs_text(scale))
    if not is_scaled:
        return
    if settings.autoscale_command or settings.autoscale_webhook_url:
        context = context_of(runtime.app)
        announcer = context.get(_Announcer)
        if announcer is None:
            announcer = _Announcer(runtime)
            context.hold(announcer)
        announcer.look(scale)


class _Announcer:
    """Tells of changes, one at a time, in a thread that nobody waits for. What was not told is told at a later look."""

    def __init__(self, runtime: Runtime) -> None:
        self._ledger = runtime.ledger
        self._scaled = frozenset(runtime.settings.scaling_rules.pools)
        self._teller = Teller(runtime.settings)
        self._is_telling = threading.Lock()

    def look(self, scale: FleetScale) -> None:
        """Have told what another number is wanted of than was told last. Raises LedgerUnavailable."""
        if self._is_telling.locked():
            return
        told = _read(self._ledger.facts.get(TOLD))
        now = {name: pool.wanted.gpus for name, pool in scale.pools.items() if name in self._scaled}
        if now != told:
            in_background("tell-pools", lambda: self._tell(now, _event(scale, told, now)))

    def _tell(self, now: Mapping[str, int], event: dict[str, Any]) -> None:
        if not self._is_telling.acquire(blocking=False):
            return
        try:
            self._teller.tell(event)
            self._ledger.facts.mark(TOLD, json.dumps(now))
        except NotTold:
            # It was logged; the next look tells what is wanted then.
            return
        finally:
            self._is_telling.release()


def _event(scale: FleetScale, told: Mapping[str, int], now: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": EVENT,
        "at_ms": scale.at_ms,
        "pools": [
            {
                "pool": name,
                "gpus_wanted": scale.pools[name].wanted.gpus,
                "replicas_wanted": scale.pools[name].replicas,
                "gpus_here": scale.pools[name].here,
                "before": told.get(name),
                "reason": scale.pools[name].wanted.reason,
            }
            for name in now
        ],
    }


def _read(text: str | None) -> dict[str, int]:
    try:
        return {str(name): int(gpus) for name, gpus in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}
