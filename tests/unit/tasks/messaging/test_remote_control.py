"""Asking a GPU's worker to do something: whom, for how long, and what counts as an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import BrokerUnavailable, InstanceUnreachable
from tasks.messaging.remote_control import DRAIN, ask
from tests.makers import NAME

INSTANCE: Any = SimpleNamespace(name=NAME, worker="gpu0.1@here")


class App:
    """An app whose workers answer as a test says."""

    def __init__(self) -> None:
        self.conf = SimpleNamespace(broker_url="redis://127.0.0.1:1/0")
        self.control = self
        self.replies: Any = [{"gpu0.1@here": {"ok": True}}]
        self.error: Exception | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.open = 0

    @contextlib.contextmanager
    def connection_for_write(self) -> Iterator[str]:
        self.open += 1
        yield "its own"
        self.open -= 1

    def broadcast(self, command: str, **options: Any) -> Any:
        assert self.open
        self.asked.append((command, options))
        if self.error is not None:
            raise self.error
        return self.replies


def test_its_worker_alone_is_asked_and_given_a_few_seconds() -> None:
    app = App()
    ask(app, DRAIN, INSTANCE)  # type: ignore[arg-type]
    assert app.asked == [
        (
            "fleet_drain",
            {
                "arguments": {"instance": NAME},
                "destination": ["gpu0.1@here"],
                "reply": True,
                "timeout": 5.0,
                "limit": 1,
                "connection": "its own",
            },
        )
    ]


@pytest.mark.parametrize(
    "replies", [None, [], [{"w": {"ok": False}}], [{"w": {}}], [{"w": {"ok": "yes"}}], [{"w": {"error": "x"}}]]
)
def test_no_other_answer_counts(replies: Any) -> None:
    app = App()
    app.replies = replies
    with pytest.raises(InstanceUnreachable, match=NAME):
        ask(app, DRAIN, INSTANCE)  # type: ignore[arg-type]


def test_one_that_does_among_others_is_enough() -> None:
    app = App()
    app.replies = [{"v": {"ok": False}}, {"w": {"ok": True}}]
    ask(app, DRAIN, INSTANCE)  # type: ignore[arg-type]


def test_a_broker_that_does_not_answer_is_said() -> None:
    app = App()
    app.error = OSError("refused")
    with pytest.raises(BrokerUnavailable, match="OSError"):
        ask(app, DRAIN, INSTANCE)  # type: ignore[arg-type]
