"""The kind of a broker is read from its URL, in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.broker_kind import BrokerKind, is_unix_socket

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://host:6379/0", BrokerKind.REDIS),
        ("rediss://host/1", BrokerKind.REDIS),
        ("redis+socket:///run/broker.sock", BrokerKind.REDIS),
        ("amqp://guest@host//", BrokerKind.RABBITMQ),
        ("amqps://guest@host//", BrokerKind.RABBITMQ),
    ],
)
def test_the_scheme_tells_the_kind(url: str, kind: BrokerKind) -> None:
    assert BrokerKind.of(url) is kind


@pytest.mark.parametrize("url", ["sentinel://host:26379", "host:6379", ""])
def test_other_schemes_have_none(url: str) -> None:
    with pytest.raises(KeyError):
        BrokerKind.of(url)


def test_a_unix_socket_is_one_of_this_machine() -> None:
    assert is_unix_socket("redis+socket:///run/broker.sock")
    assert not is_unix_socket("redis://localhost/0")


def test_nobody_else_reads_the_scheme() -> None:
    asking = re.compile(r"""startswith\(\(?["'](redis|amqp)|driver_type""")
    rooms = ("api", "cli", "comfy", "core", "tasks", "workflows")
    modules = [path for room in rooms for path in (ROOT / room).rglob("*.py") if path.name != "broker_kind.py"]
    assert [path for path in modules if asking.search(path.read_text(encoding="utf-8"))] == []
