"""Worker processes: one GPU worker for each instance, io workers, and beat.

A GPU worker is a Celery worker with one pool process. Its main process owns the ComfyUI instance, tells the ledger how
it is, and consumes turns only while it is healthy; its pool process runs the jobs.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import uuid
from typing import Any

import billiard.pool
import billiard.util
from celery import Celery, signals
from celery.exceptions import WorkerLostError
from celery.utils.nodenames import host_format

from comfy.process.spec import InstanceSpec
from core import log_fields, log_format
from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.neighbour_watch import NeighbourWatch
from core.rollouts.anew import start_anew
from core.rollouts.process_watch import SelfRenewal
from core.settings import Settings
from core.tracing import spans
from tasks import check_upload, generate, notify, reconcile, upload
from tasks.instance import control
from tasks.instance.agent import InstanceAgent
from tasks.instance.bootsteps import GateStep, InstanceStep
from tasks.instance.directory_lock import first_at, occupied
from tasks.instance.plan import plan_instances
from tasks.instance.tenure import Tenure, check_host_name, take_or_refuse
from tasks.messaging import consumer
from tasks.messaging.app import make_app
from tasks.messaging.context import Role, context_of
from tasks.messaging.names import GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE, gpu_queue_of, io_queue_of
from tasks.outputs.slow_turns import SlowTurns
from tasks.outputs.workplace import open_workplace
from tasks.reconciling.deadlines import StartDeadlines
from tasks.runner.runner import JobRunner
from tasks.runtime import equip
from tasks.webhooks.dispatcher import WebhookDispatcher

#: Modules whose import registers the tasks and the commands of remote control.
TASK_MODULES = (control, check_upload, generate, notify, reconcile, upload)
IO_THREADS = 32
#: How often, ten times a second, an ending pool process looks whether its main process has read its last result.
LAST_RESULT_LOOKS = 30

log = logging.getLogger(__name__)


def gpu_options(name: str, instance: str) -> dict[str, Any]:
    """Return how Celery runs the GPU worker of one instance, `gpu0` and `gpu0@host`."""
    # Prefork with one process: threads and solo break time limits, remote control or heartbeats.
    return _common_options(name) | {
        "pool_cls": "prefork",
        "concurrency": 1,
        "queues": [GPU_QUEUE, gpu_queue_of(instance)],
    }


def io_options(settings: Settings) -> dict[str, Any]:
    """Return how Celery runs an io worker."""
    # Threads: all its work waits for disks and networks, and every call has its own time limit.
    queues = [IO_QUEUE, io_queue_of(settings.host), MAINTENANCE_QUEUE]
    return _common_options("io") | {"pool_cls": "threads", "concurrency": IO_THREADS, "queues": queues}


def _common_options(name: str) -> dict[str, Any]:
    # The node name is new at each start: a broker may still hold the control queue of a predecessor that was killed.
    hostname = host_format(f"{name}.{uuid.uuid4().hex[:8]}@%h")
    return {"hostname": hostname, "without_gossip": True, "without_mingle": True, "loglevel": "INFO", **_quiet()}


def _quiet() -> dict[str, Any]:
    """Celery's banner is no line of a log."""
    return {"quiet": True} if log_format.is_json() else {}


def run_gpu_worker(settings: Settings, name: str) -> None:
    """Own one instance (`gpu0`) and run jobs on it until SIGTERM."""
    spec = _spec(settings, name)
    with occupied(spec.data_dir):
        is_anew = _run_instance(settings, spec)
    if is_anew:
        start_anew()


