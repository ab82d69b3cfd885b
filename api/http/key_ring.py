"""The keys that open the API, and what their tenants may have, as one process knows them.

Keys are those of the settings, and those in the ledger; what tenants may have is the fleet's default, or in the ledger.

All keys of the ledger are kept in memory, so no request waits for a look at one, and a wrong key costs no look at all.
Whether they have changed is asked twice a second at most, by the request that finds the answer old; a process that
cannot ask lets nobody in by a key of the ledger. So a revoked key is refused everywhere within a second, and a limit
holds within a second.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable

from api.http.time_limits import LEDGER_S, at_most
from core.background import Loop
from core.clock import now_ms
from core.errors import LedgerUnavailable
from core.ledger.access.keys import PREFIX, Keys, LiveKeys, digest_of
from core.records.access import OPERATOR, Caller
from core.records.tenant_limits import TenantLimits
from core.settings import Settings

#: How long a process trusts its look at the keys: with the look itself, less than a second.
LOOK_S = 0.5
#: Shortest time between two looks for a secret that is not known.
NEW_LOOK_S = 0.05
#: Longest look of an open server, whose requests have their own to make afterwards.
OPEN_LOOK_S = 0.3
#: By whom keys were used last is written this often.
USES_S = 5.0


class KeyRing:
    """The keys of one process. Its thread begins with the first use of a key of the ledger."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._digests = tuple(digest_of(key) for key in settings.api_keys)
        self._keys = keys
        self._live: LiveKeys | None = None
        self._looked_at_s = 0.0
        #: When a short look failed last.
        self._glanced_at_s = -LOOK_S
        self._looking = threading.Lock()
        self._failures = 0
        #: By key, when and by which address it was used last.
        self._uses: dict[str, tuple[int, str]] = {}
        self._defaults = settings.tenant_limits
        #: What tenants may have over the defaults, and the keys it was read with.
        self._in_force: tuple[LiveKeys | None, dict[str, TenantLimits]] = (None, {})
        self._written_at_s = 0.0
        self._writer = Loop("key uses", self._write_uses, pause_s=None)

    def is_open(self) -> bool:
        """Return whether nobody is asked for a key: there are none, and never were.

        Raises: LedgerUnavailable - that is not known.
        """
        return not self._digests and not self._current().has_any

    def was_open(self) -> bool:
        """Return the same as far as it is known now: a server that has never seen its ledger counts as open."""
        try:
            return self.is_open()
        except LedgerUnavailable:
            return self._live is None or not self._live.has_any

    def caller(self, secret: str, address: str) -> Caller | None:
        """Return whom a secret stands for, and note its use; None: nobody.

        Raises: LedgerUnavailable - it is no key of the settings, and others are not known now.
        """
        presented = digest_of(secret)
        # Every key is compared, and digests rather than keys: how long it takes says nothing about any of them.
        if sum(hmac.compare_digest(presented, digest) for digest in self._digests):
            return OPERATOR
        caller = self._current().callers.get(presented)
        if caller is None and secret.startswith(PREFIX):
            # It may have been made a moment ago.
            caller = self._anew().callers.get(presented)
        if caller is None or (caller.ends_at_ms is not None and caller.ends_at_ms <= now_ms()):
            return None
        self._note_use(caller, address)
        return caller

    def limits_of(self, tenant: str) -> TenantLimits:
        """Return what a tenant may have at most: numbers, and None for no limit.

        As it is known: nobody who needs no key of the ledger waits for it, or is refused, because of that.
        """
        live = self._live if time.monotonic() - self._looked_at_s < LOOK_S else self._glance()
        known, in_force = self._in_force
        if live is not known:
            own = {} if live is None else live.limits
            in_force = {name: limits.in_force(self._defaults) for name, limits in own.items()}
            self._in_force = live, in_force
        return in_force.get(tenant, self._defaults)

    def _current(self) -> LiveKeys:
        live = self._live
        if live is not None and time.monotonic() - self._looked_at_s < LOOK_S:
            return live
        if live is None or live.has_any:
            return self._looked_up(lambda: time.monotonic() - self._looked_at_s < LOOK_S)
        return self._glance() or live

    def _glance(self) -> LiveKeys | None:
        """Return what is known, after a short look: what one request may find out the others need not wait for."""
        if time.monotonic() - self._glanced_at_s >= LOOK_S and self._looking.acquire(blocking=False):
            try:
                return self._look(OPEN_LOOK_S)
            except LedgerUnavailable:
                self._glanced_at_s = time.monotonic()
            finally:
                self._looking.release()
        return self._live

    def _anew(self) -> LiveKeys:
        """Look now. Many who ask for that at once wait for one look: wrong secrets cost the ledger little."""
        begun_s = time.monotonic()
        time.sleep(max(0.0, self._looked_at_s + NEW_LOOK_S - begun_s))
        return self._looked_up(lambda: self._looked_at_s > begun_s)

    def _looked_up(self, is_fresh: Callable[[], bool]) -> LiveKeys:
        failures = self._failures
        with self._looking:
            if self._live is not None and is_fresh():
                return self._live
            if failures != self._failures:
                # Those before have waited all the time there is for that.
                raise LedgerUnavailable("The ledger does not answer.")
            try:
                return self._look(LEDGER_S)
            except LedgerUnavailable:
                self._failures += 1
                raise

    def _look(self, limit_s: float) -> LiveKeys:
        # What changes while we look is for the next time.
        begun_s = time.monotonic()
        with at_most(limit_s, LedgerUnavailable("The ledger does not answer.")):
            self._live = self._keys.live(self._live)
        self._looked_at_s = begun_s
        return self._live

    def _note_use(self, caller: Caller, address: str) -> None:
        if caller.key_id is None:
            return
        self._uses[caller.key_id] = now_ms(), address
        if time.monotonic() - self._written_at_s >= USES_S:
            self._written_at_s = time.monotonic()
            self._writer.start()
            self._writer.wake()

    def _write_uses(self) -> None:
        uses, self._uses = self._uses, {}
        self._keys.used(uses)
