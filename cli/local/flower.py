"""Flower, the window on workers and queues: never without a password, never with buttons that change things."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import Any

import flower.events
import tornado.web
from celery import Celery
from celery.events import EventReceiver
from flower.app import Flower
from flower.options import options
from flower.urls import settings as flower_settings
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck, Metrics
from kombu import Consumer, Message
from tornado.ioloop import IOLoop, PeriodicCallback

from cli.local.credentials import flower_cookie_secret, flower_credentials
from cli.local.queue_lengths import QueueLength, queue_lengths
from core.errors import BrokerUnavailable, ConfigurationError, LedgerUnavailable
from core.ledger import Ledger
from core.messaging.broker_guard import DATA_ERRORS
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.messaging.names import GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE, gpu_queue_of, io_queue_of

#: Flower keeps 100,000 tasks unless told otherwise, which is hundreds of megabytes.
MAX_TASKS = 10_000
#: Our arguments are ids and tell jobs apart; the result names the job that a turn has run, its attempt and its GPU.
COLUMNS = "name,uuid,state,args,result,received,started,runtime,worker"
#: Upper bounds in seconds: Flower's own end at 10 s, where a picture begins and a video has not.
RUNTIME_BUCKETS_S = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0]
#: Flower asks each worker eight things at once, each on a connection of its own.
POOL_LIMIT = 32
#: Workers have a new name at each boot; those that are gone leave the metrics after this long.
PURGE_OFFLINE_S = 3600
#: One broadcast, and an answer from each worker, for each of eight questions.
REFRESH_S = 60


log = logging.getLogger(__name__)


def run_flower(settings: Settings) -> int:
    """Serve Flower until SIGTERM or SIGINT; returns the exit status.

    Raises:
      ConfigurationError: the port is taken, or the credentials are malformed.
    """
    application = _make_application(settings)
    try:
        application.start_http_server()
    except OSError as exc:
        raise ConfigurationError(
            f"COMFYLINE_FLOWER_PORT: Flower cannot listen on {settings.flower_host}:{settings.flower_port}: "
            f"{exc.strerror}."
        ) from exc
    loop = application.io_loop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
    # Flower asks a worker once, when it appears. Which queues it consumes changes with the health of its GPU.
    PeriodicCallback(application.update_workers, REFRESH_S * 1000).start()
    application.start()
    application.stop()
    return 0


def _make_application(settings: Settings) -> Flower:
    # Set in the process, not by arguments or environment: the password shows neither in `ps` nor in children.
    options.basic_auth = [flower_credentials(settings)]
    options.address, options.port = settings.flower_host, settings.flower_port
    options.read_only = True
    options.max_tasks = MAX_TASKS
    options.tasks_columns = COLUMNS
    options.task_runtime_metric_buckets = RUNTIME_BUCKETS_S
    options.purge_offline_workers = PURGE_OFFLINE_S
    flower_settings["cookie_secret"] = flower_cookie_secret(settings)
    # Else each request without the password, and each question that no worker answered yet, would be a warning.
    for name in ("tornado.access", "tornado.general", "flower.inspector"):
        logging.getLogger(name).setLevel(logging.ERROR)
    app = make_app(settings, "flower")
    app.conf.broker_pool_limit = POOL_LIMIT
    queues = _Queues(settings, app)
    flower.events.EventReceiver = _GuardedReceiver
    application = Flower(capp=app, options=options, **flower_settings)
    # Flower 2.2 serves these two to anybody. Handlers added for a host pattern come before its own.
    application.add_handlers(
        r".*",
        [
            (r"/metrics", _GuardedMetrics),
            (r"/healthcheck", _GuardedHealthcheck),
            (r"/broker", _BrokerPage, {"queues": queues}),
            (r"/api/queues/length", _QueueLengths, {"queues": queues}),
        ],
    )
    return application


class _GuardedReceiver(EventReceiver):
    """Hears events. What is none would cost Flower 2.2 its connection, and all events of the next two seconds."""

    def get_consumers(self, consumer: type[Consumer], channel: Any) -> list[Consumer]:
        found: list[Consumer] = super().get_consumers(consumer, channel)
        for each in found:
            each.on_decode_error = lambda _message, exc: _say_no_event(exc)
        return found

    def _receive(self, body: Any, message: Message, **options: Any) -> None:
        for event in body if isinstance(body, list) else [body]:
            try:
                if not _is_event(event):
                    raise TypeError("not an event")
                super()._receive(event, message, **options)  # type: ignore[misc]
            except DATA_ERRORS as exc:
                _say_no_event(exc)


def _is_event(event: Any) -> bool:
    if not isinstance(event, dict):
        return False
    texts = ["type", "hostname", *(["uuid"] if str(event.get("type")).startswith("task-") else [])]
    numbers = ("timestamp", "utcoffset", "clock", "pid")
    has_texts = all(isinstance(event.get(name), str) for name in texts)
    return has_texts and all(type(event.get(name, 0)) in (int, float) for name in numbers)


def _say_no_event(exc: Exception) -> None:
    log.warning("a message on the exchange of events is none, and is dropped (%s)", type(exc).__name__)


class _Guarded(BaseHandler):  # type: ignore[misc]
    def prepare(self) -> None:
        # Asking who the user is raises 401 when the credentials are not right.
        if not self.current_user:
            raise tornado.web.HTTPError(401)


class _Queues:
    """The queues of the fleet, whether anybody consumes them or not, and how long each is."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        self._settings = settings
        self._app = app
        self._ledger = Ledger(settings, pool_size=1)

    async def read(self) -> list[QueueLength]:
        """Return `queue_lengths`. Raises tornado's HTTPError 503: the broker does not answer."""
        try:
            return await IOLoop.current().run_in_executor(None, lambda: queue_lengths(self._app, self._names()))
        except BrokerUnavailable as exc:
            raise tornado.web.HTTPError(503, exc.message) from exc

    def _names(self) -> list[str]:
        hosts, gpus = {self._settings.host}, set[str]()
        # Files wait for their own host, also while its io worker is away. Without the ledger we know of our own.
        with contextlib.suppress(LedgerUnavailable):
            for instance in self._ledger.instances.all():
                hosts.add(instance.host)
                gpus.add(instance.name)
        return [
            GPU_QUEUE,
            *map(gpu_queue_of, sorted(gpus)),
            IO_QUEUE,
            *map(io_queue_of, sorted(hosts)),
            MAINTENANCE_QUEUE,
        ]


class _OfQueues(_Guarded):
    def initialize(self, queues: _Queues) -> None:
        self._queues = queues


class _BrokerPage(_OfQueues):
    """Flower's page of queues, which by itself shows only those that a worker consumes now."""

    async def get(self) -> None:
        self.render("broker.html", broker_url=self.application.broker_uri, queues=await self._queues.read())


class _QueueLengths(_OfQueues):
    """Serve the page's figures as JSON."""

    async def get(self) -> None:
        self.write({"active_queues": await self._queues.read()})


class _GuardedMetrics(_Guarded, Metrics):  # type: ignore[misc]
    """/metrics, for those who have the credentials."""


class _GuardedHealthcheck(_Guarded, Healthcheck):  # type: ignore[misc]
    """/healthcheck, for those who have the credentials."""
