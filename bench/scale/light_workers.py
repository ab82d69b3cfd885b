"""GPU workers as they are, but for Celery and ComfyUI: many in one process.

Each has what a GPU worker's pool process has, a runtime and a job runner, and does what its main process does for the
ledger. Turns come to it through the broker, to queues of its own; what Celery tells Flower goes out as well. So each
transaction and each message of a job is made by the code that makes it in a fleet.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Connection as BrokerConnection
from kombu import Consumer, Message

from bench.scale.light_comfy import LightSession, Stage
from core.background import failure_of
from core.ledger.instances import HEALTHY
from core.metrics.reporter import GPU_FACTOR
from core.metrics.tally import process_tally
from core.settings import Settings
from tasks.instance.first_turn import publish_first_turn
from tasks.instance.probe import InstanceInfo
from tasks.messaging.app import make_app
from tasks.messaging.names import GENERATE, GPU_QUEUE, gpu_queue_of
from tasks.runner.attempt_end import Finished, Stored
from tasks.runner.connection import Connected, Connection
from tasks.runner.distress import CondemnPipe
from tasks.runner.recorder import Recorder
from tasks.runner.runner import JobRunner
from tasks.runtime import Runtime

#: As Celery has it.
CELERY_BEAT_S = 2.0
#: A worker's two processes report what they have counted.
REPORTS = 2
#: Threads are many, and a process should not be all locks.
IN_ONE_PROCESS = 50


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The light workers of one process, and how they are."""

    settings: dict[str, Any]
    names: tuple[str, ...]
    info: InstanceInfo
    run_s: float


class LightConnection(Connection):
    """A runner's connection with its light ComfyUI."""

    def __init__(self, runtime: Runtime, instance_name: str, session: LightSession) -> None:
        super().__init__(runtime, instance_name)
        self._session = session

    def _connect(self) -> Connected:
        instance = self._runtime.ledger.instances.get(self._name)
        assert instance is not None
        assert self._session is not None
        return instance, self._session


class LightRunner(JobRunner):
    """A job runner on one."""

    def __init__(self, runtime: Runtime, instance_name: str, session: LightSession) -> None:
        super().__init__(runtime, instance_name, CondemnPipe())
        self._connection = LightConnection(runtime, instance_name, session)


