"""Keys of ours in Redis that hold what no queue is: a text where a list should be, as another program may leave it.

Each command on such a key is refused, for ever. So the key gets another name, under which an operator finds it, and the
queue begins anew; what waits stands in the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError, ResponseError

log = logging.getLogger(__name__)

#: Before the name of an exchange.
BINDINGS = ("_kombu.binding.", "_kombu.binding_permanent.")
DEADLINES = "_kombu.binding_deadlines"


def is_wrong_type(exc: ResponseError) -> bool:
    """Return whether a command was refused for the type of its key."""
    return "WRONGTYPE" in str(exc)


def said(exc: ResponseError) -> str:
    """Return what the server said. In a pipeline's error its command comes first, with pieces of the message."""
    return str(exc).rpartition("caused error: ")[2]


def mend_keys(channel: Any, queues: Iterable[str] = (), exchanges: Iterable[str] = ()) -> None:
    """Rename the keys that are of a wrong type, and say which. Raises nothing.

    Parameters:
      channel: kombu's, to Redis.
      queues, exchanges: whose keys are looked at, beside those of unacknowledged messages.
    """
    try:
        with channel.conn_or_acquire() as client:
            for key, kind in _types(channel, queues, exchanges).items():
                # kombu's client puts the prefix before the keys of commands it uses, and these are none of them.
                _look(client, f"{channel.global_keyprefix}{key}", kind)
    except (OSError, RedisError) as exc:
        log.warning("keys of the wrong type cannot be set aside: %s", exc)


def _look(client: Any, name: str, kind: str) -> None:
    found = client.type(name).decode()
    if found not in (kind, "none"):
        aside = f"{name}.set-aside.{uuid.uuid4().hex[:8]}"
        # It fails where another worker was first.
        with contextlib.suppress(ResponseError):
            client.rename(name, aside)
            log.warning("the broker's key %s is a %s and no %s; it is %s now", ascii(name), found, kind, ascii(aside))


def _types(channel: Any, queues: Iterable[str], exchanges: Iterable[str]) -> dict[str, str]:
    lists = {channel._q_for_pri(queue, step): "list" for queue in queues for step in channel.priority_steps}
    bindings = {f"{before}{exchange}": "set" for before in BINDINGS for exchange in exchanges}
    unacknowledged = {channel.unacked_key: "hash", channel.unacked_index_key: "zset"}
    return {**lists, **bindings, **unacknowledged, channel.unacked_mutex_key: "string", DEADLINES: "zset"}
