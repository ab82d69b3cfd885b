"""How our workers read from the broker: Celery's way, behind a door that only messages of ours pass.

What is refused is rejected, which RabbitMQ dead-letters where a policy of the operator's says so, and else drops; Redis
has no such place. The log has one line for each, without the body.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import celery.worker.pidbox
from celery.worker.consumer import Consumer
from kombu import Message
from redis.exceptions import RedisError, ResponseError

from core.messaging.broker_guard import DATA_ERRORS
from tasks.messaging.context import context_of
from tasks.messaging.inbound import TASKS_OF, Refused, admit, admit_command
from tasks.messaging.wrong_keys import is_wrong_type, mend_keys, said

log = logging.getLogger(__name__)

#: A connection that fails so soon after another one is not followed by the next at once.
SOON_S = 5.0
REST_S = 1.0


class ComfylineConsumer(Consumer):
    """Celery's consumer, which messages of others do not end."""

    # What the stubs leave out.
    app: Any
    strategies: dict[str, Any]
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    _failed_at_s = float("-inf")

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*arguments, **options)

        def on_task_received(message: Message) -> None:
            try:
                admit(message, lambda task: task in TASKS_OF[context_of(self.app).role] and task in self.strategies)
            except Refused as exc:
                self._refuse(message, str(exc))
            else:
                handle(message)

        return on_task_received

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Refuse a message that could not be unpacked."""
        self._refuse(message, f"it cannot be unpacked ({type(exc).__name__})")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Rest after a connection that could not be made; Celery tries again."""
        super().on_connection_error_before_connected(self._mended(exc))
        self._rest()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Replace a connection that is of no use any more."""
        super().on_connection_error_after_connected(self._mended(exc))
        self._rest()

    def _mended(self, exc: Exception) -> Exception:
        """After a Redis has refused a command: what to log, once the next one may be otherwise."""
        if not isinstance(exc, ResponseError):
            return exc
        if is_wrong_type(exc) and self.connection:
            self._mend_keys()
        return type(exc)(said(exc))

    def _rest(self) -> None:
        """Pause, so that a broker that takes connections and refuses requests is not asked without an end."""
        if time.monotonic() - self._failed_at_s < SOON_S:
            time.sleep(REST_S)
        self._failed_at_s = time.monotonic()

    def _mend_keys(self) -> None:
        queues = self.app.amqp.queues
        exchanges = {queue.exchange.name for queue in queues.values() if queue.exchange}
        try:
            channel = self.connection.default_channel
        except (OSError, RedisError) as exc:
            log.warning("keys of the wrong type cannot be set aside: %s", exc)
        else:
            mend_keys(channel, list(queues), exchanges | {"celery.pidbox", "reply.celery.pidbox", "celeryev"})

    def _refuse(self, message: Message, reason: str) -> None:
        log.warning("a message in %s is none of ours, and is dropped: %s", _source(message), reason)
        message.reject_log_error(log, self.connection_errors)


class ComfylinePidbox(celery.worker.pidbox.Pidbox):
    """A worker's box for commands; others' messages cost a line in the log and no connection."""

    def start(self, c: Any) -> None:
        super().start(c)
        self.consumer.on_decode_error = self._on_decode_error

    def on_message(self, body: Any, message: Message) -> None:
        try:
            command = admit_command(body, message, self.node.handlers)
        except Refused as exc:
            log.warning("a message in the box for commands is none, and is dropped: %s", exc)
        else:
            super().on_message(command, message)

    def _on_decode_error(self, _message: Message, exc: Exception) -> None:
        # Nothing to acknowledge: such boxes are read without.
        log.warning("a message in the box for commands cannot be read, and is dropped (%s)", type(exc).__name__)


def install() -> None:
    """Have the workers of this process use it; Celery has a setting for the consumer, and none for the box."""
    celery.worker.pidbox.Pidbox = ComfylinePidbox  # type: ignore[misc]


def _source(message: Message) -> str:
    try:
        return ascii(message.delivery_info["routing_key"])[:80]
    except DATA_ERRORS:
        return "a queue"
