"""Looks at the ledger that all websockets of a tenant share: a thousand that are idle cost what one does."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from api.contracts.comfyui.entries import ACTIVE, CLIENT_ID
from api.http.time_limits import ledger_time_limit
from core.clock import now_ms
from core.ledger import Ledger

#: A look goes back this much further than to the one before: what was recorded then may have become visible since.
OVERLAP_MS = 15_000


class Counts:
    """How many prompts of each tenant wait or run: counted once for all its connections."""

    def __init__(self, ledger: Ledger) -> None:
        self._pages = ledger.job_pages
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._known: dict[str, tuple[float, int]] = {}

    def of(self, tenant: str, *, since_s: float) -> int:
        """Return a tenant's count, as it was at that moment of the process's clock or later."""
        with self._locks[tenant]:
            known = self._known.get(tenant)
            if known is None or known[0] < since_s:
                began_s = time.monotonic()
                with ledger_time_limit():
                    known = began_s, self._pages.count(of=tenant, statuses=ACTIVE)
                self._known[tenant] = known
            return known[1]


@dataclass(frozen=True, kw_only=True)
class Look:
    """Which prompts of a tenant's clients there were at a moment."""

    #: When it was made, by the process's clock and by the wall's, and how far back it goes.
    at_s: float
    at_ms: int
    from_ms: int
    by_client: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def of(self, client_id: str) -> list[str]:
        """Return the ids of a client's jobs, the oldest first."""
        return self.by_client.get(client_id, [])


class NewPrompts:
    """What clients have submitted lately, for those that missed the notice."""

    def __init__(self, ledger: Ledger) -> None:
        self._pages = ledger.job_pages
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._known: dict[str, Look] = {}

    def since(self, tenant: str, since_ms: int, *, looked_since_s: float) -> Look:
        """Return what was submitted then or later, and a little before. Raises LedgerUnavailable.

        Parameters:
          looked_since_s: a look as old as that will do.
        """
        from_ms = since_ms - OVERLAP_MS
        with self._locks[tenant]:
            known = self._known.get(tenant)
            if known is None or known.at_s < looked_since_s or known.from_ms > from_ms:
                # A little more, so that it does for the others as well, who looked a little earlier.
                known = Look(at_s=time.monotonic(), at_ms=now_ms(), from_ms=from_ms - OVERLAP_MS)
                with ledger_time_limit():
                    found = self._pages.labelled(CLIENT_ID, of=tenant, from_ms=known.from_ms)
                for job_id, client_id in found.items():
                    known.by_client[client_id].append(job_id)
                self._known[tenant] = known
            return known
