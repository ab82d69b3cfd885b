"""The task that has webhooks sent tells the dispatcher, and does not wait."""

from __future__ import annotations

from types import SimpleNamespace

from tasks.notify import notify
from tasks.webhooks.dispatcher import WebhookDispatcher
from tests.makers import BrokerlessRuntime
from tests.unit.tasks.task_calls import call


def test_the_dispatcher_of_this_process_hears_of_the_job(runtime: BrokerlessRuntime) -> None:
    told: list[str] = []
    dispatcher = SimpleNamespace(call=told.append)
    called = call(runtime, notify, "j1", held={WebhookDispatcher: dispatcher})
    assert told == ["j1"]
    assert (called.result, called.reported) == ("j1", "job j1")
