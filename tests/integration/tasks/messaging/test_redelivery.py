"""Messages that nobody acknowledged when the broker went away: a worker survives giving them back."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection, Queue
from kombu.transport import redis

from tasks.messaging.redelivery import CalmQoS
from tests.own_servers import OwnValkey


@pytest.mark.parametrize("qos", [CalmQoS, redis.QoS])
def test_a_connection_that_is_closed_already_does_not_end_the_worker(
    own_valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch, qos: type
) -> None:
    monkeypatch.setattr(redis.Channel, "QoS", qos)
    own_valkey.start()
    connection = Connection(own_valkey.url)
    channel: Any = connection.default_channel
    queue = Queue("left", channel=channel)
    queue.declare()
    connection.Producer().publish({"id": 1}, routing_key="left", declare=[queue])
    assert queue.get() is not None
    own_valkey.kill()
    # What Celery does when it hears of the loss: the transport goes first, then the channels.
    channel._disconnect_pools()
    connection.transport.client = None

    if qos is CalmQoS:
        channel.close()
        assert channel.closed
    else:
        # Should kombu mend this some day, tasks/messaging/redelivery.py can go.
        with pytest.raises(AttributeError):
            channel.close()
