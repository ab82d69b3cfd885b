"""Settings that cannot work, or work badly: one clear line at the start, and an exit status where it cannot go on."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis

from cli.local.broker import server_program
from core.startup import MIN_KEY_CHARS
from tests.fleet import ROOT, Fleet
from tests.ports import free_port
from tests.services import Broker
from tests.waiting import until


def refused(fleet: Fleet, *command: str) -> str:
    """The one line with which a command ends that cannot work."""
    fleet.data_dir.mkdir(mode=0o700, exist_ok=True)
    ended = fleet.command(*command)
    assert ended.returncode == 2, ended
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("comfyline: ")
    return lines[0]


def first_quick(*cases: object) -> list[Any]:
    """The cases of a parameter; each starts a process, so all but the first are slow."""
    return [cases[0], *(pytest.param(case, marks=pytest.mark.slow) for case in cases[1:])]


@pytest.mark.parametrize("command", first_quick("gpu", "beat"))
@pytest.mark.parametrize(
    ("user_info", "path", "words"),
    [("guest:wr0ngpassw0rd", "/", "ACCESS_REFUSED"), ("guest:guest", "/nowhere", "vhost nowhere not found")],
)
def test_a_rabbitmq_that_refuses_us_is_named(
    tmp_path: Path, shared_rabbitmq: Broker, user_info: str, path: str, words: str, command: str
) -> None:
    parts = urlsplit(shared_rabbitmq.url)
    address = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{user_info}@{address}", path=path))

    line = refused(Fleet(tmp_path, broker_url=url), command)

    assert "COMFYLINE_BROKER_URL=amqp://guest" in line
    assert words in line
    assert "wr0ngpassw0rd" not in line


@pytest.mark.parametrize("command", first_quick("gpu", "api", "io", "beat"))
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql://user:s3cret-w0rd@host:notaport/d"),
        ("broker_url", "redis://:s3cret-w0rd@host:notaport/0"),
        ("storage_url", "s3:///x"),
    ],
)
def test_a_url_that_cannot_be_read_is_named_with_how_it_should_look(
    tmp_path: Path, shared_redis: Broker, name: str, url: str, command: str
) -> None:
    settings = {"broker_url": shared_redis.url, "broker_namespace": shared_redis.namespace, name: url}

    line = refused(Fleet(tmp_path, **settings), command)

    assert f"COMFYLINE_{name.upper()}" in line
    assert "://" in line, "how it should look"
    assert "s3cret-w0rd" not in line


def test_the_whole_stack_does_not_start_on_a_broker_that_refuses_it(tmp_path: Path, shared_redis: Broker) -> None:
    url = urlunsplit(urlsplit(shared_redis.url)._replace(path="/9999"))
    settings = {"broker_url": url, "flower_port": str(free_port())}

    ended = Fleet(tmp_path, **settings).command("up")

    assert ended.returncode == 2, ended
    assert [line for line in ended.stderr.splitlines() if "COMFYLINE_BROKER_URL=redis://" in line] == [
        ended.stderr.splitlines()[-1]
    ]
    assert not list((tmp_path / "data" / "logs").glob("*")), "no process was started"


@pytest.mark.parametrize("command", first_quick("io", "gpu", "up"))
def test_a_machine_with_another_secret_key_does_not_start(tmp_path: Path, command: str, shared_redis: Broker) -> None:
    settings = {"broker_url": shared_redis.url, "broker_namespace": shared_redis.namespace, "simulated_gpus": "1"}
    settings |= {"database_url": f"sqlite:///{tmp_path}/ledger.db", "flower_port": str(free_port())}
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
    first, second = (Fleet(tmp_path / name, **settings, secret_key=key) for name, key in zip("ab", keys, strict=True))
    for fleet in (first, second):
        fleet.data_dir.mkdir(mode=0o700, parents=True)
    assert first.command("adopt-key").returncode == 0

    ended = second.command(command)

    assert ended.returncode == 2, ended
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("comfyline: COMFYLINE_SECRET_KEY holds ")
    assert not any(key in ended.stderr for key in keys)
    # With both, the one that it is to seal with in front, it brings the fleet's next key.
    second.reconfigure(secret_key=f"{keys[1]},{keys[0]}")
    with second.start("io"):
        until(lambda: "ready" in second.log("io"), what="the io worker")
    assert "COMFYLINE_SECRET_KEY holds" in refused(first, "io")


@pytest.mark.parametrize(
    "url", first_quick("amqp://guest:guest@127.0.0.1:port//", "redis://[::1", "redis://127.0.0.1:99999/0")
)
def test_a_malformed_broker_url_is_refused(tmp_path: Path, url: str) -> None:
    assert "COMFYLINE_BROKER_URL" in refused(Fleet(tmp_path, broker_url=url), "io")


@pytest.mark.slow
def test_a_redis_database_that_is_not_there_is_named(tmp_path: Path, shared_redis: Broker) -> None:
    url = urlunsplit(urlsplit(shared_redis.url)._replace(path="/9999"))

    assert "COMFYLINE_BROKER_URL=redis://" in refused(Fleet(tmp_path, broker_url=url), "io")


@pytest.mark.parametrize("command", first_quick("api", "up"))
def test_a_short_key_is_refused(tmp_path: Path, command: str) -> None:
    line = refused(Fleet(tmp_path, api_keys="long-enough-key,k"), command)

    assert "COMFYLINE_API_KEYS: a key has 1 characters" in line
    assert str(MIN_KEY_CHARS) in line


@pytest.mark.parametrize(
    "url", first_quick("example.com/hook", "ftp://example.com/", "http://", "http://user:pw@example.com/")
)
def test_a_malformed_webhook_url_is_refused(tmp_path: Path, url: str) -> None:
    assert "WEBHOOK_URL" in refused(Fleet(tmp_path).with_variables(WEBHOOK_URL=url), "api")


@pytest.mark.parametrize("command", first_quick("up", "api"))
def test_a_directory_of_templates_that_is_not_there_is_refused(tmp_path: Path, command: str) -> None:
    missing = tmp_path / "templates"

    assert f"COMFYLINE_WORKFLOWS_DIR={missing}" in refused(Fleet(tmp_path, workflows_dir=str(missing)), command)
    assert not missing.exists()


def test_gunicorn_by_itself_refuses_in_one_line_too(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_config"],
        cwd=ROOT,
        env=dict(Fleet(tmp_path, api_keys="k").environment()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "COMFYLINE_API_KEYS" in ended.stderr


def test_what_works_badly_is_said_once_and_what_is_written_is_private(tmp_path: Path, shared_redis: Broker) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o755)
    settings = {"broker_url": shared_redis.url, "broker_namespace": shared_redis.namespace, "api_host": "0.0.0.0"}
    with Fleet(tmp_path, **settings) as fleet, redis.Redis.from_url(shared_redis.url) as client:
        loses = client.info("persistence")["aof_enabled"] == 0
        fleet.start("api")
        until(lambda: "The API is OPEN" in fleet.log("api"), what="a word about the open API")
        open_to_others = f"COMFYLINE_DATA_DIR={data_dir} is open to other users"
        until(lambda: open_to_others in fleet.log("api"), what="a word about the directory")
        lines = [line for line in fleet.log("api").splitlines() if line.startswith("comfyline: ")]

        assert [line for line in lines if "OPEN to everybody who reaches 0.0.0.0: set COMFYLINE_API_KEYS" in line]
        assert [line for line in lines if open_to_others in line and "0755" in line]
        assert bool([line for line in lines if "appendonly no" in line]) == loses
        assert len(set(lines)) == len(lines)
        written = [path for path in data_dir.rglob("*") if not path.is_symlink()]
        assert (data_dir / "ledger.db") in written
        assert [path for path in written if stat.S_IMODE(os.lstat(path).st_mode) & 0o077] == []


def test_a_data_directory_that_is_named_and_made_is_said(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    line = f"comfyline: COMFYLINE_DATA_DIR={fleet.data_dir} was not there and has been made"

    assert line in fleet.command("migrate").stderr
    assert line not in fleet.command("migrate").stderr, "it is there now"


@pytest.fixture
def forgetful_redis(tmp_path: Path) -> Iterator[str]:
    """URL of a server that keeps nothing and evicts."""
    port = free_port()
    options = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "allkeys-lru", "--dir", str(tmp_path))
    server = subprocess.Popen(
        [str(server_program()), "--port", str(port), "--bind", "127.0.0.1", *options], stdout=subprocess.DEVNULL
    )
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


def test_a_redis_that_throws_messages_away_is_said(forgetful_redis: str, tmp_path: Path) -> None:
    with Fleet(tmp_path, broker_url=forgetful_redis) as fleet:
        fleet.start("beat")
        until(lambda: "maxmemory-policy allkeys-lru" in fleet.log("beat"), what="a word about it")
        assert "appendonly no" in fleet.log("beat")
