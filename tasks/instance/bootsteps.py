"""The agent's place in Celery's worker: steps that start it, and that let turns in only while it takes jobs."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from tasks.instance.agent import InstanceAgent
from tasks.messaging.context import context_of
from tasks.messaging.names import GPU_QUEUE, gpu_queue_of

#: Seconds between looks at whether this worker should consume.
GATE_S = 0.2


class InstanceStep(bootsteps.StartStopStep):
    """Starts the instance with the worker. The instance ends after the worker, see `run_gpu_worker`."""

    # After the pool: its process is forked before the supervisor's threads exist.
    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        context_of(parent.app)[InstanceAgent].start()


class GateStep(bootsteps.StartStopStep):
    """Consumes turns only while the instance takes jobs; a timer in the consumer's own thread looks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        # Not at once: until Celery's loop runs it has no place for messages, and one that comes then would end it.
        self._timer = parent.timer.call_repeatedly(GATE_S, self._look, (parent,))

    def stop(self, _parent: Any) -> None:
        self._timer.cancel()

    def _look(self, consumer: Any) -> None:
        agent = context_of(consumer.app)[InstanceAgent]
        for queue in (GPU_QUEUE, gpu_queue_of(agent.name)):
            consuming = consumer.task_consumer.consuming_from(queue)
            if agent.takes_jobs and not consuming:
                consumer.add_task_queue(queue)
            elif consuming and not agent.takes_jobs:
                consumer.cancel_task_queue(queue)
