"""Notices over real brokers: everybody hears them, and a broker that is away holds nobody up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Producer

from core.messaging import notices
from core.messaging.notices import BACKLOG, Notice, NoticeListener, NoticeSender, connect, exchange
from core.settings import Settings
from tests.broker_lines import BrokerLine
from tests.services import Broker
from tests.waiting import PATIENCE, eventually

#: Sending must never be felt by a worker or a request.
SEND_LIMIT_S = 0.05
#: A busy machine takes the processor away now and then, from few of many; what waits for a broker waits longer.
FEW = 0.02
PREEMPTED_S = 0.5


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self, settings: Settings) -> None:
        self.heard: list[Notice] = []
        self.listener = NoticeListener(settings, self.heard.append)
        self.listener.start()

    def has_heard(self, job_id: str) -> bool:
        return any(notice.job_id == job_id for notice in self.heard)


Make = Callable[[Settings], Ear]


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as in production, at a pace for tests."""
    monkeypatch.setattr(notices, "RECONNECT_S", 0.2)
    monkeypatch.setattr(notices, "POLL_S", 0.2)


@pytest.fixture
def ear() -> Iterator[Make]:
    """Makes listeners that listen, and stops them."""
    made: list[Ear] = []

    def make(settings: Settings) -> Ear:
        made.append(Ear(settings))
        assert made[-1].listener.connected.wait(10)
        return made[-1]

    yield make
    for each in made:
        each.listener.stop()


@pytest.fixture
def sender(broker_line: BrokerLine, tmp_path: Path) -> Iterator[NoticeSender]:
    sender = NoticeSender(broker_line.settings(tmp_path))
    yield sender
    sender.close()


def test_every_listener_hears_every_notice(
    broker_line: BrokerLine, sender: NoticeSender, ear: Make, tmp_path: Path
) -> None:
    ears = [ear(broker_line.settings(tmp_path)) for _ in range(3)]
    other = NoticeSender(broker_line.settings(tmp_path))
    said = [
        Notice(job_id=f"j{number}", kind="progress", seq=number, status="running", data={"value": 0.5, "n": None})
        for number in range(20)
    ]

    for notice in said:
        (sender if notice.seq % 2 else other).send(notice)
    other.close()

    for each in ears:
        assert eventually(lambda each=each: len(each.heard) >= len(said))  # type: ignore[misc]
        assert sorted(each.heard, key=lambda notice: notice.seq) == said


def test_a_listener_that_comes_later_hears_what_is_said_from_then_on(
    broker_line: BrokerLine, sender: NoticeSender, ear: Make, tmp_path: Path
) -> None:
    first = ear(broker_line.settings(tmp_path))
    sender.send(Notice(job_id="early", kind="status"))
    assert eventually(lambda: first.has_heard("early"))

    second = ear(broker_line.settings(tmp_path))
    sender.send(Notice(job_id="late", kind="status"))

    assert eventually(lambda: first.has_heard("late") and second.has_heard("late"))
    assert not second.has_heard("early")


def test_a_lost_broker_holds_nobody_up_and_everybody_finds_it_again(
    broker_line: BrokerLine, sender: NoticeSender, ear: Make, tmp_path: Path
) -> None:
    listening = ear(broker_line.settings(tmp_path))
    sender.send(Notice(job_id="before", kind="status"))
    assert eventually(lambda: listening.has_heard("before"))

    broker_line.away()
    assert eventually(lambda: not listening.listener.connected.is_set())
    send_times_s = _send_times_s(sender, 3 * BACKLOG)
    sender.send(Notice(job_id="newest", kind="status"))
    broker_line.back()

    assert_not_felt(send_times_s)
    assert listening.listener.connected.wait(10)
    sender.send(Notice(job_id="after", kind="status"))
    assert eventually(lambda: listening.has_heard("after"))