def _run_instance(settings: Settings, spec: InstanceSpec) -> bool:
    """Own one instance; returns whether this process is to start anew."""
    app = _prepare(settings, "gpu")
    options = gpu_options(spec.name, f"{spec.name}@{settings.host}")
    tenure = Tenure(settings, spec, worker=options["hostname"])
    with contextlib.closing(Ledger(settings, pool_size=1)) as ledger:
        # Before anything is started, and closed before Celery forks.
        take_or_refuse(tenure, ledger)
    log_fields.always(instance=tenure.name)
    agent = InstanceAgent(settings, spec, tenure)
    context = context_of(app)
    context.hold(agent)
    app.steps["worker"].add(InstanceStep)
    app.steps["consumer"].add(GateStep)

    # Celery keeps weak references to signal handlers; these live as long as this function, which is long enough.
    def open_runner(**_kwargs: Any) -> None:
        spans.set_up(agent.name)
        runner = JobRunner(equip(app, settings), agent.name, agent.condemn_pipe, worker=tenure.worker)
        agent.recall_pipe.listen(runner.recall)
        context.hold(runner)

    def close_runner(**_kwargs: Any) -> None:
        if (runner := context.get(JobRunner)) is not None:
            runner.close()
        spans.close()

    def on_failure(exception: BaseException | None = None, **_kwargs: Any) -> None:
        if isinstance(exception, WorkerLostError):
            agent.lose_jobs()

    def on_shutdown(**_kwargs: Any) -> None:
        agent.begin_to_stop()

    # A main process that ends may never read it, and billiard lets its child wait for that for 30 s. Unread means not
    # acknowledged, and a turn that comes back finds nothing to do.
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = LAST_RESULT_LOOKS
    signals.worker_process_init.connect(open_runner)
    signals.worker_shutting_down.connect(on_shutdown)
    signals.worker_process_shutdown.connect(close_runner)
    signals.task_failure.connect(on_failure)
    try:
        _run(app, options, "worker", spec.name)
    finally:
        # Only now: a warm shutdown lets the running job finish, and the job needs its instance for that.
        agent.stop()
    return agent.renewal.is_due


def run_io_worker(settings: Settings) -> None:
    """Store files, post webhooks, reconcile, until SIGTERM."""
    app = _prepare(settings, "io")
    with contextlib.closing(Ledger(settings, pool_size=1)) as ledger:
        check_host_name(settings, ledger)
    spans.set_up(f"io@{settings.host}")
    runtime = equip(app, settings)
    dispatcher = WebhookDispatcher(settings, runtime.ledger)
    context_of(app).hold(dispatcher)
    open_workplace(settings, runtime.ledger)
    slow_turns = SlowTurns(runtime.storage)
    context_of(app).hold(slow_turns)
    deadlines = StartDeadlines(runtime)
    deadlines.start()
    watch = NeighbourWatch(runtime.ledger.machines)
    watch.start()
    renewal = SelfRenewal(settings, runtime.ledger, "io")
    try:
        with first_at(settings.data_dir / "io.lock") as other:
            if other is not None:
                log.warning("An io worker runs on this data directory already (%s): they share its work.", other)
            _run(app, io_options(settings), "io")
    finally:
        renewal.close()
        watch.close()
        deadlines.close()
        slow_turns.close()
        dispatcher.close()
        runtime.end_reports()
        spans.close()
    renewal.start_anew_if_due()


def run_beat(settings: Settings) -> None:
    """Publish the reconciler's ticks until SIGTERM."""
    app = _prepare(settings, "beat")
    _quieten()
    log.info("the reconciler is told to work every %g s", settings.reconcile_s)
    with contextlib.closing(Ledger(settings, pool_size=1)) as ledger:
        renewal = SelfRenewal(settings, ledger, "beat")
        try:
            app.Beat(loglevel="INFO", **_quiet()).run()
        finally:
            renewal.close()
            # beat ends itself by raising SystemExit.
            renewal.start_anew_if_due()


def _spec(settings: Settings, name: str) -> InstanceSpec:
    specs = {spec.name: spec for spec in plan_instances(settings)}
    if name not in specs:
        raise ConfigurationError(f"There is no {name} on this machine; the settings give {', '.join(specs)}.")
    return specs[name]


def _keep_our_logging(**_signal: Any) -> None:
    """Set up what Celery leaves to whoever takes its signal, which then sets up nothing itself."""
    processes = billiard.util.get_logger()
    processes.setLevel(logging.ERROR)
    processes.propagate = True


def _prepare(settings: Settings, role: Role) -> Celery:
    signals.setup_logging.connect(_keep_our_logging)
    settings.make_data_dir()
    migrate(settings)
    return make_app(settings, role)


def _run(app: Celery, options: dict[str, Any], *words: str) -> None:
    """Run a worker to its end. `words` are those of our command, which Celery repeats to restart itself on SIGHUP."""
    _quieten()
    consumer.install()
    sys.argv = ["-m", "cli.main", *words]
    # Not by way of Celery's command line: that imports every command there is, Flower's too, before each start.
    worker = app.Worker(**options)
    if log_format.is_json():
        # What Celery says from a signal handler goes past all logging.
        said_by = importlib.import_module("celery.apps.worker")
        vars(said_by)["safe_say"] = lambda text, _file=None: log_format.write_line(str(text).strip())
    worker.start()
    if worker.exitcode:
        # Nobody told it to end.
        sys.exit(worker.exitcode)


def _quieten() -> None:
    """Silence log lines that repeat: each task has one of its own, from its base class."""
    for name in ("celery.app.trace", "celery.worker.strategy", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)
