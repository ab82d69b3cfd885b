"""What gunicorn loads: the application of one process, with its own connections. `api.wsgi:create()`."""

from __future__ import annotations

import atexit
from contextlib import suppress
from functools import partial

from flask import Flask

from api import create_app
from api.http.key_ring import KeyRing
from api.http.lookups import look_up_apart
from api.http.request_log import open_requests
from api.http.time_limits import ledger_time_limit
from api.service.publishing import BackgroundPublisher
from api.service.waiting import Hub
from core import log_format
from core.errors import LedgerUnavailable
from core.ledger import Change, Ledger
from core.messaging import broker_guard
from core.messaging.notices import Notice, NoticeListener, NoticeSender
from core.metrics.reporter import MetricReporter
from core.neighbour_watch import NeighbourWatch
from core.records.job import QUEUED
from core.rollouts.api_renewal import api_renewal
from core.rollouts.process_watch import ProcessWatch
from core.settings import Settings, load_settings
from core.startup import is_told_already, open_api_advice
from core.tracing import spans
from tasks.messaging.app import make_app
from tasks.messaging.publish import Publisher
from tasks.messaging.remote_control import ask

#: Connections to PostgreSQL kept by one process; as many again for a moment. Waiting clients hold none.
POOL_SIZE = 10


def create() -> Flask:
    """Build the application from the environment.

    Called in each gunicorn worker, after its fork and after gevent has patched the standard library: connections and
    threads made earlier would be shared, or would block every other request.
    """
    settings = load_settings()
    # Else lines below the level of warnings would go nowhere: gunicorn sets up its own loggers alone.
    log_format.set_up(settings.log_format, "api")
    return build(settings)


def build(settings: Settings, *, pool_size: int = POOL_SIZE) -> Flask:
    """Build the application and start listening for notices."""
    broker_guard.install()
    look_up_apart()
    sender = NoticeSender(settings)

    def announce(change: Change) -> None:
        notice = Notice(job_id=change.job_id, kind="status", seq=change.seq, status=change.status)
        # Waiters of this process need no broker.
        hub.notify(notice)
        # Nobody can wait for a job whose id has not been told to anyone yet.
        if change.seq > 1:
            sender.send(notice)

    def tell_all(notice: Notice) -> None:
        hub.notify(notice)
        sender.send(notice)

    ledger = Ledger(settings, on_change=announce, pool_size=pool_size)
    # The first connection takes longer than others, and a restart brings everybody back at the same moment.
    ring = KeyRing(settings, ledger.keys)
    with suppress(LedgerUnavailable), ledger_time_limit():
        ledger.jobs.count(QUEUED)
        ring.is_open()
    _say_if_open(settings, ring)
    spans.set_up("api")
    hub = Hub(ledger.jobs.states, ledger.jobs.many)
    listener = NoticeListener(settings, hub.notify)
    listener.start()
    watch = NeighbourWatch(ledger.machines, time_limit=ledger_time_limit)
    watch.start()

    reporter = MetricReporter(
        ledger.metrics,
        role="api",
        every_s=settings.metrics_report_s,
        host=settings.host,
        gauges=lambda: {"waiting_clients": hub.clients, "open_requests": open_requests.count},
        time_limit=ledger_time_limit,
    )
    reporter.start()

    renewal = ProcessWatch(settings, ledger, "api", follow=api_renewal.follow, time_limit=ledger_time_limit)
    if api_renewal.is_armed:
        renewal.start()

    def close() -> None:
        if api_renewal.is_armed:
            renewal.close()
        watch.close()
        reporter.close()
        hub.close()
        listener.stop()
        sender.close()
        ledger.close()
        spans.close()

    atexit.register(close)
    celery = make_app(settings, "api")
    publisher = BackgroundPublisher(Publisher(celery, ledger.turns.of, through_gates=ledger.turns.through_gates))
    asking = partial(ask, celery)
    return create_app(settings, ledger=ledger, publisher=publisher, hub=hub, ask=asking, ring=ring, announce=tell_all)


def _say_if_open(settings: Settings, ring: KeyRing) -> None:
    # Each process says so: in gunicorn's first one nobody may look at the ledger yet.
    advice = open_api_advice(settings, has_keys=not ring.was_open())
    if advice is not None and not is_told_already():
        log_format.say(advice)
