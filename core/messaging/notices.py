"""Change notices: small messages on one fanout exchange that wake those who wait for a job.

A notice is a hint, never a fact: it may be lost, late or doubled. Who receives one reads the ledger; who receives none
reads it a little later. Sending never blocks its caller and never fails it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from kombu.exceptions import EncodeError
from kombu.utils.uuid import uuid

from core.background import Loop, failure_of
from core.broker_kind import BrokerKind
from core.messaging.broker_errors import broker_errors
from core.messaging.broker_tls import tls_options
from core.settings import Settings

log = logging.getLogger(__name__)

#: Notices kept while the broker is away; older ones are dropped, since whoever waits will poll.
BACKLOG = 1_000
#: Pause before the broker is tried again.
RECONNECT_S = 1.0
#: How often a listener that hears nothing looks up, to stop or to show RabbitMQ that it lives.
POLL_S = 1.0
#: RabbitMQ closes a connection it has heard nothing from for twice this long.
HEARTBEAT_S = 10


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something happened to a job."""

    job_id: str
    #: `status`, `progress`, `preview` or `log`; `cached`: what the instance's cache spares it; `executed`: what a node
    #: has made; `submitted`: a client of ComfyUI's own protocol has made it.
    kind: str
    #: Number of the newest event of the job.
    seq: int = 0
    status: str = ""
    #: Progress snapshot, or `{"node_id", "content_type", "data_base64", "is_output"}` of a preview, `{"number"}` of a
    #: piece of what ComfyUI printed, `{"nodes"}` of the cache, `{"node", "outputs"}` of what a node has made,
    #: `{"tenant", "client_id"}` of who submitted it.
    data: dict[str, Any] | None = None


def exchange(settings: Settings) -> Exchange:
    """Return the fanout exchange of a fleet."""
    return Exchange(f"{settings.broker_namespace}.notices", type="fanout", durable=False, delivery_mode=1)


def connect(settings: Settings) -> Connection:
    """Return a broker connection with short time limits, for notices only."""
    url = settings.transport_url
    options: dict[str, Any] = {"max_retries": 0}
    if BrokerKind.of(url) is BrokerKind.REDIS:
        options |= {"socket_connect_timeout": 2.0, "socket_timeout": 5.0, "health_check_interval": 10}
        options |= {"global_keyprefix": f"{settings.broker_namespace}:"}
    else:
        options |= {"connect_timeout": 2.0, "write_timeout": 2.0}
    tls = tls_options(settings)
    return Connection(url, connect_timeout=2.0, heartbeat=HEARTBEAT_S, transport_options=options, ssl=tls)


class NoticeSender:
    """Publishes notices from a thread of its own; `send` only puts them into a bounded queue."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: queue.Queue[Notice | None] = queue.Queue(BACKLOG)
        self._loop = Loop("notices", self._serve)
        self._closing = threading.Event()
        #: Taken from the queue and not sent yet; survives a lost connection.
        self._in_hand: Notice | None = None

    def send(self, notice: Notice) -> None:
        """Queue a notice; a full queue drops its oldest. The thread starts with the first one (after a fork)."""
        self._loop.start()
        self._put(notice)

    def close(self) -> None:
        """Send what is queued, wait at most two seconds, end the thread."""
        self._closing.set()
        self._put(None)
        self._loop.join(2.0)
        self._loop.end()

    def _put(self, notice: Notice | None) -> None:
        while True:
            try:
                self._queue.put_nowait(notice)
                return
            except queue.Full:
                log.debug("notice dropped: the broker is slow or away")
                with suppress(queue.Empty):
                    self._queue.get_nowait()

    def _serve(self) -> None:
        """Serve one connection to its end."""
        try:
            with connect(self._settings) as connection:
                self._publish(connection)
                self._loop.end()
        except broker_errors(self._settings.transport_url):
            log.debug("notices: the broker is away", exc_info=True)
            if self._closing.wait(RECONNECT_S):
                self._loop.end()

    def _publish(self, connection: Connection) -> None:
        producer = Producer(connection, exchange(self._settings), serializer="json")
        errors = broker_errors(self._settings.transport_url)
        while True:
            notice = self._in_hand or self._next(connection)
            # Kept only for a broker that is away: one that cannot be sent at all must not come back for ever.
            self._in_hand = None
            if notice is None:
                return
            try:
                producer.publish(asdict(notice), retry=False)
            except EncodeError as exc:
                log.warning("a notice of job %s cannot be sent: %s", notice.job_id, exc)
            except errors:
                self._in_hand = notice
                raise

    def _next(self, connection: Connection) -> Notice | None:
        while True:
            try:
                return self._queue.get(timeout=HEARTBEAT_S / 4)
            except queue.Empty:
                _keep_alive(connection)


def _keep_alive(connection: Connection) -> None:
    """Exchange heartbeats with RabbitMQ on a connection that nothing is read from; Redis knows none."""
    if connection.supports_heartbeats:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.001)
        connection.heartbeat_check()


class NoticeListener:
    """Receives every notice of the fleet in a thread of its own and hands it to a callback."""

    def __init__(self, settings: Settings, on_notice: Callable[[Notice], None]) -> None:
        self._settings = settings
        self._on_notice = on_notice
        #: Set while notices are being received; a test or a start-up may wait for it.
        self.connected = threading.Event()
        self._loop = Loop("notice-listener", self._serve)

    def start(self) -> None:
        """Begin to listen; reconnects for ever."""
        self._loop.start()

    def stop(self) -> None:
        """End the thread within about a second."""
        self._loop.end()
        self._loop.join(3.0)

    def _serve(self) -> None:
        """Serve one connection to its end."""
        try:
            with connect(self._settings) as connection:
                self._listen(connection)
        except broker_errors(self._settings.transport_url):
            log.debug("notices: the broker is away", exc_info=True)
        finally:
            self.connected.clear()
        self._loop.rest(RECONNECT_S)

    def _listen(self, connection: Connection) -> None:
        # Redis deletes nothing by itself, so the queue's name is unique and it goes with the connection.
        inbox = Queue(
            f"{self._settings.broker_namespace}.notices.{uuid()}",
            exchange(self._settings),
            durable=False,
            exclusive=True,
            auto_delete=True,
        )
        with Consumer(
            connection,
            [inbox],
            callbacks=[self._receive],
            on_decode_error=lambda _message, exc: _say_none(exc),
            accept=["json"],
            no_ack=True,
        ):
            # On Redis the transport subscribes only when it first waits for messages.
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
            self.connected.set()
            while not self._loop.is_ending:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=POLL_S)
                # After each notice, too: whoever only listens says nothing else to the broker.
                connection.heartbeat_check()

    def _receive(self, body: Any, _message: Message) -> None:
        try:
            notice = _notice(body)
        except (LookupError, TypeError) as exc:
            _say_none(exc)
            return
        # What goes wrong with one notice must not cost the connection, and with it the next ones.
        failure_of(lambda: self._on_notice(notice), "notice-listener")


def _notice(body: Any) -> Notice:
    # Another version may know more fields than we do.
    notice = Notice(**{field.name: body[field.name] for field in fields(Notice) if field.name in body})
    texts = isinstance(notice.job_id, str) and isinstance(notice.kind, str) and isinstance(notice.status, str)
    if not texts or type(notice.seq) is not int or not isinstance(notice.data or {}, dict):
        raise TypeError("a field is of the wrong kind")
    return notice


def _say_none(exc: Exception) -> None:
    log.warning(
        "a message on the exchange of notices is none (%s); is it shared with another program?", type(exc).__name__
    )
