"""What kombu stumbles over on Redis is met, said, and harmless."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport import redis, virtual
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from core.messaging.broker_guard import MalformedMessage
from tasks.messaging import redelivery
from tasks.messaging.redelivery import CalmQoS

WRONG_TYPE = ResponseError("Command # 1 (ZADD secret) of pipeline caused error: WRONGTYPE Operation")
READ_ONLY = ResponseError("READONLY You can't write against a read only replica.")


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Channels whose keys were looked at."""
    mended: list[Any] = []
    monkeypatch.setattr(redelivery, "mend_keys", mended.append)
    return mended


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was noted in this process, where kombu keeps it for any transport."""
    noted: list[tuple[Any, ...]] = []
    monkeypatch.setattr(virtual.QoS, "append", lambda _self, *arguments: noted.append(("append", *arguments)))
    monkeypatch.setattr(virtual.QoS, "ack", lambda _self, *arguments: noted.append(("ack", *arguments)))
    return noted


@pytest.fixture
def qos() -> CalmQoS:
    made: Any = CalmQoS.__new__(CalmQoS)
    made.channel = SimpleNamespace(name="channel")
    made._delivered = {}
    assert isinstance(made, CalmQoS)
    return made


def fail(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Have kombu's own method raise."""

    def raise_it(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(redis.QoS, name, raise_it)


CALLS: list[tuple[str, Callable[[CalmQoS], None], list[tuple[Any, ...]]]] = [
    ("append", lambda qos: qos.append("message", "tag"), [("append", "message", "tag")]),
    ("ack", lambda qos: qos.ack("tag"), [("ack", "tag")]),
    ("reject", lambda qos: qos.reject("tag", requeue=True), [("ack", "tag")]),
    ("restore_visible", lambda qos: qos.restore_visible(1, limit=2), []),
]


@pytest.mark.parametrize(("name", "act", "in_memory"), CALLS, ids=[name for name, *_ in CALLS])
@pytest.mark.parametrize("error", [WRONG_TYPE, READ_ONLY])
def test_a_server_that_refuses_costs_a_line(
    qos: CalmQoS,
    mended: list[Any],
    noted: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    act: Callable[[CalmQoS], None],
    in_memory: list[tuple[Any, ...]],
    error: ResponseError,
) -> None:
    fail(monkeypatch, name, error)
    act(qos)
    assert noted == in_memory
    assert mended == ([qos.channel] if error is WRONG_TYPE else [])
    assert "takes no note of a message" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("name", "act", "_in_memory"), CALLS, ids=[name for name, *_ in CALLS])
def test_what_it_takes_is_left_to_kombu(
    qos: CalmQoS,
    noted: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    act: Callable[[CalmQoS], None],
    _in_memory: list[tuple[Any, ...]],
) -> None:
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(redis.QoS, name, lambda _self, *more, **options: asked.append((more, options)))
    act(qos)
    expected = {
        "append": (("message", "tag"), {}),
        "ack": (("tag",), {}),
        "reject": (("tag", True), {}),
        "restore_visible": ((1,), {"limit": 2}),
    }
    assert asked == [expected[name]]
    assert noted == []


def test_what_is_rejected_is_dropped_unless_it_is_wanted_back(qos: CalmQoS, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(redis.QoS, "reject", lambda _self, *arguments: asked.append(arguments))
    qos.reject("tag")
    assert asked == [("tag", False)]


class TestGivingBack:
    @pytest.fixture
    def removed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Tags that were taken out of the lists of what is not acknowledged."""
        removed: list[str] = []
        monkeypatch.setattr(
            CalmQoS,
            "_remove_from_indices",
            lambda _self, tag: SimpleNamespace(execute=lambda: removed.append(tag)),
            raising=False,
        )
        return removed

    @pytest.mark.parametrize("error", [MalformedMessage("no id"), ValueError("x"), KeyError("x")])
    def test_what_is_no_message_is_dropped(
        self,
        qos: CalmQoS,
        removed: list[str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        fail(monkeypatch, "restore_by_tag", error)
        qos.restore_by_tag("tag")
        assert removed == ["tag"]
        said = "no id" if isinstance(error, MalformedMessage) else type(error).__name__
        assert f"is no message, and is dropped ({said})" in caplog.text

    def test_what_the_server_refuses_is_not(
        self, qos: CalmQoS, removed: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail(monkeypatch, "restore_by_tag", READ_ONLY)
        with pytest.raises(ResponseError):
            qos.restore_by_tag("tag")
        assert removed == []

    def test_a_message_is_given_back(self, qos: CalmQoS, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[Any, ...]] = []
        monkeypatch.setattr(
            redis.QoS, "restore_by_tag", lambda _self, tag, client, leftmost: asked.append((tag, client, leftmost))
        )
        qos.restore_by_tag("tag", "client", leftmost=True)
        qos.restore_by_tag("tag")
        assert asked == [("tag", "client", True), ("tag", None, False)]

    @pytest.mark.parametrize("error", [AttributeError("None"), OSError("closed"), NoConnection("away")])
    def test_at_the_end_of_a_channel_they_are_left(
        self, qos: CalmQoS, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
    ) -> None:
        fail(monkeypatch, "restore_unacked_once", error)
        qos._delivered = OrderedDict({"1": "a", "2": "b"})
        qos.restore_unacked_once()
        assert qos._delivered == {}
        assert "2 messages were not given back" in caplog.text
        qos._delivered = None
        qos.restore_unacked_once()


def test_every_channel_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Channel, "QoS", redis.QoS)
    redelivery.install()
    assert redis.Channel.QoS is CalmQoS
