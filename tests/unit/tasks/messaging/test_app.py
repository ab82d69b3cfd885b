"""What the apps of the fleet have in common, and in what they differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.messaging.app import make_app
from tests.services import make_settings


class TestApp:
    def test_messages_are_json_late_acknowledged_and_keep_no_result(self, tmp_path: Path) -> None:
        conf = make_app(make_settings(tmp_path, broker_url="redis://h"), "gpu").conf
        assert conf.accept_content == ["json"]
        assert conf.task_acks_late is True
        assert conf.worker_prefetch_multiplier == 1
        assert conf.task_ignore_result is True
        assert conf.result_backend is None

    def test_rabbitmq_confirms_and_the_api_does_not_wait_long(self, tmp_path: Path) -> None:
        conf = make_app(make_settings(tmp_path, broker_url="amqp://h"), "api").conf
        assert conf.broker_transport_options["confirm_publish"] is True
        assert conf.broker_connection_timeout <= 0.5


@pytest.mark.parametrize(("url", "goes_on"), [("redis://127.0.0.1:1/0", True), ("amqp://127.0.0.1:1//", False)])
def test_what_a_broker_refuses_is_a_lost_connection_on_redis_alone(tmp_path: Path, url: str, goes_on: bool) -> None:
    assert make_app(make_settings(tmp_path, broker_url=url), "gpu").conf.broker_channel_error_retry is goes_on
