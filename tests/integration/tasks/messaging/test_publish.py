"""Publishing over real brokers: what stands on the wire, and that a broker which is away costs little time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Exchange, Queue

from core.ledger import Ledger
from core.settings import Settings
from tasks.messaging import publish
from tasks.messaging.app import make_app
from tasks.messaging.names import GENERATE, GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE, NOTIFY, UPLOAD, io_queue_of
from tasks.messaging.publish import Publisher
from tests.broker_lines import BrokerLine
from tests.ledger_moves import WEBHOOK, claimed, in_parallel, submit
from tests.own_servers import OwnValkey
from tests.services import Broker
from tests.waiting import PATIENCE, eventually, quickest

#: What a request may lose to a broker that is away.
LIMIT_S = 2.0
AT_ONCE_S = 0.02
HOST = "left"


class Clock:
    """The publisher's clock. The time for which it leaves a broker alone ends when a test says so, and never before."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def pass_the_break(self) -> None:
        self._ahead_s += publish.BREAK_S


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(publish, "BREAK_S", 3600.0)
    monkeypatch.setattr(publish, "time", clock)
    return clock


def is_published_again(publisher: Publisher, clock: Clock) -> bool:
    """Whether the broker takes a message after the break."""
    clock.pass_the_break()
    return publisher.turn("after")


@pytest.fixture
def settings(broker_line: BrokerLine, tmp_path: Path) -> Settings:
    """A broker whose queues are empty."""
    settings = broker_line.settings(tmp_path, host=HOST)
    for queue in (GPU_QUEUE, IO_QUEUE, io_queue_of(HOST), MAINTENANCE_QUEUE):
        _take_all(settings, queue)
    return settings


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    app = make_app(settings, "api")
    yield app
    app.close()


@pytest.fixture
def publisher(app: Celery) -> Publisher:
    return Publisher(app)


def test_a_turn_is_a_chain_of_ids(publisher: Publisher, settings: Settings) -> None:
    job_id = "2f1b8a4e-9c1d-4b7e-8a55-0d9a6c1f7e10"

    assert publisher.turn(job_id)

    ((headers, body),) = _take_all(settings, GPU_QUEUE)
    assert (headers["task"], headers["id"], headers["root_id"]) == (GENERATE, job_id, job_id)
    arguments, keywords, embed = body
    assert (arguments, keywords) == ([job_id], {})
    assert [(step["task"], step["args"], step["options"].get("queue")) for step in reversed(embed["chain"])] == [
        (UPLOAD, [], None),
        (NOTIFY, [], IO_QUEUE),
    ]


def test_nothing_but_ids_is_on_the_wire(publisher: Publisher, sqlite_settings: Settings, settings: Settings) -> None:
    ledger = Ledger(sqlite_settings)
    job = submit(
        ledger,
        graph_text='{"1":{"class_type":"PLAINTEXT"}}',
        secrets={"s3": "PLAINTEXT"},
        metadata="PLAINTEXT",
        webhook=replace(WEBHOOK, url="http://PLAINTEXT"),
        idempotency_key="PLAINTEXT",
    )
    ledger.close()

    assert publisher.turn(job.id)
    assert publisher.store(job.id, 1, HOST)
    assert publisher.notify(job.id)

    messages = [message for queue in (GPU_QUEUE, IO_QUEUE, io_queue_of(HOST)) for message in _take_all(settings, queue)]
    assert len(messages) == 3
    for headers, body in messages:
        text = json.dumps([headers, body], default=str)
        assert job.id in text
        assert "PLAINTEXT" not in text
        # An error callback, say, would bring arguments of its own.
        assert len(text) < 4_000


def test_the_chain_moves_through_its_queues(publisher: Publisher, settings: Settings) -> None:
    publisher.turn("j1")
    ((_, (_, _, embed)),) = _take_all(settings, GPU_QUEUE)
    worker = make_app(settings, "gpu")
    result: Any = ["j1", 1]
    seen = []

    # As Celery's worker does it after each step.
    for queue in (io_queue_of(HOST), IO_QUEUE):
        chain = embed["chain"]
        worker.signature(chain.pop()).apply_async((result,), chain=chain)
        ((headers, (arguments, _, embed)),) = _take_all(settings, queue)
        seen.append((headers["task"], arguments))
        result = "j1"

    assert seen == [(UPLOAD, [["j1", 1]]), (NOTIFY, ["j1"])]
    assert not embed["chain"]
    worker.close()


def test_the_rest_of_a_chain_goes_to_the_host_with_the_files(publisher: Publisher, settings: Settings) -> None:
    _take_all(settings, io_queue_of("right"))

    assert publisher.store("j1", 2, "right")

    ((headers, (arguments, _, embed)),) = _take_all(settings, io_queue_of("right"))
    assert (headers["task"], arguments) == (UPLOAD, [["j1", 2]])
    assert [step["task"] for step in embed["chain"]] == [NOTIFY]


def test_messages_keep_their_order(publisher: Publisher, settings: Settings) -> None:
    ids = [f"j{number}" for number in range(30)]

    assert all(publisher.turn(job_id) for job_id in ids)

    assert [headers["id"] for headers, _ in _take_all(settings, GPU_QUEUE)] == ids