def test_what_was_said_last_survives_the_loss(
    broker_line: BrokerLine, sender: NoticeSender, ear: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the listener is back before the sender is.
    monkeypatch.setattr(notices, "RECONNECT_S", 1.5)
    broker_line.away()
    sender.send(Notice(job_id="first", kind="status"))
    time.sleep(0.2)
    _send_times_s(sender, 2 * BACKLOG)
    sender.send(Notice(job_id="newest", kind="status"))
    broker_line.back()
    listening = ear(broker_line.settings(tmp_path))

    assert eventually(lambda: listening.has_heard("newest"))
    # The one that was in hand when the broker was lost, and as many as are kept.
    assert listening.has_heard("first")
    assert len(listening.heard) == BACKLOG + 1
    assert listening.heard[1].seq == 2 * BACKLOG - BACKLOG + 1


def test_a_frozen_broker_holds_nobody_up(
    broker_line: BrokerLine, sender: NoticeSender, ear: Make, tmp_path: Path
) -> None:
    listening = ear(broker_line.settings(tmp_path))
    sender.send(Notice(job_id="before", kind="status"))
    assert eventually(lambda: listening.has_heard("before"))

    broker_line.freeze()
    send_times_s = _send_times_s(sender, 200)
    broker_line.thaw()
    sender.send(Notice(job_id="after", kind="status"))

    assert_not_felt(send_times_s)
    assert eventually(lambda: listening.has_heard("after"))


def test_closing_does_not_wait_for_a_broker_that_is_away(broker_line: BrokerLine, sender: NoticeSender) -> None:
    broker_line.away()
    _send_times_s(sender, 2 * BACKLOG)

    begun_s = time.monotonic()
    sender.close()

    assert time.monotonic() - begun_s < 2.5 * PATIENCE
    broker_line.back()


def test_a_listener_stops_soon(broker_line: BrokerLine, tmp_path: Path) -> None:
    listening = Ear(broker_line.settings(tmp_path))
    assert listening.listener.connected.wait(10)

    begun_s = time.monotonic()
    listening.listener.stop()

    assert time.monotonic() - begun_s < 2.0 * PATIENCE
    assert not listening.listener._loop.life.is_alive


def test_messages_of_another_version_or_program_do_not_end_the_listening(
    broker_line: BrokerLine, sender: NoticeSender, ear: Make, tmp_path: Path
) -> None:
    settings = broker_line.settings(tmp_path)
    listening = ear(settings)

    with connect(settings) as connection:
        producer = Producer(connection, exchange(settings), serializer="json")
        producer.publish({"job_id": "newer", "kind": "status", "field_of_the_future": 1})
        producer.publish({"stranger": True})
        producer.publish("no object")
    sender.send(Notice(job_id="after", kind="status"))

    assert eventually(lambda: listening.has_heard("after"))
    assert listening.has_heard("newer")
    assert len(listening.heard) == 2
    assert listening.listener.connected.is_set()


@pytest.mark.slow
def test_rabbitmq_keeps_connections_that_are_idle_or_only_listen(
    shared_rabbitmq: Broker,
    ear: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="core.messaging.notices")
    # It closes a connection on which it heard nothing for two heartbeats. With ten seconds between them, as usual, a
    # fleet that is quiet for half a minute, or never quiet, would lose a notice each time.
    monkeypatch.setattr(notices, "HEARTBEAT_S", 1)
    settings = shared_rabbitmq.settings(tmp_path)
    listening = ear(settings)
    idle, busy = NoticeSender(settings), NoticeSender(settings)
    try:
        idle.send(Notice(job_id="first", kind="status"))
        end_s = time.monotonic() + 5.0
        said = 0
        while time.monotonic() < end_s:
            busy.send(Notice(job_id="busy", kind="progress", seq=said))
            said += 1
            time.sleep(0.05)
            assert listening.listener.connected.is_set()
        idle.send(Notice(job_id="last", kind="status"))

        assert eventually(lambda: listening.has_heard("last"), 15.0)
        assert len(listening.heard) == said + 2
        # Nobody had to connect again.
        assert [record for record in caplog.records if record.name == "core.messaging.notices"] == []
    finally:
        idle.close()
        busy.close()


def assert_not_felt(send_times_s: list[float]) -> None:
    few = int(FEW * len(send_times_s))
    assert sorted(send_times_s, reverse=True)[few] < SEND_LIMIT_S
    assert max(send_times_s) < PREEMPTED_S


def _send_times_s(sender: NoticeSender, count: int) -> list[float]:
    taken_s: list[float] = []
    for number in range(count):
        begun_s = time.monotonic()
        sender.send(Notice(job_id="flood", kind="progress", seq=number))
        taken_s.append(time.monotonic() - begun_s)
    return taken_s
