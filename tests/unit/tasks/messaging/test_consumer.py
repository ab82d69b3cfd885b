"""The door of a worker: what passes it, what is dropped with a line, and what a broken connection costs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import celery.worker.pidbox
import pytest
from celery.worker.consumer import Consumer
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from tasks.messaging import consumer as consumer_module
from tasks.messaging.consumer import REST_S, SOON_S, ComfylineConsumer, ComfylinePidbox
from tasks.messaging.context import ProcessContext
from tasks.messaging.inbound import Refused
from tasks.messaging.names import GENERATE, NOTIFY
from tests.makers import Stopwatch

WRONG_TYPE = ResponseError("Command # 1 (LPUSH secret) of pipeline caused error: WRONGTYPE Operation")


class Message:
    """A message from a queue."""

    def __init__(self, **delivery: Any) -> None:
        self.delivery_info = delivery
        self.rejected: list[tuple[Any, ...]] = []

    def reject_log_error(self, *arguments: Any) -> None:
        self.rejected.append(arguments)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(consumer_module, "time", watch)
    return watch


@pytest.fixture
def worker(watch: Stopwatch) -> Any:
    """A consumer of a GPU worker that was not connected."""
    made: Any = ComfylineConsumer.__new__(ComfylineConsumer)
    queues = {
        "gpu": SimpleNamespace(exchange=SimpleNamespace(name="comfyline")),
        "odd": SimpleNamespace(exchange=None),
    }
    made.app = SimpleNamespace(process_context=ProcessContext("gpu"), amqp=SimpleNamespace(queues=queues))
    made.strategies = {GENERATE: None}
    made.connection = SimpleNamespace(default_channel="channel")
    made.connection_errors = (OSError,)
    return made


class TestTasks:
    @pytest.fixture
    def handled(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What Celery gets to see."""
        handled: list[Any] = []
        monkeypatch.setattr(Consumer, "create_task_handler", lambda _self, **_options: handled.append)
        return handled

    def receive(self, worker: Any, monkeypatch: pytest.MonkeyPatch, task: str) -> Message:
        def admit(_message: object, is_known: Callable[[str], bool]) -> None:
            if not is_known(task):
                raise Refused("it is for nobody")

        monkeypatch.setattr(consumer_module, "admit", admit)
        message = Message(routing_key="gpu")
        worker.create_task_handler(promise=None)(message)
        return message

    def test_what_is_ours_passes(self, worker: Any, handled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        message = self.receive(worker, monkeypatch, GENERATE)
        assert handled == [message]
        assert message.rejected == []

    @pytest.mark.parametrize("task", [NOTIFY, "other"])
    def test_what_is_for_no_worker_like_this_is_dropped(
        self,
        worker: Any,
        handled: list[Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        task: str,
    ) -> None:
        worker.strategies = {GENERATE: None, task: None}
        message = self.receive(worker, monkeypatch, task)
        assert handled == []
        assert message.rejected == [(consumer_module.log, (OSError,))]
        assert "a message in 'gpu' is none of ours, and is dropped: it is for nobody" in caplog.text

    def test_so_is_what_is_not_registered(
        self, worker: Any, handled: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker.strategies = {}
        assert self.receive(worker, monkeypatch, GENERATE).rejected
        assert handled == []

    @pytest.mark.parametrize(
        ("delivery", "said"), [({"routing_key": "\u00fc" * 100}, "'" + "\\xfc" * 19 + "\\xf"), ({}, "a queue")]
    )
    def test_what_cannot_be_unpacked_is_dropped(
        self, worker: Any, caplog: pytest.LogCaptureFixture, delivery: dict[str, Any], said: str
    ) -> None:
        message = Message(**delivery)
        worker.on_decode_error(message, ValueError("a secret"))
        assert len(message.rejected) == 1
        assert "it cannot be unpacked (ValueError)" in caplog.text
        assert "secret" not in caplog.text
        assert f"in {said[:78]}" in caplog.text


class TestConnection:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
        """The errors that Celery hears of."""
        told: list[Exception] = []
        for moment in ("before", "after"):
            name = f"on_connection_error_{moment}_connected"
            monkeypatch.setattr(Consumer, name, lambda _self, exc: told.append(exc))
        return told

    @pytest.fixture
    def mended(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        mended: list[tuple[Any, ...]] = []
        monkeypatch.setattr(consumer_module, "mend_keys", lambda *arguments: mended.append(arguments))
        return mended

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_one_that_fails_soon_after_another_is_not_followed_at_once(
        self, worker: Any, told: list[Exception], watch: Stopwatch, moment: str
    ) -> None:
        assert (SOON_S, REST_S) == (5.0, 1.0)
        error = OSError("refused")
        lost = getattr(worker, f"on_connection_error_{moment}_connected")
        for pause_s, slept in [(0.0, 0), (SOON_S - 0.5, 1), (SOON_S, 1), (0.0, 2), (0.0, 3)]:
            watch.now_s += pause_s
            lost(error)
            assert watch.slept_s == [REST_S] * slept
        assert told == [error] * 5

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_keys_of_a_wrong_type_are_mended(
        self, worker: Any, told: list[Exception], mended: list[tuple[Any, ...]], moment: str
    ) -> None:
        getattr(worker, f"on_connection_error_{moment}_connected")(WRONG_TYPE)
        assert mended == [
            ("channel", ["gpu", "odd"], {"comfyline", "celery.pidbox", "reply.celery.pidbox", "celeryev"})
        ]
        [error] = told
        assert (type(error), str(error)) == (ResponseError, "WRONGTYPE Operation")

    def test_another_refusal_mends_nothing(
        self, worker: Any, told: list[Exception], mended: list[tuple[Any, ...]]
    ) -> None:
        worker.on_connection_error_after_connected(ResponseError("READONLY x"))
        worker.connection = None
        worker.on_connection_error_after_connected(WRONG_TYPE)
        assert mended == []
        assert [str(error) for error in told] == ["READONLY x", "WRONGTYPE Operation"]

    @pytest.mark.parametrize("error", [OSError("refused"), NoConnection("away")])
    def test_a_server_that_is_gone_again_is_said(
        self,
        worker: Any,
        told: list[Exception],
        mended: list[tuple[Any, ...]],
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        class Gone:
            @property
            def default_channel(self) -> None:
                raise error

        worker.connection = Gone()
        worker.on_connection_error_after_connected(WRONG_TYPE)
        assert mended == []
        assert "cannot be set aside" in caplog.text
        assert len(told) == 1


class TestCommands:
    @pytest.fixture
    def box(self) -> Any:
        made: Any = ComfylinePidbox.__new__(ComfylinePidbox)
        made.node = SimpleNamespace(handlers={"fleet_drain": None})
        return made

    def test_what_is_a_command_passes_as_it_was_admitted(self, box: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        passed: list[tuple[Any, ...]] = []
        monkeypatch.setattr(consumer_module, "admit_command", lambda body, _message, handlers: (body, handlers))
        monkeypatch.setattr(
            celery.worker.pidbox.Pidbox, "on_message", lambda _self, *arguments: passed.append(arguments)
        )
        box.on_message("body", "message")
        assert passed == [(("body", box.node.handlers), "message")]

    def test_what_is_none_is_dropped(
        self, box: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)

        def refuse(*_arguments: object) -> None:
            raise Refused("it names no command")

        def never(*_arguments: object) -> None:
            raise AssertionError("it passed")

        monkeypatch.setattr(consumer_module, "admit_command", refuse)
        monkeypatch.setattr(celery.worker.pidbox.Pidbox, "on_message", never)
        box.on_message("body", "message")
        assert "is none, and is dropped: it names no command" in caplog.text

    def test_what_cannot_be_read_costs_no_connection(
        self, box: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        started: list[Any] = []
        monkeypatch.setattr(celery.worker.pidbox.Pidbox, "start", lambda _self, c: started.append(c))
        box.consumer = SimpleNamespace()
        box.start("c")
        assert started == ["c"]
        box.consumer.on_decode_error("message", ValueError("a secret"))
        assert "cannot be read, and is dropped (ValueError)" in caplog.text
        assert "secret" not in caplog.text

    def test_workers_of_this_process_have_that_box(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(celery.worker.pidbox, "Pidbox", celery.worker.pidbox.Pidbox)
        consumer_module.install()
        assert celery.worker.pidbox.Pidbox is ComfylinePidbox
