"""Worker processes: one GPU worker for each instance, io workers, and beat.

A GPU worker is a Celery worker with one pool process. Its main process owns the ComfyUI instance, tells the ledger how
it is, and consumes turns only while it is healthy; its pool process runs the jobs.
"""

from __future__ import annotations

import logging
import sys
import uuid
from typing import Any

from celery import Celery, bootsteps, signals
from celery.exceptions import WorkerLostError
from celery.worker.control import control_command

from comfy.spec import InstanceSpec
from core.errors import ConfigurationError
from core.ledger.schema import migrate
from core.settings import Settings
from tasks import generate, maintenance, notify, upload
from tasks.app import Role, make_app
from tasks.gpus import plan_instances
from tasks.keeper import Keeper
from tasks.names import GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE, io_queue_of
from tasks.runtime import equip
from tasks.station import Station

#: Modules whose import registers the tasks.
TASK_MODULES = (generate, maintenance, notify, upload)
#: Seconds between looks at whether this worker should consume.
GATE_S = 0.2
IO_THREADS = 16

log = logging.getLogger(__name__)


def gpu_arguments(name: str) -> list[str]:
    """Celery's command line of the GPU worker of one instance."""
    # Prefork with one process: threads and solo break time limits, remote control or heartbeats. The node name is new
    # at each start, for a broker may still hold the control queue of a predecessor that was killed.
    return [
        *("worker", "--pool=prefork", "--concurrency=1", f"--queues={GPU_QUEUE}"),
        f"--hostname={name}.{uuid.uuid4().hex[:8]}@%h",
        *("--without-gossip", "--without-mingle", "--loglevel=INFO"),
    ]


def io_arguments(settings: Settings) -> list[str]:
    """Celery's command line of an io worker."""
    # Threads: all its work waits for disks and networks, and every call has its own time limit.
    return [
        *("worker", "--pool=threads", f"--concurrency={IO_THREADS}"),
        f"--queues={IO_QUEUE},{io_queue_of(settings.host)},{MAINTENANCE_QUEUE}",
        f"--hostname=io.{uuid.uuid4().hex[:8]}@%h",
        *("--without-gossip", "--without-mingle", "--loglevel=INFO"),
    ]


def run_gpu_worker(settings: Settings, name: str) -> None:
    """Own one instance (`gpu0`) and run jobs on it until SIGTERM."""
    spec = _spec(settings, name)
    app = _prepare(settings, "gpu")
    keeper = Keeper(settings, spec)
    app.fleet_keeper = keeper  # type: ignore[attr-defined]
    app.steps["worker"].add(InstanceStep)
    app.steps["consumer"].add(GateStep)

    # Celery keeps weak references to signal handlers; these live as long as this function, which is long enough.
    def open_station(**_kwargs: Any) -> None:
        generate.open_station(Station(equip(app, settings), keeper.name))

    def close_station(**_kwargs: Any) -> None:
        generate.close_station()

    def on_failure(exception: BaseException | None = None, **_kwargs: Any) -> None:
        if isinstance(exception, WorkerLostError):
            keeper.lose_jobs()

    signals.worker_process_init.connect(open_station)
    signals.worker_process_shutdown.connect(close_station)
    signals.task_failure.connect(on_failure)
    try:
        _run(app, gpu_arguments(name))
    finally:
        # Only now: a warm shutdown lets the running job finish, and the job needs its instance for that.
        keeper.stop()


def run_io_worker(settings: Settings) -> None:
    """Store files, post webhooks, reconcile, until SIGTERM."""
    app = _prepare(settings, "io")
    equip(app, settings)
    _run(app, io_arguments(settings))


def run_beat(settings: Settings) -> None:
    """Publish the reconciler's ticks until SIGTERM."""
    app = _prepare(settings, "beat")
    _run(app, ["beat", "--loglevel=INFO", "--pidfile="])


class InstanceStep(bootsteps.StartStopStep):
    """Starts the instance with the worker. It ends after the worker, see `run_gpu_worker`."""

    # After the pool: its process is forked before the supervisor's threads exist.
    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        parent.app.fleet_keeper.start(worker=parent.hostname)


class GateStep(bootsteps.StartStopStep):
    """Consumes turns only while the instance is healthy; looked at by a timer in the consumer's own thread."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        self._timer = parent.timer.call_repeatedly(GATE_S, self._look, (parent,))
        self._look(parent)

    def stop(self, _parent: Any) -> None:
        self._timer.cancel()

    def _look(self, consumer: Any) -> None:
        wanted = consumer.app.fleet_keeper.is_healthy
        consuming = consumer.task_consumer.consuming_from(GPU_QUEUE)
        if wanted and not consuming:
            consumer.add_task_queue(GPU_QUEUE)
        elif consuming and not wanted:
            consumer.cancel_task_queue(GPU_QUEUE)


@control_command(args=[("instance", str), ("prompt_id", str)])
def fleet_interrupt(state: Any, instance: str, prompt_id: str) -> dict[str, bool]:
    """Remote control: interrupt one prompt, if this worker owns the instance it runs on."""
    keeper: Keeper | None = getattr(state.app, "fleet_keeper", None)
    mine = keeper is not None and keeper.name == instance
    if keeper is not None and mine:
        keeper.interrupt(prompt_id)
    return {"ok": mine}


def _spec(settings: Settings, name: str) -> InstanceSpec:
    specs = {spec.name: spec for spec in plan_instances(settings)}
    if name not in specs:
        raise ConfigurationError(f"There is no {name} on this machine; the settings give {', '.join(specs)}.")
    return specs[name]


def _prepare(settings: Settings, role: Role) -> Celery:
    settings.make_data_dir()
    migrate(settings)
    return make_app(settings, role)


def _run(app: Celery, arguments: list[str]) -> None:
    for name in ("celery.app.trace", "celery.worker.strategy"):
        # Each task has one line, from its base class; Celery's own say the same twice more.
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.argv = ["celery", *arguments]
    app.start(argv=arguments)
