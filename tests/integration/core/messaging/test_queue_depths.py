"""How many messages wait in queues, on both brokers; one that is not there has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.server.metrics import queue_watch
from api.server.metrics.queue_watch import QueueWatch
from core.errors import BrokerUnavailable
from core.messaging.queue_depths import queue_depths
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.messaging.names import GPU_QUEUE, NOTIFY, gpu_queue_of
from tests.ports import free_port
from tests.services import Broker, make_settings
from tests.waiting import until

LIMIT_S = 5.0


@pytest.fixture(params=["redis", "rabbitmq"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    broker: Broker = request.getfixturevalue(f"shared_{request.param}")
    return broker.settings(tmp_path, host="here")


def publish(settings: Settings, queue: str, count: int) -> None:
    with make_app(settings, "io") as app:
        for number in range(count):
            app.send_task(NOTIFY, (f"job {number}",), queue=queue)


def test_messages_that_wait_are_counted_and_a_queue_that_is_not_there_has_none(settings: Settings) -> None:
    publish(settings, "io.there", 3)
    asked = ["io.nowhere", "io.there", "gpu.nowhere", "io.there"]

    def is_so() -> bool:
        found = queue_depths(settings, asked, timeout_s=LIMIT_S)
        return found == {"io.nowhere": 0, "io.there": 3, "gpu.nowhere": 0}

    until(is_so, what="three messages")


def test_queues_are_counted_by_their_kind_however_many_there_are(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_watch, "AT_ONCE", 2)
    publish(settings, GPU_QUEUE, 1)
    names = [f"gpu{number}@here" for number in range(4)]
    for name in names:
        publish(settings, gpu_queue_of(name), 2)
    watch = QueueWatch(settings)
    seen = [watch.look(names, timeout_s=LIMIT_S)["gpu.*"] for _ in range(3)]

    assert seen == sorted(seen), "a look adds what the ones before it did not reach"
    until(lambda: watch.look(names, timeout_s=LIMIT_S)["gpu.*"] == 8, what="all messages")
    last = watch.look(names, timeout_s=LIMIT_S)
    assert {**last, "io.*": 0} == {"gpu": 1, "io": 0, "maintenance": 0, "gpu.*": 8, "io.*": 0}
    # GPUs that are forgotten are no longer counted.
    assert watch.look(names[:1], timeout_s=LIMIT_S)["gpu.*"] <= 2


def test_a_broker_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    gone = make_settings(tmp_path, broker_url=f"amqp://127.0.0.1:{free_port()}//")

    with pytest.raises(BrokerUnavailable):
        queue_depths(gone, ["io"], timeout_s=LIMIT_S)
