"""The embedded broker as `comfyline broker` runs it: private, durable, and gone when it is told to go."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.local.broker import answers, ask
from comfy.process.spec import REPOSITORY_ROOT
from core.settings import Settings
from tests.own_servers import children_of
from tests.services import make_settings
from tests.waiting import eventually


class BrokerProcess:
    """`comfyline broker` in a data directory of its own."""

    def __init__(self, settings: Settings, **environment: str) -> None:
        self.settings = settings
        #: What it printed until it was up.
        self.told = ""
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "broker"],
            cwd=REPOSITORY_ROOT,
            env={**os.environ, "COMFYLINE_DATA_DIR": str(settings.data_dir), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_up(self) -> None:
        """Wait until the server answers, and the process that keeps it has seen that."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.told += line
            if "listens on" in line:
                break
        if not answers(self.settings):
            self.popen.kill()
            pytest.fail(f"the broker does not answer: {self.told}{self.popen.communicate()[0]}")

    def server_pid(self) -> int:
        (pid,) = children_of(self.popen.pid)
        return pid

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.settings.embedded_broker_socket), single_connection_client=True)

    def stop(self) -> str:
        """SIGTERM; returns what it printed. It must end by itself, with status 0."""
        self.popen.terminate()
        out, _ = self.popen.communicate(timeout=60)
        assert self.popen.returncode == 0, out
        return self.told + out


@contextlib.contextmanager
def running(folder: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess(make_settings(folder, broker_url=""))
    process.wait_until_up()
    yield process
    if process.popen.poll() is None:
        process.popen.kill()
    process.popen.communicate()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with running(tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def lasting_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One for the tests that leave it as it was."""
    with running(tmp_path_factory.mktemp("broker")) as process:
        yield process


def test_listens_on_a_private_unix_socket_and_nothing_else(lasting_broker: BrokerProcess) -> None:
    path = lasting_broker.settings.embedded_broker_socket
    assert path.parent == lasting_broker.settings.data_dir
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert b"tcp_port:0" in ask(lasting_broker.settings, "INFO server")


def test_one_data_directory_holds_one_broker(lasting_broker: BrokerProcess) -> None:
    second = BrokerProcess(lasting_broker.settings)
    out, _ = second.popen.communicate(timeout=60)
    assert second.popen.returncode == 2
    assert out.startswith("comfyline: COMFYLINE_DATA_DIR: ")
    assert len(out.splitlines()) == 1
    assert answers(lasting_broker.settings)


def test_stops_without_leaving_process_or_socket(broker: BrokerProcess) -> None:
    server = broker.server_pid()
    assert str(broker.settings.embedded_broker_socket) in broker.stop()
    assert not Path(f"/proc/{server}").exists()
    assert not broker.settings.embedded_broker_socket.exists()


@pytest.mark.slow
def test_what_is_queued_survives_a_crash_of_the_server(broker: BrokerProcess) -> None:
    client = broker.client()
    client.rpush("queue", "turn")
    # Written is enough, for the kernel lives on; the server may put it off for a second.
    assert eventually(lambda: client.info("persistence")["aof_buffer_length"] == 0)
    client.close()
    server = broker.server_pid()
    os.kill(server, signal.SIGKILL)
    assert eventually(lambda: children_of(broker.popen.pid) not in ([], [server]) and answers(broker.settings), 30.0)
    with broker.client() as again:
        assert again.lrange("queue", 0, -1) == [b"turn"]
    assert "was killed by SIGKILL; it starts again" in broker.stop()


@pytest.mark.slow
def test_what_is_queued_survives_stop_and_start(broker: BrokerProcess) -> None:
    with broker.client() as client:
        client.rpush("queue", "turn")
    broker.stop()
    second = BrokerProcess(broker.settings)
    second.wait_until_up()
    with second.client() as client:
        assert client.lrange("queue", 0, -1) == [b"turn"]
    second.stop()


@pytest.mark.slow
def test_nothing_is_left_when_it_is_killed_itself(broker: BrokerProcess) -> None:
    server = Path(f"/proc/{broker.server_pid()}/stat")
    broker.popen.kill()
    broker.popen.wait()
    assert eventually(lambda: not server.exists() or ") Z " in server.read_text())


def test_stays_for_a_moment_for_those_who_still_talk_to_it(broker: BrokerProcess) -> None:
    with broker.client() as client:
        client.ping()
        broker.popen.terminate()
        time.sleep(0.5)
        assert client.ping()
    assert broker.popen.wait(20) == 0


def test_a_path_too_long_for_the_kernel_is_no_problem(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, data_dir=tmp_path / ("long" * 30), broker_url="")
    process = BrokerProcess(settings)
    process.wait_until_up()
    folder = settings.embedded_broker_socket.parent
    assert folder != settings.data_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    process.stop()
    assert not settings.embedded_broker_socket.exists()
    folder.rmdir()


def test_files_it_cannot_read_are_a_clear_error(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="")
    folder = settings.data_dir / "broker" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    process = BrokerProcess(settings)
    out, _ = process.popen.communicate(timeout=60)
    assert process.popen.returncode == 4
    assert "does not start" in out
    assert str(settings.data_dir / "broker") in out
    assert "Traceback" not in out


def test_is_not_needed_where_another_broker_is_set(tmp_path: Path) -> None:
    process = BrokerProcess(make_settings(tmp_path), COMFYLINE_BROKER_URL="redis://127.0.0.1:1")
    assert process.popen.stdout is not None
    assert "COMFYLINE_BROKER_URL is set" in process.popen.stdout.readline()
    time.sleep(0.3)
    assert process.popen.poll() is None
    process.stop()
