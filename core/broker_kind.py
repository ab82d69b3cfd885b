"""Which kind of message broker a kombu URL leads to: the one place that reads its scheme."""

from __future__ import annotations

from enum import Enum


class BrokerKind(Enum):
    """The brokers that differ in how they are set up. Valkey is a Redis."""

    REDIS = "redis"
    RABBITMQ = "rabbitmq"

    @classmethod
    def of(cls, url: str) -> BrokerKind:
        """Return the kind of broker at a URL whose scheme stands in `SCHEMES`. Raises KeyError for any other."""
        return SCHEMES[url.partition("://")[0]]


#: Schemes of broker URLs. `sentinel` is none of them: what asks Redis beside kombu (start-up checks, the Broker page of
#: Flower) would need the sentinels' own addresses and passwords, for which a URL has no place.
SCHEMES = {
    "redis": BrokerKind.REDIS,
    "rediss": BrokerKind.REDIS,
    "redis+socket": BrokerKind.REDIS,
    "amqp": BrokerKind.RABBITMQ,
    "amqps": BrokerKind.RABBITMQ,
}


def is_unix_socket(url: str) -> bool:
    """Return whether the broker is reached through a unix socket of this machine."""
    return url.startswith("redis+socket://")
