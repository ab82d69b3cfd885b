"""How many requests tenants made in the last minute, over all API processes where the broker is a Redis or Valkey.

The window slides: it is the share of the minute before that still counts, and what came since (`limits`, "sliding
window counter"). Several requests are drawn at once where there is room for many, so that most cost no look at the
broker, and one at a time near the limit: never more than the limit are let in.

A broker that is away, or slow, costs those who ask at that moment `ANSWER_S`; from then on each process counts in its
own memory, until a thread of its own finds the broker well. With RabbitMQ it is memory from the beginning.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

from kombu import Connection
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from api.http.time_limits import at_most
from core.background import Loop
from core.broker_kind import BrokerKind
from core.errors import BrokerUnavailable
from core.messaging.broker_errors import broker_errors
from core.messaging.broker_tls import tls_options
from core.settings import Settings

log = logging.getLogger(__name__)

#: Longest wait for the broker, for the first connection to it, and outside of gevent, where only sockets have limits.
ANSWER_S, OPEN_S, SOCKET_S = 0.1, 0.5, 0.25
#: Between looks whether the broker is back, and longest such look.
RETRY_S, LOOK_S = 1.0, 1.0
WINDOW_S = 60
#: Of what is left in a window, one of so many is drawn at once, but no more than this.
SHARE, MOST_DRAWN = 32, 64
#: How long a refusal is repeated without a look at the broker, at most: the limit may be another one by then.
REPEATED_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a tenant stands with a request."""

    limit: int
    is_allowed: bool
    #: Requests that may still come.
    left: int
    #: When there are more, in seconds; infinite: never.
    more_in_s: float


@dataclass(kw_only=True)
class _Drawn:
    """What a process has drawn for a tenant and not used, or the refusal that it repeats."""

    limit: int
    is_refusal: bool
    requests: int
    #: As the store had it.
    left: int
    #: By the monotonic clock: until when this holds, and when there are more.
    holds_until_s: float
    more_at_s: float

    def standing(self, now_s: float, *, is_allowed: bool) -> Standing:
        left, more_in_s = self.left + self.requests, max(0.0, self.more_at_s - now_s)
        return Standing(limit=self.limit, is_allowed=is_allowed, left=left, more_in_s=more_in_s)


#: Of a tenant that may make none.
NOTHING = Standing(limit=0, is_allowed=False, left=0, more_in_s=math.inf)


class RequestCounts:
    """The counts as one process sees them. Opened at the first request that is counted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_shared = BrokerKind.of(settings.transport_url) is BrokerKind.REDIS
        self._errors: tuple[type[BaseException], ...] = (BrokerUnavailable, *broker_errors(settings.transport_url))
        self._drawn: dict[str, _Drawn] = {}
        #: One look at a time, on one connection: who waits finds what the one before has drawn.
        self._looking = threading.Lock()
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._own: SlidingWindowCounterRateLimiter | None = None
        self._is_away = False
        self._watch = Loop("request counts", self._look_again, pause_s=RETRY_S)

    def take(self, tenant: str, limit: int) -> Standing:
        """Count one request of a tenant that may make so many in a minute; one that is refused does not count."""
        if limit == 0:
            return NOTHING
        now_s = time.monotonic()
        known = self._known(tenant, limit, now_s)
        if known is None:
            with self._looking:
                now_s = time.monotonic()
                # Somebody may have drawn meanwhile.
                known = self._known(tenant, limit, now_s)
                if known is None:
                    known = self._drawn[tenant] = self._draw(tenant, limit)
                    now_s = time.monotonic()
        is_allowed = known.requests > 0
        if is_allowed:
            known.requests -= 1
        return known.standing(now_s, is_allowed=is_allowed)

    def standing(self, tenant: str, limit: int) -> Standing:
        """Return how a tenant stands, and count nothing."""
        if limit == 0:
            return NOTHING
        item = RateLimitItemPerMinute(limit)
        with self._looking:
            left, more_in_s = self._ask(lambda limiter: _left(limiter, item, tenant))
            known = self._drawn.get(tenant)
            held = 0 if known is None or known.limit != limit else known.requests
        return Standing(limit=limit, is_allowed=left + held > 0, left=left + held, more_in_s=more_in_s)

    def _known(self, tenant: str, limit: int, now_s: float) -> _Drawn | None:
        known = self._drawn.get(tenant)
        if known is None or known.limit != limit or now_s >= known.holds_until_s:
            return None
        return known if known.requests or known.is_refusal else None

    def _draw(self, tenant: str, limit: int) -> _Drawn:
        before = self._drawn.get(tenant)
        wanted = 1 if before is None or before.limit != limit else _share(before.left)
        item = RateLimitItemPerMinute(limit)

        def drawn_from(limiter: SlidingWindowCounterRateLimiter) -> tuple[int, int, float]:
            count = wanted if limiter.hit(item, tenant, cost=wanted) else 0
            if not count and wanted > 1:
                count = int(limiter.hit(item, tenant))
            return count, *_left(limiter, item, tenant)

        count, left, more_in_s = self._ask(drawn_from)
        now_s = time.monotonic()
        holds_s = WINDOW_S if count else min(more_in_s, REPEATED_S)
        return _Drawn(
            limit=limit,
            is_refusal=not count,
            requests=count,
            left=left,
            holds_until_s=now_s + holds_s,
            more_at_s=now_s + more_in_s,
        )

    def _ask(self, question: Any) -> Any:
        """Return what the counts answer: those that all processes share, or while these are away our own."""
        if self._is_shared and not self._is_away:
            try:
                limit_s = OPEN_S if self._shared is None else ANSWER_S
                with at_most(limit_s, BrokerUnavailable("The broker does not answer.")):
                    if self._shared is None:
                        self._shared = SlidingWindowCounterRateLimiter(self._open())
                    return question(self._shared)
            except self._errors as exc:
                self._is_away = True
                log.warning("requests are counted by each process alone: the broker is away (%s)", type(exc).__name__)
                self._watch.start()
        if self._own is None:
            self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        return question(self._own)

    def _look_again(self) -> None:
        if not self._is_away:
            return
        try:
            with at_most(LOOK_S, BrokerUnavailable("The broker does not answer.")):
                found = SlidingWindowCounterRateLimiter(self._open())
                _left(found, RateLimitItemPerMinute(1), "")
        except self._errors:
            return
        self._shared, self._is_away = found, False
        log.warning("the broker is back: all processes count requests together")

    def _open(self) -> RedisStorage:
        # By way of kombu, which knows all forms of a broker's URL, its TLS and its stand-ins.
        options = {"socket_connect_timeout": SOCKET_S, "socket_timeout": SOCKET_S, "max_retries": 0}
        connection = Connection(
            self._settings.transport_url, transport_options=options, ssl=tls_options(self._settings)
        )
        transport = connection.transport
        channel: Any = transport.create_channel(transport.establish_connection())
        prefix = f"{self._settings.broker_namespace}:requests"
        return RedisStorage("redis://", connection_pool=channel.pool, key_prefix=prefix)


def _left(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItemPerMinute, tenant: str) -> tuple[int, float]:
    """Return how many more may come, and in how many seconds there are more of them."""
    stats = limiter.get_window_stats(item, tenant)
    return stats.remaining, max(0.0, stats.reset_time - time.time())


def _share(left: int) -> int:
    return max(1, min(MOST_DRAWN, left // SHARE))
