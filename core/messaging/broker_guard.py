"""Messages that are none: what anything but us may put into a broker must not end the process that reads it.

kombu takes what it reads for a message of its own, and whatever that makes it raise ends the worker: on Redis a list
may hold anything at all, on RabbitMQ a header may hold a date that Python has no word for. A Redis message has left its
list when it is looked at, so nothing but a line in the log is left of it; one of RabbitMQ is handed on without its
headers, and refused by whoever looks for them.

Importing this imports both transports, which in the API is good only after gevent has patched the standard library.
"""

from __future__ import annotations

import logging
import struct
import zlib
from typing import Any

import amqp.abstract_channel
import amqp.basic_message
import amqp.method_framing
from amqp import serialization
from amqp.exceptions import FrameSyntaxError
from kombu.exceptions import SerializationError, SerializerNotInstalled
from kombu.transport import pyamqp, redis
from kombu.transport.virtual import base as virtual
from kombu.utils.json import loads
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis's own, which kombu foresees

log = logging.getLogger(__name__)

#: What wrong data makes code raise that trusts it. None of these means that a connection is lost.
DATA_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    SerializationError,
    SerializerNotInstalled,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
#: OSError comes of a date that the C library cannot hold: nothing is read from a socket there.
_HEADER_ERRORS: tuple[type[Exception], ...] = (FrameSyntaxError, OSError, *DATA_ERRORS)


class MalformedMessage(Exception):
    """What was read is no message. Its words hold nothing of what was read."""


def install() -> None:
    """Guard every connection that this process opens from here on. May be called again."""
    # The stubs know little of what is inside kombu.
    redis.loads = _loads  # type: ignore[attr-defined]
    redis.Transport.Channel = GuardedChannel
    if ResponseError not in redis.Transport.connection_errors:
        # A server that takes no writes for a while (a failover, a full disk) or refuses a key ends no worker.
        redis.Transport.connection_errors += (ResponseError,)
    amqp.abstract_channel.loads = _loads_arguments  # type: ignore[assignment]
    amqp.method_framing.Message = GuardedContent  # type: ignore[misc]
    pyamqp.Channel.Message = GuardedAmqpMessage


class GuardedMessage(virtual.Message):
    """A message on Redis; raises MalformedMessage where its envelope is not what kombu writes."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        problem = _envelope_problem(payload)
        if problem is not None:
            raise MalformedMessage(problem)
        try:
            super().__init__(payload, channel=channel, **options)
        except DATA_ERRORS as exc:
            raise MalformedMessage(type(exc).__name__) from exc


class GuardedChannel(redis.Channel):
    """A channel to Redis that drops what is no message, from lists and from subscriptions."""

    Message = GuardedMessage
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return the client of the channel's pool: kombu makes one for each command, which takes longer than that."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[misc]
        if self.connection is None:
            # Closed while somebody was about to use it; kombu would stumble over that, and say nothing of a connection.
            raise ConnectionError("The channel to the broker was closed.")
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[misc]
        return self._kept

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except MalformedMessage as exc:
            _say(exc)
            return True

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except MalformedMessage as exc:
            _say(exc)
            return None

    def _do_restore_message(self, payload: Any, exchange: Any, routing_key: Any, *rest: Any, **options: Any) -> None:
        # Otherwise kombu would write into the log what cannot be put back. It leaves the broker either way.
        problem = _envelope_problem(payload)
        if problem is None and not (isinstance(payload.get("headers"), dict) and _is_text(exchange)):
            problem = "it does not say what it is, or where it was sent to"
        if problem is None and not _is_text(routing_key):
            problem = "it does not say where it was sent to"
        if problem is not None:
            _say(MalformedMessage(problem))
        else:
            super()._do_restore_message(payload, exchange, routing_key, *rest, **options)  # type: ignore[misc]


class GuardedContent(amqp.basic_message.Message):
    """Build a message of RabbitMQ; headers that cannot be read are left out, so that it is no message of ours."""

    def _load_properties(self, class_id: int, buf: Any, offset: int) -> int:
        try:
            return int(super()._load_properties(class_id, buf, offset))  # type: ignore[misc]
        except _HEADER_ERRORS as exc:
            log.debug("the headers of a message cannot be read (%s)", type(exc).__name__)
            self.properties = {"content_type": "application/x-unreadable"}
            return offset


class GuardedAmqpMessage(pyamqp.Message):
    """Check a message on its way into kombu, which would unpack whatever says that it is compressed."""

    def __init__(self, msg: Any, channel: Any = None, **options: Any) -> None:
        if "compression" in (msg.properties.get("application_headers") or {}):
            # Nothing of ours is, and a few bytes may unpack to more than this machine has.
            msg.properties = {"content_type": "application/x-compressed"}
        super().__init__(msg, channel=channel, **options)


class _Lenient(bytes):
    """Bytes whose texts are read whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Lenient(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", _errors: str = "strict") -> str:
        return super().decode(encoding, "replace")


def _loads_arguments(kinds: str, buf: Any, offset: int) -> Any:
    """Return what amqp reads the arguments of a method with; others choose a message's routing key."""
    try:
        return serialization.loads(kinds, buf, offset)
    except UnicodeDecodeError:
        return serialization.loads(kinds, _Lenient(buf), offset)


def _loads(text: Any) -> Any:
    try:
        return loads(text)
    except DATA_ERRORS as exc:
        raise MalformedMessage(type(exc).__name__) from None


def _envelope_problem(payload: Any) -> str | None:
    """Return what keeps this from being a message as kombu puts it on Redis; None: nothing."""
    if not isinstance(payload, dict):
        return "it is no object"
    properties, headers = payload.get("properties"), payload.get("headers")
    if not isinstance(properties, dict) or not isinstance(headers or {}, dict):
        return "its properties or headers are no object"
    where = properties.get("delivery_info")
    if not isinstance(where, dict) or not all(_is_text(where.get(name)) for name in ("exchange", "routing_key")):
        return "it does not say where it was sent to"
    if not _is_text(properties.get("delivery_tag")):
        return "it has no delivery tag"
    if properties.get("body_encoding") not in (None, "base64"):
        return "its body is encoded in an unknown way"
    texts = (payload.get("body"), payload.get("content-type"), payload.get("content-encoding"))
    if not all(text is None or _is_text(text) for text in texts):
        return "its body, content type or encoding is no text"
    if "compression" in (headers or {}):
        return "it is compressed, which none of ours is"
    return None


def _is_text(value: Any) -> bool:
    try:
        # Half a surrogate cannot be written back, as giving a message back does.
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _say(exc: MalformedMessage) -> None:
    log.warning("the broker held what is no message; it was dropped (%s)", exc)
