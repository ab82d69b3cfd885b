"""The agent's steps in Celery's worker."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tasks.instance.agent import InstanceAgent
from tasks.instance.bootsteps import GateStep, InstanceStep
from tasks.messaging.names import GPU_QUEUE

QUEUES = [GPU_QUEUE, "gpu.gpu0@here"]


class Consumer:
    """Celery's consumer. Before its loop runs it knows no place yet for a message that comes."""

    def __init__(self) -> None:
        self.every_s = 0.0
        #: What its timer does, until it is cancelled.
        self.later: list[Callable[[], None]] = []
        self.queues: list[str] = []
        #: How often a queue was begun with or left.
        self.changes = 0
        self.agent = SimpleNamespace(takes_jobs=True, name="gpu0@here", started=0, start=self._start)
        self.timer = self.app = self.task_consumer = self
        self.process_context = {InstanceAgent: self.agent}

    def _start(self) -> None:
        self.agent.started += 1

    def call_repeatedly(self, every_s: float, call: Callable[..., None], arguments: tuple[Any, ...]) -> Consumer:
        self.every_s = every_s
        self.later.append(lambda: call(*arguments))
        return self

    def cancel(self) -> None:
        self.later.clear()

    def consuming_from(self, queue: str) -> bool:
        return queue in self.queues

    def add_task_queue(self, queue: str) -> None:
        self.changes += 1
        self.queues.append(queue)

    def cancel_task_queue(self, queue: str) -> None:
        self.changes += 1
        self.queues.remove(queue)

    def pass_time(self) -> None:
        for call in self.later:
            call()


def test_the_agent_starts_with_the_worker() -> None:
    worker = Consumer()
    InstanceStep(worker).start(worker)
    assert worker.agent.started == 1


def test_turns_are_taken_no_sooner_than_celery_has_a_place_for_them() -> None:
    consumer = Consumer()
    GateStep(consumer).start(consumer)
    assert consumer.queues == []
    assert consumer.every_s == 0.2

    consumer.pass_time()

    assert consumer.queues == QUEUES


def test_turns_are_taken_while_the_instance_takes_jobs() -> None:
    consumer = Consumer()
    step = GateStep(consumer)
    step.start(consumer)
    for takes_jobs, queues, changes in [
        (False, [], 0),
        (True, QUEUES, 2),
        (True, QUEUES, 2),
        (False, [], 4),
        (False, [], 4),
    ]:
        consumer.agent.takes_jobs = takes_jobs
        consumer.pass_time()
        assert (consumer.queues, consumer.changes) == (queues, changes)
    step.stop(consumer)
    assert consumer.later == []
