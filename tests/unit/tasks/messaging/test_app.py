"""What the apps of the fleet have in common, and in what they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kombu.transport import redis

from tasks.messaging.app import API_TIMEOUT_S, make_app
from tasks.messaging.context import Role, context_of
from tasks.messaging.names import MAINTENANCE_QUEUE, RECONCILE, UPLOAD
from tasks.messaging.redelivery import CalmQoS
from tests.services import make_settings

REDIS, RABBITMQ = "redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"
DAYS_2_MS = 2 * 24 * 3600 * 1000
#: What each process relies on, whatever its role and broker.
COMMON = {
    "task_default_queue": "io",
    "task_default_exchange": "comfyline",
    "task_default_routing_key": "io",
    "task_create_missing_queues": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "result_backend": None,
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "worker_prefetch_multiplier": 1,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_soft_shutdown_timeout": 0,
    "worker_send_task_events": True,
    "task_send_sent_event": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_max_tasks_per_child": None,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_heartbeat": 30,
    "enable_utc": True,
    "timezone": "UTC",
    "worker_consumer": "tasks.messaging.consumer:ComfylineConsumer",
    "beat_scheduler": "tasks.messaging.ticks:TickScheduler",
}


def conf_of(folder: Path, url: str, role: Role, **changes: Any) -> Any:
    return make_app(make_settings(folder, broker_url=url, host="here", **changes), role).conf


@pytest.mark.parametrize("url", [REDIS, RABBITMQ])
@pytest.mark.parametrize("role", ["api", "gpu"])
def test_all_rely_on_the_same(tmp_path: Path, url: str, role: Role) -> None:
    conf = conf_of(tmp_path, url, role)
    assert {name: conf[name] for name in COMMON} == COMMON
    assert context_of(make_app(make_settings(tmp_path, broker_url=url), role)).role == role
    assert conf.beat_schedule_filename == str(tmp_path / "data" / "beat-schedule")


@pytest.mark.parametrize("url", [REDIS, RABBITMQ])
def test_queues_are_declared_alike_by_all(tmp_path: Path, url: str) -> None:
    app = make_app(make_settings(tmp_path, broker_url=url, host="here"), "gpu")
    made = {queue.name: queue for queue in app.conf.task_queues}
    assert list(made) == ["gpu", "io", "io.here", "maintenance"]
    made["io.there"] = app.amqp.queues["io.there"]
    arguments = None if url == REDIS else {"x-consumer-timeout": DAYS_2_MS}
    for name, queue in made.items():
        assert (queue.routing_key, queue.durable, queue.queue_arguments) == (name, True, arguments)
        assert (queue.exchange.name, queue.exchange.type) == ("comfyline", "direct")


def test_work_on_files_goes_to_their_host(tmp_path: Path) -> None:
    [route] = conf_of(tmp_path, REDIS, "gpu").task_routes
    assert route(UPLOAD) == {"queue": "io.here"}
    assert route(RECONCILE) is None


def test_beat_has_one_tick(tmp_path: Path) -> None:
    [entry] = conf_of(tmp_path, REDIS, "beat", reconcile_s=7.0).beat_schedule.values()
    assert (entry["task"], entry["options"]) == (RECONCILE, {"queue": MAINTENANCE_QUEUE})
    assert entry["schedule"].seconds == 7.0


def test_a_request_does_not_wait_long_for_a_broker(tmp_path: Path) -> None:
    conf = conf_of(tmp_path, REDIS, "api")
    assert API_TIMEOUT_S == 0.4
    assert (conf.broker_connection_timeout, conf.broker_pool_limit, conf.broker_pool_acquire_timeout) == (0.4, 16, 0.8)
    assert conf.task_publish_retry is True
    assert conf.task_publish_retry_policy == {
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.1,
        "interval_max": 0.1,
    }


def test_a_worker_has_more_patience(tmp_path: Path) -> None:
    conf = conf_of(tmp_path, REDIS, "io")
    assert (conf.broker_connection_timeout, conf.broker_pool_limit, conf.broker_pool_acquire_timeout) == (4, 4, 5)
    assert conf.task_publish_retry is True
    assert conf.task_publish_retry_policy == {
        "max_retries": 3,
        "interval_start": 0,
        "interval_step": 0.5,
        "interval_max": 1.0,
    }


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("api", {"socket_connect_timeout": 0.4, "socket_timeout": 0.4, "max_retries": 0}),
        ("io", {"socket_connect_timeout": 5, "socket_timeout": 30}),
    ],
)
def test_what_kombu_is_told_of_redis(tmp_path: Path, role: Role, more: dict[str, Any]) -> None:
    settings = make_settings(tmp_path, broker_url=REDIS)
    common = {
        "global_keyprefix": f"{settings.broker_namespace}:",
        "visibility_timeout": 48 * 3600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "health_check_interval": 25,
    }
    assert make_app(settings, role).conf.broker_transport_options == {**common, **more, "socket_keepalive": True}
    by_path = make_settings(tmp_path, broker_url=f"redis+socket://{tmp_path}/broker.sock")
    assert "socket_keepalive" not in make_app(by_path, role).conf.broker_transport_options


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("api", {"connect_timeout": 0.4, "read_timeout": 0.4, "write_timeout": 0.4, "max_retries": 0}),
        ("io", {}),
    ],
)
def test_what_kombu_is_told_of_rabbitmq(tmp_path: Path, role: Role, more: dict[str, Any]) -> None:
    options = conf_of(tmp_path, RABBITMQ, role).broker_transport_options
    assert options == {"confirm_publish": True, **more}


@pytest.mark.parametrize(("url", "goes_on"), [(REDIS, True), (RABBITMQ, False)])
def test_what_a_broker_refuses_is_a_lost_connection_on_redis_alone(tmp_path: Path, url: str, goes_on: bool) -> None:
    assert conf_of(tmp_path, url, "gpu").broker_channel_error_retry is goes_on


@pytest.mark.parametrize(("url", "is_calm"), [(REDIS, True), (RABBITMQ, False)])
def test_channels_to_redis_are_calm(tmp_path: Path, url: str, is_calm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Channel, "QoS", redis.QoS)
    conf_of(tmp_path, url, "gpu")
    assert (redis.Channel.QoS is CalmQoS) is is_calm


@pytest.mark.parametrize(("role", "is_current"), [("api", False), ("io", True)])
def test_the_api_leaves_the_current_app_alone(tmp_path: Path, role: Role, is_current: bool) -> None:
    app: Any = make_app(make_settings(tmp_path, broker_url=REDIS), role)
    assert (app.set_as_current is True) is is_current
