"""Messages: what is in them, where they go, and what a broker costs that does not take them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from core.records.job import prompt_id_of
from tasks.messaging import publish
from tasks.messaging.names import GENERATE, GPU_QUEUE, IO_QUEUE, NOTIFY, UPLOAD
from tasks.messaging.publish import BACKLOG, BREAK_S, BackgroundSender, Publisher
from tests.makers import Stopwatch


class App:
    """An app whose broker takes everything, until it does not."""

    def __init__(self) -> None:
        self.conf = SimpleNamespace(broker_url="redis://127.0.0.1:1/0")
        self.sent: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.control = self
        self._app = Celery("x", set_as_current=False)

    def signature(self, name: str, **options: Any) -> Any:
        return self._app.signature(name, **options)

    def send_task(self, task: str, args: tuple[Any, ...], **options: Any) -> None:
        self._take(task, args, options)

    def broadcast(self, command: str, **options: Any) -> None:
        self._take(command, options)

    def _take(self, *message: Any) -> None:
        self.sent.append(message)
        if self.error is not None:
            raise self.error


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(publish, "time", watch)
    return watch


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def publisher(app: App, watch: Stopwatch) -> Publisher:
    return Publisher(app)  # type: ignore[arg-type]


def steps(chain: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Task and queue of each step."""
    return [(step["task"], step["options"].get("queue")) for step in chain]


class TestMessages:
    def test_a_turn_is_a_chain_whose_last_step_comes_next(self, publisher: Publisher, app: App) -> None:
        assert publisher.turn("j1") is True
        [(task, arguments, options)] = app.sent
        assert (task, arguments) == (GENERATE, ("j1",))
        assert (options["queue"], options["task_id"]) == (GPU_QUEUE, "j1")
        assert steps(options["chain"]) == [(NOTIFY, IO_QUEUE), (UPLOAD, None)]

    def test_files_are_stored_where_they_lie(self, publisher: Publisher, app: App) -> None:
        assert publisher.store("j1", 3, "there") is True
        [(task, arguments, options)] = app.sent
        assert (task, arguments, options["queue"]) == (UPLOAD, (["j1", 3],), "io.there")
        assert steps(options["chain"]) == [(NOTIFY, IO_QUEUE)]

    def test_webhooks_are_sent_anywhere(self, publisher: Publisher, app: App) -> None:
        assert publisher.notify("j1") is True
        assert app.sent == [(NOTIFY, ("j1",), {"queue": IO_QUEUE})]

    def test_commands_go_to_everybody(self, publisher: Publisher, app: App) -> None:
        publisher.interrupt("j1", 3, "gpu0@here")
        assert publisher.look_again() is True
        arguments = {"instance": "gpu0@here", "prompt_id": prompt_id_of("j1", 3)}
        assert app.sent == [("fleet_interrupt", {"arguments": arguments}), ("fleet_look_again", {})]


class TestBroker:
    @pytest.mark.parametrize("error", [OSError("refused"), AttributeError("closed under it")])
    def test_one_that_does_not_take_a_message_is_left_alone_for_a_while(
        self, publisher: Publisher, app: App, watch: Stopwatch, error: Exception
    ) -> None:
        app.error = error
        assert publisher.turn("j1") is False
        app.error = None
        watch.now_s += BREAK_S - 0.5
        assert publisher.notify("j1") is False
        assert len(app.sent) == 1
        watch.now_s += 0.5
        assert publisher.notify("j1") is True
        assert BREAK_S == 2.0

    def test_what_it_did_not_take_is_said_in_a_line(
        self, publisher: Publisher, app: App, caplog: pytest.LogCaptureFixture
    ) -> None:
        app.error = OSError("refused")
        publisher.turn("j1")
        [record] = caplog.records
        assert "did not take fleet.generate('j1',)" in record.getMessage()
        assert record.exc_info is None


class TestBackground:
    def test_nobody_waits_for_the_broker(self) -> None:
        may_go_on, begun, sent = threading.Event(), threading.Event(), []

        def notify(job_id: str) -> bool:
            begun.set()
            may_go_on.wait(10)
            sent.append(job_id)
            return True

        notifier = BackgroundSender(SimpleNamespace(notify=notify))  # type: ignore[arg-type]
        notifier.notify("0")
        assert begun.wait(10)
        for number in range(1, BACKLOG + 5):
            notifier.notify(str(number))
        notifier._loop.end()
        assert notifier._queue.qsize() == BACKLOG == 1_000
        may_go_on.set()
        notifier._loop.join(10)
        assert sent[0] == "0"
