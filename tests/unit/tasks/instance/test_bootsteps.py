"""The agent's steps in Celery's worker."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tasks.instance.agent import InstanceAgent
from tasks.instance.bootsteps import GateStep
from tasks.messaging.names import GPU_QUEUE


class Idle:
    """Celery's consumer before its loop runs: it knows no place yet for a message that comes."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []
        self.queues: list[str] = []
        self.timer = self.app = self.task_consumer = self
        self.process_context = {InstanceAgent: SimpleNamespace(takes_jobs=True)}

    def call_repeatedly(self, _every_s: float, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.later.append(functools.partial(call, *arguments))

    def consuming_from(self, queue: str) -> bool:
        return queue in self.queues

    def add_task_queue(self, queue: str) -> None:
        self.queues.append(queue)


def test_turns_are_taken_no_sooner_than_celery_has_a_place_for_them() -> None:
    consumer = Idle()
    GateStep(consumer).start(consumer)

    assert consumer.queues == []

    for call in consumer.later:
        call()
    assert consumer.queues == [GPU_QUEUE]
