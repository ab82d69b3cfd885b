"""Sessions of browsers: a key that was presented once, sealed with the fleet's keys into what a cookie can hold.

Nothing is recorded. A session is as good as its key: each request by it looks the key up as if it had been presented.
"""

from __future__ import annotations

import base64
import binascii

from core.clock import now_ms
from core.errors import ConfigurationError
from core.ledger.sealing import Sealer

#: What opens as a session was sealed as one.
_BOUND_TO = "browser session"


class BrowserSessions:
    """Seals keys for browsers to keep, and opens what they bring."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, secret: str, *, ends_at_ms: int) -> str:
        """Return a session of this key, in letters that a cookie may hold.

        Parameters:
          ends_at_ms: until when it is good, in milliseconds since 1970.
        """
        sealed = self._sealer.seal({"key": secret, "ends_at_ms": ends_at_ms}, bound_to=_BOUND_TO)
        return base64.urlsafe_b64encode(sealed).decode("ascii")

    def open(self, session: str) -> str | None:
        """Return the key of a session; None: it is over, or none of ours."""
        try:
            value = self._sealer.open(base64.urlsafe_b64decode(session.encode("ascii", "replace")), bound_to=_BOUND_TO)
        except (ConfigurationError, binascii.Error):
            return None
        return str(value["key"]) if value["ends_at_ms"] > now_ms() else None
