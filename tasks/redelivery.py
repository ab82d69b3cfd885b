"""What kombu does with messages that are not acknowledged when a connection to Redis is lost, made harmless.

It gives them back through that connection. Where that was closed a moment earlier it stumbles over an attribute that is
None, and Celery takes the AttributeError for the worker's end (kombu 5.7). For us such a message is worth nothing: the
ledger knows what waits, and the reconciler publishes it again.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


class CalmQoS(redis.QoS):
    """Kombu's own, but for the end of a channel."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give messages back, or leave them; never raises."""
        try:
            super().restore_unacked_once(stderr)
        except (AttributeError, OSError, RedisError) as exc:
            left: dict[str, Any] = self._delivered or {}
            log.warning("%d messages were not given back to the broker: %s", len(left), exc)
            # Otherwise the next close of this channel would raise again.
            left.clear()


def install() -> None:
    """Have every channel that is opened from here on use it."""
    redis.Channel.QoS = CalmQoS