class LightWorker:
    """One GPU worker."""

    def __init__(self, settings: Settings, app: Celery, name: str, stage: Stage, crew: Crew) -> None:
        self.name = name
        self._celery_name = f"{name}-{uuid.uuid4().hex[:8]}"
        self._settings, self._app = settings, app
        self._runtime = Runtime(settings, app)
        self._output_dir = settings.gpu_dir(name.partition("@")[0]) / "output"
        self._output_dir.mkdir(parents=True)
        self._come_up(crew.info)
        self._runner = LightRunner(self._runtime, name, LightSession(stage, self._output_dir, crew.run_s))
        #: What is to be said over the connection of all, by the thread that has it.
        self.to_say: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._turns: queue.SimpleQueue[tuple[str, str, Message] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def listen(self, connection: BrokerConnection) -> None:
        """Consume its queues, and tell of itself, over a connection."""
        channel = connection.channel()
        queues = [self._app.amqp.queues[each] for each in (GPU_QUEUE, gpu_queue_of(self.name))]
        Consumer(channel, queues, callbacks=[self._receive], accept=["json"], prefetch_count=1).consume()
        self._events = self._app.events.Dispatcher(connection, hostname=self._celery_name)
        publish_first_turn(self._settings, self.name)

    def beat(self) -> None:
        """Tell the ledger that it lives."""
        self._runtime.storage.problem()
        self._runtime.ledger.instances.heartbeat(
            self.name, worker=self._celery_name, state=HEALTHY, reason=None, is_drained=False, restarts=0
        )

    def report(self) -> None:
        """Report what was counted."""
        for _ in range(REPORTS):
            self._runtime.ledger.metrics.report(str(uuid.uuid4()), process_tally.take())

    def celery_beat(self) -> None:
        """Tell Flower that it lives."""
        self._events.send(
            "worker-heartbeat",
            freq=CELERY_BEAT_S,
            active=0,
            processed=0,
            loadavg=(0.0, 0.0, 0.0),
            sw_ident="py-celery",
            sw_ver="5.7.0",
            sw_sys="Linux",
        )

    def close(self) -> None:
        """Give back what it has, and end."""
        self._turns.put(None)
        self._runner.close()
        self._runtime.close()

    def _come_up(self, info: InstanceInfo) -> None:
        instances = self._runtime.ledger.instances
        instances.register(name=self.name, host="bench", worker=self._celery_name, kind="simulator", gpu="0")
        instances.up(
            self.name,
            worker=self._celery_name,
            url="http://127.0.0.1:1",
            output_dir=str(self._output_dir),
            version=info.version,
            device=info.device,
            object_info=info.object_info,
            model_sizes=info.model_sizes,
            vram_bytes=info.vram_bytes,
            memory_bytes=int(self._settings.model_memory_gb * 1e9),
            restarts=0,
        )

    def _receive(self, _body: Any, message: Message) -> None:
        [[job_id], *_] = json.loads(message.body or "")
        task_id = str(message.headers["id"])

        def begin() -> None:
            told = {"name": GENERATE, "args": repr((job_id,)), "kwargs": "{}", "retries": 0}
            self._events.send("task-received", uuid=task_id, **told)
            self._events.send("task-started", uuid=task_id)

        # Not here: this may be called while an event waits for the broker's word that it has it.
        self.to_say.put(begin)
        self._turns.put((task_id, job_id, message))

    def _work(self) -> None:
        while (turn := self._turns.get()) is not None:
            task_id, job_id, message = turn
            result: list[str] = []

            def use(named: str = job_id, said: list[str] = result) -> None:
                said.append(self._use(named))

            failure_of(use, f"turn of {self.name}")

            def end(message: Message = message, task_id: str = task_id, result: str = "".join(result)) -> None:
                message.ack()
                self._events.send("task-succeeded", uuid=task_id, result=result, runtime=1.0)

            self.to_say.put(end)

    def _use(self, named: str) -> str:
        """Do what the task does with a turn."""
        end = self._runner.work(named)
        if end is None:
            return "nothing to do"
        if isinstance(end, Finished) and not isinstance(end, Stored):
            self._runtime.publisher.store(end.job_id, end.attempt, self._settings.host)
        else:
            Recorder(self._runtime).move_on(end)
        return f"job {end.job_id} attempt {end.attempt} on {self.name}"


def run_crew(crew: Crew, ready: Event, stop: Event) -> None:
    """Run the light workers of one process until told to stop."""
    settings = Settings(**crew.settings)
    app = make_app(settings, "gpu")
    stage = Stage()
    workers = [LightWorker(settings, app, name, stage, crew) for name in crew.names]
    beats = threading.Thread(target=_beat, args=(workers, settings, stop), daemon=True)
    with app.connection_for_read() as connection:
        for worker in workers:
            worker.listen(connection)
        ready.set()
        beats.start()
        _converse(connection, workers, stop)
    stop.set()
    beats.join()
    for worker in workers:
        worker.close()
    stage.close()


def _converse(connection: BrokerConnection, workers: list[LightWorker], stop: Event) -> None:
    """Be the one thread that speaks over a connection."""
    beaten_s, parent = time.monotonic(), os.getppid()
    # Whoever started us may have been killed.
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.02)
        for worker in workers:
            while not worker.to_say.empty():
                worker.to_say.get()()
        if time.monotonic() - beaten_s >= CELERY_BEAT_S:
            beaten_s += CELERY_BEAT_S
            for worker in workers:
                worker.celery_beat()


def _beat(workers: list[LightWorker], settings: Settings, stop: Event) -> None:
    """Do what the main processes do every few seconds, each in its moment."""
    rounds = 0
    every = round(GPU_FACTOR * settings.metrics_report_s / settings.lease_renew_s)
    while not stop.is_set():
        for number, worker in enumerate(workers):
            failure_of(worker.beat, "heartbeat")
            if (rounds + number) % every == 0:
                failure_of(worker.report, "report")
            stop.wait(settings.lease_renew_s / len(workers))
        rounds += 1


@contextlib.contextmanager
def light_workers(settings: dict[str, Any], count: int, info: InstanceInfo, run_s: float) -> Iterator[list[int]]:
    """So many GPU workers in processes beside; yields the ids of these.

    Parameters:
      settings: those of the fleet, by name.
      run_s: how long a job runs.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    names = [f"light{number:03}@bench" for number in range(count)]
    Path(settings["data_dir"]).mkdir(parents=True, exist_ok=True)
    processes, readies = [], []
    for begin in range(0, count, IN_ONE_PROCESS):
        crew = Crew(settings=settings, names=tuple(names[begin : begin + IN_ONE_PROCESS]), info=info, run_s=run_s)
        readies.append(context.Event())
        processes.append(context.Process(target=run_crew, args=(crew, readies[-1], stop)))
        processes[-1].start()
    try:
        for ready in readies:
            assert ready.wait(120), "light workers do not come up"
        yield [process.pid for process in processes if process.pid is not None]
    finally:
        stop.set()
        for process in processes:
            process.join(timeout=60)
            if process.is_alive():
                process.kill()
                process.join()
