"""The Celery app of one process, configured by its role.

No Celery setting can promise that a long task is neither lost nor run twice, so none is asked to: the ledger decides,
messages hold ids, and a message too many is a no-op. What stands here keeps workers responsive, publishing bounded in
time, and brokers from piling up work behind a busy GPU.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.amqp import Queues
from kombu import Exchange, Queue

from core.broker_kind import BrokerKind, is_unix_socket
from core.messaging import broker_guard
from core.messaging.broker_tls import tls_options
from core.settings import Settings
from tasks.messaging import redelivery
from tasks.messaging.context import Role, attach_context
from tasks.messaging.names import GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE, RECONCILE, UPLOAD, io_queue_of
from tasks.messaging.ticks import Ticks

#: Publishing from a request gives up this soon: the job stands in the ledger and is published later.
API_TIMEOUT_S = 0.4
#: RabbitMQ ends the channel of a consumer that holds a message for longer than 30 minutes; videos take longer.
CONSUMER_TIMEOUT_MS = 48 * 3600 * 1000


def make_app(settings: Settings, role: Role) -> Celery:
    """Return a configured Celery app. It connects when first used, so that it may be made before a fork."""
    app = Celery("comfyline", broker=settings.transport_url, set_as_current=role != "api")
    broker_guard.install()
    if BrokerKind.of(settings.transport_url) is BrokerKind.REDIS:
        redelivery.install()
    app.amqp.queues_cls = type(
        "ComfylineQueues", (Queues,), {"new_missing": lambda _self, name: _queue(settings, name)}
    )
    app.conf.update(_common(settings))
    app.conf.update(_publishing(role))
    app.conf.broker_transport_options = _transport_options(settings, role)
    app.conf.broker_use_ssl = tls_options(settings)
    attach_context(app, role)
    app.conf.worker_consumer = "tasks.messaging.consumer:ComfylineConsumer"
    app.conf.task_routes = (_Router(settings.host),)
    app.conf.beat_schedule = {
        "reconcile": {
            "task": RECONCILE,
            "schedule": Ticks(settings.reconcile_s),
            # It does not expire, for that would be judged by another machine's clock: ticks that have piled up are over
            # in no time, see tasks/reconcile.py.
            "options": {"queue": MAINTENANCE_QUEUE},
        }
    }
    app.conf.beat_scheduler = "tasks.messaging.ticks:TickScheduler"
    app.conf.beat_schedule_filename = str(settings.data_dir / "beat-schedule")
    return app


class _Router:
    """Sends work on files to the host that holds them, decided where and when the chain moves on."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __call__(self, name: str, *_args: Any, **_kwargs: Any) -> dict[str, str] | None:
        return {"queue": io_queue_of(self._host)} if name == UPLOAD else None


def _queue(settings: Settings, name: str) -> Queue:
    """One queue, the same whoever declares it: RabbitMQ refuses to declare a queue with two sets of arguments."""
    is_redis = BrokerKind.of(settings.transport_url) is BrokerKind.REDIS
    arguments = None if is_redis else {"x-consumer-timeout": CONSUMER_TIMEOUT_MS}
    return Queue(name, Exchange("comfyline", type="direct"), routing_key=name, durable=True, queue_arguments=arguments)


def _queues(settings: Settings) -> list[Queue]:
    names = [GPU_QUEUE, IO_QUEUE, io_queue_of(settings.host), MAINTENANCE_QUEUE]
    return [_queue(settings, name) for name in names]


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "task_queues": _queues(settings),
        "task_default_queue": IO_QUEUE,
        "task_default_exchange": "comfyline",
        "task_default_exchange_type": "direct",
        "task_default_routing_key": IO_QUEUE,
        # io.<host> of another host, when the reconciler moves a forgotten job on.
        "task_create_missing_queues": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0,
        "worker_send_task_events": True,
        # One message less for each turn: what was sent stands in the ledger, and Flower shows what was received.
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_max_tasks_per_child": None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_heartbeat": 30,
        # On Redis that is a server that takes no writes: after a failover, with its memory or its disk full, short of
        # replicas. It may pass, as a lost connection does. On RabbitMQ it is a mistake, or a message held for too long.
        "broker_channel_error_retry": BrokerKind.of(settings.transport_url) is BrokerKind.REDIS,
        "enable_utc": True,
        "timezone": "UTC",
    }


def _publishing(role: Role) -> dict[str, Any]:
    if role == "api":
        return {
            "broker_connection_timeout": API_TIMEOUT_S,
            "broker_pool_limit": 16,
            "broker_pool_acquire_timeout": 2 * API_TIMEOUT_S,
            "task_publish_retry": True,
            # One retry: a pooled connection may be a dead one from before a broker's restart.
            "task_publish_retry_policy": {
                "max_retries": 1,
                "interval_start": 0,
                "interval_step": 0.1,
                "interval_max": 0.1,
            },
        }
    return {
        "broker_connection_timeout": 4,
        "broker_pool_limit": 4,
        "broker_pool_acquire_timeout": 5,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.5, "interval_max": 1.0},
    }


def _transport_options(settings: Settings, role: Role) -> dict[str, Any]:
    api = role == "api"
    if BrokerKind.of(settings.transport_url) is BrokerKind.REDIS:
        options: dict[str, Any] = {
            "global_keyprefix": f"{settings.broker_namespace}:",
            # Longer than any job: an early redelivery is harmless, but pointless.
            "visibility_timeout": 48 * 3600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "health_check_interval": 25,
            "socket_connect_timeout": API_TIMEOUT_S if api else 5,
            "socket_timeout": API_TIMEOUT_S if api else 30,
        }
        if not is_unix_socket(settings.transport_url):
            options["socket_keepalive"] = True
    else:
        # Without confirms RabbitMQ may lose what it has not yet written, and a frozen one looks like success.
        options = {"confirm_publish": True}
        if api:
            options |= {"connect_timeout": API_TIMEOUT_S, "read_timeout": API_TIMEOUT_S, "write_timeout": API_TIMEOUT_S}
    return options | ({"max_retries": 0} if api else {})
