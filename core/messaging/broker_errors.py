"""What a message broker that is away, full, slow or still starting makes kombu raise."""

from __future__ import annotations

from kombu import Connection
from kombu.exceptions import KombuError


def broker_errors(url: str) -> tuple[type[BaseException], ...]:
    """Return the exceptions of one broker's transport, for an `except`; connects to nothing."""
    # Nothing is connected to; without a word on TLS kombu would warn of that each time.
    connection = Connection(url, ssl=True)
    # Not the recoverable ones alone: a RabbitMQ that starts refuses its virtual hosts for good, in its own words.
    errors: tuple[type[BaseException], ...] = (*connection.connection_errors, *connection.channel_errors)
    return (KombuError, OSError, *errors)
