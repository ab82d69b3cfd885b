"""Queues and tasks: their names, which task goes to which queue, and that every queue has its arguments once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tasks.messaging import names
from tasks.messaging.app import make_app
from tasks.messaging.context import Role
from tests.services import make_settings

ROLES: tuple[Role, ...] = ("api", "gpu", "io", "beat", "flower")


def _app(folder: Path, role: Role = "io", broker_url: str = "redis://h", **overrides: Any) -> Celery:
    return make_app(make_settings(folder, host="left", broker_url=broker_url, **overrides), role)


def _queue_of(app: Celery, task: str, **options: Any) -> str:
    routed = app.amqp.router.route(options, task)
    return str(routed["queue"].name)


def test_names_are_plain_strings() -> None:
    # A StrEnum member would publish a task named after the member instead of its value.
    values = {name: value for name, value in vars(names).items() if name.isupper()}

    assert all(type(value) is str for value in values.values())
    assert len(set(values.values())) == len(values)


def test_files_are_stored_on_the_host_that_publishes(tmp_path: Path) -> None:
    assert _queue_of(_app(tmp_path), names.UPLOAD) == "io.left"


def test_a_queue_that_is_named_wins_over_the_router(tmp_path: Path) -> None:
    assert _queue_of(_app(tmp_path), names.UPLOAD, queue=names.io_queue_of("right")) == "io.right"


@pytest.mark.parametrize("task", [names.NOTIFY, names.RECONCILE, "celery.ping"])
def test_everything_else_goes_to_the_default_queue(task: str, tmp_path: Path) -> None:
    assert _queue_of(_app(tmp_path), task) == names.IO_QUEUE


@pytest.mark.parametrize("queue", [names.GPU_QUEUE, names.IO_QUEUE, names.MAINTENANCE_QUEUE])
def test_a_queue_asked_for_is_the_queue_used(queue: str, tmp_path: Path) -> None:
    assert _queue_of(_app(tmp_path), names.GENERATE, queue=queue) == queue


@pytest.mark.parametrize("role", ROLES)
def test_every_role_declares_the_same_durable_queues(role: Role, tmp_path: Path) -> None:
    queues = _app(tmp_path, role).amqp.queues

    assert set(queues) == {"gpu", "io", "io.left", "maintenance"}
    for name, queue in queues.items():
        assert (queue.durable, queue.exchange.name, queue.exchange.type, queue.routing_key) == (
            True,
            "comfyline",
            "direct",
            name,
        )


@pytest.mark.parametrize("broker_url", ["redis://h", "amqp://h"])
def test_a_queue_made_on_demand_equals_the_declared_one(broker_url: str, tmp_path: Path) -> None:
    # RabbitMQ refuses to declare one queue with two sets of arguments: the host that consumes `io.right` and the
    # reconciler elsewhere that publishes to it must agree.
    at_home = make_app(make_settings(tmp_path, host="right", broker_url=broker_url), "io").amqp.queues["io.right"]
    from_afar = _app(tmp_path, broker_url=broker_url).amqp.router.route({"queue": "io.right"}, names.UPLOAD)["queue"]

    assert from_afar.queue_arguments == at_home.queue_arguments


def test_the_reconcilers_tick_comes_as_often_as_is_set_and_expires_by_no_clock(tmp_path: Path) -> None:
    app = _app(tmp_path, "beat", reconcile_s=7.0)

    (tick,) = app.conf.beat_schedule.values()

    assert (tick["task"], tick["options"]) == (names.RECONCILE, {"queue": "maintenance"})
    assert tick["schedule"].run_every.total_seconds() == 7.0


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_late_bound_to_a_broker_or_a_result_backend(role: Role, tmp_path: Path) -> None:
    conf = _app(tmp_path, role).conf

    assert conf.result_backend is None
    assert conf.task_ignore_result
    assert conf.accept_content == ["json"]
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
