"""What kombu does with messages that are not acknowledged when a connection to Redis is lost, made harmless.

It gives them back through that connection. Where that was closed a moment earlier it stumbles over an attribute that is
None, and Celery takes the AttributeError for the worker's end (kombu 5.7). For us such a message is worth nothing: the
ledger knows what waits, and the reconciler publishes it again.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis, virtual
from redis.exceptions import RedisError, ResponseError

from core.messaging.broker_guard import DATA_ERRORS, MalformedMessage
from tasks.messaging.wrong_keys import is_wrong_type, mend_keys, said

log = logging.getLogger(__name__)


_NONE: tuple[type[Exception], ...] = (MalformedMessage, *DATA_ERRORS)


class CalmQoS(redis.QoS):
    """Kombu's own, but for the end of a channel, for a server that refuses commands, and for what is no message."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note that a message was delivered. Where the server does not let us, it is worked on all the same."""
        try:
            super().append(message, delivery_tag)
        except ResponseError as exc:
            self._say_refused(exc)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: Any) -> None:
        """Note that a message was worked on."""
        try:
            super().ack(delivery_tag)
        except ResponseError as exc:
            self._say_refused(exc)
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Drop a message, or give it back."""
        try:
            super().reject(delivery_tag, requeue)
        except ResponseError as exc:
            self._say_refused(exc)
            virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        """Give back what was delivered long ago."""
        try:
            super().restore_visible(*arguments, **options)
        except ResponseError as exc:
            self._say_refused(exc)

    def _say_refused(self, exc: ResponseError) -> None:
        log.warning("the broker takes no note of a message: %s", said(exc))
        if is_wrong_type(exc):
            mend_keys(self.channel)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give one message back; what is none is dropped, so that those behind it have their turn."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except ResponseError:
            raise
        except _NONE as exc:
            log.warning(
                "what was not acknowledged is no message, and is dropped (%s)",
                exc if isinstance(exc, MalformedMessage) else type(exc).__name__,
            )
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]

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
