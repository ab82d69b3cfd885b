"""Settings for tests, and the services of this machine they run on, used without touching what others keep there.

A service is looked for where its variable points, else on the loopback address. One that is not there skips the tests
that need it; where `CI=true` it fails them, so that a run that tested nothing never looks like a run that passed.

    COMFYLINE_TEST_POSTGRES_URL  postgresql://postgres@127.0.0.1:5432/postgres  a session makes and drops its databases
    COMFYLINE_TEST_REDIS_URL     redis://127.0.0.1:6379/0                       a session has a key prefix of its own
    COMFYLINE_TEST_RABBITMQ_URL  amqp://guest:guest@127.0.0.1:5672//            a session has a virtual host of its own
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
import redis
import requests
from amqp.exceptions import AMQPError
from kombu import Connection
from psycopg import sql

from core.settings import Settings

POSTGRES_VARIABLE = "COMFYLINE_TEST_POSTGRES_URL"
REDIS_VARIABLE = "COMFYLINE_TEST_REDIS_URL"
RABBITMQ_VARIABLE = "COMFYLINE_TEST_RABBITMQ_URL"
#: A transport that does not exist: what reaches for a broker without having asked for one fails with these words.
NO_BROKER = "redis://127.0.0.1:1/0"
#: The default port of RabbitMQ's management plugin.
MANAGEMENT_PORT = 15672


def make_settings(folder: Path, **overrides: Any) -> Settings:
    """Settings whose data directory lies in `folder`: SQLite, and no broker unless `broker_url` is given.

    `broker_url=""` means the embedded broker of that data directory.
    """
    return Settings(**{"data_dir": folder / "data", "broker_url": NO_BROKER, **overrides})


def missing(problem: str) -> NoReturn:
    """Skip the test at home, fail it where every service was promised."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true, and {problem}")
    pytest.skip(problem)


def service_url(variable: str, default: str) -> str:
    """Where a service should be."""
    return os.environ.get(variable) or default


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A message broker for one test session, and the names in it that are the session's own."""

    #: `valkey`, `redis` or `rabbitmq`.
    kind: str
    url: str
    namespace: str

    def settings(self, folder: Path, **overrides: Any) -> Settings:
        """Settings that use this broker."""
        return make_settings(folder, broker_url=self.url, broker_namespace=self.namespace, **overrides)


class PostgresServer:
    """A PostgreSQL server on which databases are made for tests and dropped after them."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self._made: list[str] = []

    def create(self, *, template: str | None = None) -> str:
        """Make a database, empty or a copy of another one that nobody uses now; returns its URL."""
        name = _own_name()
        query = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            query += sql.SQL(" TEMPLATE {}").format(sql.Identifier(urlsplit(template).path[1:]))
        self.execute(query)
        self._made.append(name)
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}"))

    def drop(self, url: str) -> None:
        """Drop a database that `create` made, whoever is still connected."""
        name = urlsplit(url).path[1:]
        self._made.remove(name)
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def drop_all(self) -> None:
        """Drop what is left of all that was made."""
        for name in list(self._made):
            self.drop(f"postgresql:///{name}")

    def execute(self, query: sql.SQL | sql.Composed, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Run a statement as the server's administrator; returns its rows."""
        with psycopg.connect(self.admin_url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


def find_postgres() -> PostgresServer:
    """The machine's PostgreSQL; ends the test if there is none."""
    server = PostgresServer(service_url(POSTGRES_VARIABLE, "postgresql://postgres@127.0.0.1:5432/postgres"))
    try:
        server.execute(sql.SQL("SELECT 1"))
    except psycopg.OperationalError as exc:
        missing(f"no PostgreSQL answers (set {POSTGRES_VARIABLE}): {exc}")
    return server


@contextlib.contextmanager
def redis_broker() -> Iterator[Broker]:
    """The machine's Redis with a key prefix of our own, which is all that is deleted afterwards."""
    url = service_url(REDIS_VARIABLE, "redis://127.0.0.1:6379/0")
    namespace = _own_name()
    with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5) as client:
        try:
            client.ping()
        except redis.RedisError as exc:
            missing(f"no Redis answers (set {REDIS_VARIABLE}): {exc}")
        yield Broker(kind="redis", url=url, namespace=namespace)
        for key in client.scan_iter(f"{namespace}:*", count=500):
            client.delete(key)


@contextlib.contextmanager
def rabbitmq_broker() -> Iterator[Broker]:
    """The machine's RabbitMQ, in a virtual host of our own: queue names are the same in every fleet."""
    url = service_url(RABBITMQ_VARIABLE, "amqp://guest:guest@127.0.0.1:5672//")
    try:
        with Connection(url, connect_timeout=2) as connection:
            connection.connect()
    except (OSError, AMQPError) as exc:
        missing(f"no RabbitMQ answers (set {RABBITMQ_VARIABLE}): {exc}")
    name = _own_name()
    if not _make_vhost(url, name):
        missing(f"no virtual host can be made on {url}: neither rabbitmqctl nor the management plugin serves us")
    try:
        yield Broker(kind="rabbitmq", url=urlunsplit(urlsplit(url)._replace(path=f"/{name}")), namespace=name)
    finally:
        _drop_vhost(url, name)


def _make_vhost(url: str, name: str) -> bool:
    user = urlsplit(url).username or "guest"
    made = _rabbitmqctl("add_vhost", name) or _management(url, "PUT", f"vhosts/{name}")
    allowed = _rabbitmqctl("set_permissions", "-p", name, user, ".*", ".*", ".*") or _management(
        url, "PUT", f"permissions/{name}/{quote(user)}", {"configure": ".*", "write": ".*", "read": ".*"}
    )
    return made and allowed


def _drop_vhost(url: str, name: str) -> None:
    assert _rabbitmqctl("delete_vhost", name) or _management(url, "DELETE", f"vhosts/{name}")


def _rabbitmqctl(*arguments: str) -> bool:
    program = shutil.which("rabbitmqctl")
    if program is None or os.geteuid() != 0:
        return False
    done = subprocess.run([program, "-q", *arguments], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _management(url: str, method: str, path: str, body: dict[str, str] | None = None) -> bool:
    parts = urlsplit(url)
    address = f"http://{parts.hostname}:{MANAGEMENT_PORT}/api/{path}"
    credentials = (parts.username or "guest", parts.password or "guest")
    try:
        return requests.request(method, address, auth=credentials, json=body, timeout=10).ok
    except requests.RequestException:
        return False


def _own_name() -> str:
    return f"fleet_test_{uuid.uuid4().hex[:12]}"
