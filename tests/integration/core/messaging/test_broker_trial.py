"""One try at a broker: it answers and takes a message, or why not, within the time it is given."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from core.errors import BrokerUnavailable
from core.messaging.broker_trial import try_broker
from tests.ports import free_port
from tests.services import Broker, make_settings
from tests.tls import Authority, TlsRabbit

LIMIT_S = 2.0


def test_redis_tells_the_time(tmp_path: Path, shared_redis: Broker) -> None:
    told_ms = try_broker(shared_redis.settings(tmp_path), timeout_s=LIMIT_S)

    # One machine has one clock.
    assert told_ms is not None
    assert abs(time.time() * 1000 - told_ms) < 60_000


def test_rabbitmq_confirms_a_message_to_nobody(tmp_path: Path, shared_rabbitmq: Broker) -> None:
    assert try_broker(shared_rabbitmq.settings(tmp_path), timeout_s=LIMIT_S, publishes=True) is None


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_one_that_is_not_there_is_unavailable(tmp_path: Path, scheme: str) -> None:
    settings = make_settings(tmp_path, broker_url=f"{scheme}://127.0.0.1:{free_port()}/0")

    with pytest.raises(BrokerUnavailable):
        try_broker(settings, timeout_s=LIMIT_S, publishes=True)


@pytest.mark.slow
def test_a_rabbitmq_that_is_short_of_memory_answers_and_takes_no_message(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    server = TlsRabbit(tmp_path / "server", authority, options="vm_memory_high_watermark.absolute = 1MB\n")
    settings = make_settings(tmp_path, broker_url=server.url, broker_ca=authority.certificate)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        assert try_broker(settings, timeout_s=LIMIT_S) is None
        begun_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="short of memory or disk"):
            try_broker(settings, timeout_s=LIMIT_S, publishes=True)
        assert time.monotonic() - begun_s < 5 * LIMIT_S