@pytest.mark.parametrize("is_connected", [False, True])
@pytest.mark.parametrize("trouble", ["away", "frozen"])
def test_a_broker_that_does_not_answer_costs_little_time(
    trouble: str, is_connected: bool, broker_line: BrokerLine, publisher: Publisher, settings: Settings, clock: Clock
) -> None:
    if is_connected:
        assert publisher.turn("before")
    (broker_line.away if trouble == "away" else broker_line.freeze)()

    # Without confirms a frozen RabbitMQ would look like success: the message lies in a socket's buffer.
    assert _timed(publisher, "lost") == (False, True)

    def refused_s() -> float:
        begun_s = time.monotonic()
        assert not publisher.turn("refused")
        return time.monotonic() - begun_s

    assert quickest(refused_s, limit_s=AT_ONCE_S) < AT_ONCE_S

    (broker_line.back if trouble == "away" else broker_line.thaw)()
    # One more failure may come from a connection that the broker's loss left in the pool.
    assert eventually(lambda: is_published_again(publisher, clock), 30)
    published = [headers["id"] for headers, _ in _take_all(settings, GPU_QUEUE)]
    assert published[-1] == "after"
    assert "refused" not in published


def test_a_frozen_broker_under_many_requests(
    broker_line: BrokerLine, publisher: Publisher, settings: Settings, clock: Clock
) -> None:
    in_parallel(8, lambda number: publisher.turn(f"before{number}"))
    broker_line.freeze()

    results = in_parallel(8, lambda number: _timed(publisher, f"lost{number}"))

    assert results == [(False, True)] * 8
    broker_line.thaw()
    assert eventually(lambda: is_published_again(publisher, clock), 30)


def test_a_restarted_broker_is_not_felt(broker_line: BrokerLine, publisher: Publisher, settings: Settings) -> None:
    assert publisher.turn("before")
    broker_line.away()
    broker_line.back()

    # The pooled connection is a dead one now; one retry with a new one is enough.
    assert publisher.turn("after")
    assert [headers["id"] for headers, _ in _take_all(settings, GPU_QUEUE)] == ["before", "after"]


@pytest.mark.parametrize("trouble", ["away", "frozen"])
def test_a_wish_to_interrupt_is_not_held_up(
    trouble: str, broker_line: BrokerLine, publisher: Publisher, sqlite_settings: Settings
) -> None:
    ledger = Ledger(sqlite_settings)
    job = ledger.jobs.get(claimed(ledger).job_id)
    ledger.close()
    (broker_line.away if trouble == "away" else broker_line.freeze)()

    def interrupting_s() -> float:
        begun_s = time.monotonic()
        publisher.interrupt(job.id, job.attempt, str(job.instance))
        return time.monotonic() - begun_s

    assert interrupting_s() < LIMIT_S
    assert quickest(interrupting_s, limit_s=AT_ONCE_S) < AT_ONCE_S

    (broker_line.back if trouble == "away" else broker_line.thaw)()


def test_a_queue_of_another_make_is_no_error_of_the_request(shared_rabbitmq: Broker, tmp_path: Path) -> None:
    # Somebody declared it with other arguments, an older version perhaps: RabbitMQ refuses ours.
    settings = shared_rabbitmq.settings(tmp_path, host=HOST)
    with Connection(settings.transport_url) as connection:
        channel = connection.default_channel
        ours = Queue(GPU_QUEUE, channel=channel)
        ours.delete()
        theirs = Queue(GPU_QUEUE, Exchange("comfyline"), routing_key=GPU_QUEUE, queue_arguments={"x-max-length": 5})
        theirs = theirs.bind(channel)
        theirs.declare()
        app = make_app(settings, "api")
        try:
            assert not Publisher(app).turn("j1")
        finally:
            app.close()
            theirs.delete()


def test_every_key_on_a_redis_has_the_fleets_prefix(own_valkey: OwnValkey, tmp_path: Path) -> None:
    settings = own_valkey.settings.model_copy(update={"broker_namespace": "mine"})
    app = make_app(settings, "api")
    publisher = Publisher(app)
    try:
        assert publisher.turn("j1")
        assert publisher.store("j1", 1, "right")
    finally:
        app.close()

    with redis.Redis(unix_socket_path=str(settings.embedded_broker_socket)) as client:
        keys = {key.decode() for key in client.scan_iter()}
    assert {"mine:gpu", "mine:io.right"} <= keys
    assert all(key.startswith("mine:") for key in keys)


def test_a_channel_that_is_closed_under_a_publisher_is_a_broker_that_is_away(own_valkey: OwnValkey) -> None:
    make_app(own_valkey.settings, "api").close()
    with Connection(own_valkey.settings.transport_url) as connection:
        channel: Any = connection.channel()
        channel.close()
        with pytest.raises(connection.connection_errors, match="was closed"):
            channel._create_client()


def _timed(publisher: Publisher, job_id: str) -> tuple[bool, bool]:
    """Whether it was published, and whether that was known in time."""
    begun_s = time.monotonic()
    published = publisher.turn(job_id)
    return published, time.monotonic() - begun_s < LIMIT_S * PATIENCE


def _take_all(settings: Settings, queue: str) -> list[tuple[dict[str, Any], Any]]:
    """Headers and decoded bodies of all messages of a queue, taken from it."""
    found = []
    app = make_app(settings, "io")
    with app.connection_for_read() as connection:
        bound = app.amqp.queues[queue].bind(connection.default_channel)
        bound.declare()
        while (message := bound.get(no_ack=True)) is not None:
            found.append((dict(message.headers), json.loads(message.body or "null")))
    app.close()
    return found
