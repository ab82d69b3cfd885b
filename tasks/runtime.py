"""What the tasks of one process share: settings, ledger, publisher, notices. Made anew in each process."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Celery, Task
from celery.states import SUCCESS

from core import log_fields
from core.ledger import Change, Ledger
from core.messaging.notices import Notice, NoticeSender
from core.metrics.reporter import GPU_FACTOR, MetricReporter
from core.records.job import DELIVERING
from core.settings import Settings
from core.storage.marker import StorageMarker
from tasks.messaging.context import ProcessContext, Role, context_of
from tasks.messaging.publish import BackgroundSender, Publisher

log = logging.getLogger("comfyline.tasks")


class Runtime:
    """One process's access to everything outside it."""

    #: Where somebody has begun to report what is counted.
    _reporter: MetricReporter | None = None

    def __init__(self, settings: Settings, app: Celery) -> None:
        self.settings = settings
        self.app = app
        self.notices = NoticeSender(settings)
        self.ledger = Ledger(settings, on_change=self._announce)
        self.storage = StorageMarker(settings, self.ledger.storage_moves)
        turns = self.ledger.turns
        self.publisher = Publisher(app, turns.of, turns.woken, turns.through_gates)
        self.sender = BackgroundSender(self.publisher)

    def report_metrics(self, role: Role) -> None:
        """Report what this process counts, until `end_reports` or `close`."""
        # GPU workers are many, and have rows of their own that say how they are.
        is_gpu = role == "gpu"
        self._reporter = MetricReporter(
            self.ledger.metrics,
            role=role,
            host=self.settings.host,
            every_s=self.settings.metrics_report_s * (GPU_FACTOR if is_gpu else 1),
            gauges=None if is_gpu else dict,
        )
        self._reporter.start()

    def end_reports(self) -> None:
        """Report what was counted since the last time, and no more after that."""
        if self._reporter is not None:
            self._reporter.close()

    def close(self) -> None:
        """Send the last notices and close every connection."""
        self.notices.close()
        self.end_reports()
        self.ledger.close()

    def _announce(self, change: Change) -> None:
        if change.is_posted:
            self.sender.notify(change.job_id)
        if change.status == DELIVERING:
            # Clients see no difference to `running`; what they wait for follows within milliseconds.
            return
        self.notices.send(Notice(job_id=change.job_id, kind="status", seq=change.seq, status=change.status))


class ComfylineTask(Task):  # type: ignore[type-arg]
    """Base of every task: gives it the process's runtime, and logs its end with what it reports, and seconds."""

    @property
    def context(self) -> ProcessContext:
        """Return the context of this process."""
        return context_of(self.app)

    @property
    def runtime(self) -> Runtime:
        """The runtime of this process."""
        return self.context[Runtime]

    def end_chain(self, result: str) -> str:
        """Cut off the tasks that would follow this one; returns the result, which Flower shows."""
        self.request.chain = None
        return result

    def report(self, text: str) -> None:
        """Set what the task's log line says. A task that reports nothing has a line for debugging alone."""
        self.request.update(reported=text)

    # The arguments of these two are Celery's.
    def before_start(self, *_arguments: Any) -> None:
        log_fields.begin()
        self.request.update(started_s=time.monotonic())

    def after_return(self, status: str, retval: Any, _task_id: str, args: Any, *_rest: Any) -> None:
        reported = self.request.get("reported")
        said = reported or (f"{list(args)}: {retval}" if isinstance(retval, str) else f"{list(args)}")
        seconds = time.monotonic() - self.request.get("started_s", time.monotonic())
        is_news = reported is not None or status != SUCCESS
        level = logging.INFO if is_news else logging.DEBUG
        log.log(level, "%s %s seconds=%.3f: %s", self.name, status.lower(), seconds, said)


def equip(app: Celery, settings: Settings) -> Runtime:
    """Give an app the runtime of the present process; replaces one that was inherited by a fork."""
    runtime = Runtime(settings, app)
    context_of(app).hold(runtime)
    runtime.report_metrics(context_of(app).role)
    return runtime
