"""`comfyline up`, `comfyline demo` and the Procfile: everything starts by itself, and nothing is left when it stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cli.local.stack import free_ports
from comfy.liveness.procfs import with_variable
from comfy.process.spec import REPOSITORY_ROOT
from core.ledger import Ledger
from core.records.job import QUEUED, RUNNING
from core.settings import load_settings
from tests.fleet import work
from tests.prometheus_server import program
from tests.waiting import eventually, until

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
OPERATIONS = REPOSITORY_ROOT / "docs" / "operations.md"
DEMO = REPOSITORY_ROOT / "workflows" / "demo.json"
#: In the environment of everything that one start brings about, instances with their clean environment excepted.
MARKER = "COMFYLINE_TEST_STACK"


class Running:
    """A command that runs a whole stack in a directory and on ports of its own."""

    def __init__(self, root: Path, *command: str, **environment: str) -> None:
        api_port, self.flower_port, prometheus_port = free_ports(3)
        self.prometheus_url = f"http://127.0.0.1:{prometheus_port}"
        self.data_dir = root / "data"
        self.base_url = f"http://127.0.0.1:{api_port}"
        self.flower_url = f"http://127.0.0.1:{self.flower_port}"
        self._marker = uuid.uuid4().hex
        self._output = root / "output.txt"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COMFYLINE_DATA_DIR": str(self.data_dir),
            "COMFYLINE_API_PORT": str(api_port),
            "COMFYLINE_FLOWER_PORT": str(self.flower_port),
            "COMFYLINE_PROMETHEUS_PORT": str(prometheus_port),
            MARKER: self._marker,
            **environment,
        }
        with self._output.open("wb") as output:
            self.popen = subprocess.Popen(
                command,
                cwd=REPOSITORY_ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        """Wait until it has printed the words."""
        assert eventually(lambda: words in self.output(), READY_TIMEOUT_S), self.output()

    def wait_until_ready(self, instances: int) -> None:
        """Wait until the API says that so many instances are healthy."""
        assert eventually(lambda: self._healthy() == instances, READY_TIMEOUT_S), self.output()

    def _healthy(self) -> int:
        try:
            return int(requests.get(f"{self.base_url}/ready", timeout=5).json()["healthy_instances"])
        except requests.RequestException:
            return 0

    def fleet(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run another command in the same environment."""
        command = [sys.executable, "-m", "cli.main", *arguments]
        return subprocess.run(
            command,
            cwd=REPOSITORY_ROOT,
            env={**self.environment, "COMFY_BASE_URL": self.base_url, **environment},
            capture_output=True,
            text=True,
            timeout=READY_TIMEOUT_S,
            check=False,
        )

    def family(self) -> list[str]:
        """Command lines of all processes that belong to it, instances included, ended ones not."""
        marked = set(with_variable(MARKER, self._marker))
        lines = {int(path.name): _command_line(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        return [line for pid, line in lines.items() if line and (pid in marked or str(self.data_dir) in line)]

    def pid_of(self, *words: str) -> int:
        """The oldest process of the stack whose command line ends with the words."""
        tail = " ".join(words)
        return min(pid for pid in with_variable(MARKER, self._marker) if _command_line_of(pid).endswith(tail))

    def stop(self, number: signal.Signals) -> int:
        """Signal it alone, and return its exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(STOP_TIMEOUT_S)


def _command_line_of(pid: int) -> str:
    return _command_line(Path("/proc") / str(pid))


def _command_line(path: Path) -> str:
    try:
        return (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _up(root: Path, **environment: str) -> Running:
    return Running(root, sys.executable, "-m", "cli.main", "up", **environment)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`comfyline up` with two simulated GPUs. The last test of this group stops it."""
    running = _up(tmp_path_factory.mktemp("up"), COMFYLINE_SIMULATOR_ARGS="--simulate-speed 0")
    try:
        running.wait_until_ready(2)
        running.wait_for("Comfyline is ready")
        yield running
    finally:
        running.popen.kill()
        running.popen.wait()


class TestUp:
    def test_says_where_everything_is_and_that_the_gpus_are_simulated(self, stack: Running) -> None:
        output = stack.output()
        assert stack.base_url in output
        assert stack.flower_url in output
        assert len(re.findall(r"^gpu\d .*SIMULATED", output, re.MULTILINE)) == 2
        assert str(stack.data_dir) in output

    def test_a_prometheus_that_is_installed_scrapes_the_stack_and_goes_by_our_rules(self, stack: Running) -> None:
        program("prometheus")
        assert stack.prometheus_url in stack.output()

        def asked(path: str) -> Any:
            try:
                return requests.get(f"{stack.prometheus_url}/api/v1/{path}", timeout=10).json()["data"]
            except requests.RequestException:
                return {}

        healthy = 'query?query=sum(comfyline_gpus{state="healthy"})'
        until(lambda: [each["value"][1] for each in asked(healthy).get("result", ())] == ["2"], what="a scrape")
        assert {group["name"] for group in asked("rules")["groups"]} == {"comfyline", "comfyline-alerts"}

    def test_uses_a_broker_of_its_own_and_no_port_for_it(self, stack: Running) -> None:
        assert (stack.data_dir / "broker.sock").is_socket()
        assert not [line for line in stack.family() if "redis://" in line or ":6379" in line]

    def test_a_workflow_becomes_a_picture(self, stack: Running, tmp_path: Path) -> None:
        done = stack.fleet("submit", str(DEMO), "--output", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        (picture,) = tmp_path.rglob("*.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"Saved {picture}" in done.stdout
        assert "succeeded" in stack.fleet("list").stdout

    def test_flower_lets_nobody_in_without_the_password(self, stack: Running) -> None:
        paths = ["/", "/tasks", "/broker", "/metrics", "/healthcheck", "/api/workers", "/api/tasks", "/api/task/types"]
        for path in paths:
            assert requests.get(stack.flower_url + path, timeout=10).status_code == 401, path
            wrong = requests.get(stack.flower_url + path, timeout=10, auth=("comfyline", "wrong"))
            assert wrong.status_code == 401, path
            assert requests.get(stack.flower_url + path, timeout=10, auth=credentials(stack)).status_code == 200, path

    def test_flower_shows_every_worker_and_the_queues(self, stack: Running) -> None:
        def workers() -> set[str]:
            answer = requests.get(f"{stack.flower_url}/api/workers?status=1", timeout=10, auth=credentials(stack))
            return {name.partition(".")[0] for name, alive in answer.json().items() if alive}

        assert eventually(lambda: workers() == {"gpu0", "gpu1", "io"}, 15.0), workers()
        # Flower shows the queues that workers consumed when it last asked them; this makes it ask now.
        requests.get(f"{stack.flower_url}/api/workers?refresh=1", timeout=20, auth=credentials(stack))
        answer = requests.get(f"{stack.flower_url}/api/queues/length", timeout=10, auth=credentials(stack))
        assert {"gpu", "io"} <= {queue["name"] for queue in answer.json()["active_queues"]}

    def test_flower_changes_nothing(self, stack: Running) -> None:
        url = f"{stack.flower_url}/api/worker/shutdown/anyone"
        assert requests.post(url, timeout=10, auth=credentials(stack)).status_code == 403

    def test_passwords_show_neither_in_arguments_nor_to_other_users(self, stack: Running) -> None:
        _, password = credentials(stack)
        assert not [line for line in stack.family() if password in line]
        assert (stack.data_dir / "flower-credentials").stat().st_mode & 0o077 == 0

    def test_a_second_fleet_in_the_same_directory_is_refused(self, stack: Running) -> None:
        api_port, flower_port = free_ports(2)
        other = stack.fleet("up", COMFYLINE_API_PORT=str(api_port), COMFYLINE_FLOWER_PORT=str(flower_port))
        assert other.returncode == 2
        assert "comfyline: COMFYLINE_DATA_DIR: a fleet runs in" in other.stderr

    def test_a_process_that_dies_starts_again(self, stack: Running) -> None:
        os.kill(stack.pid_of("cli.main", "io"), signal.SIGKILL)
        stack.wait_for("io was killed by SIGKILL; it starts again in 1 s.")
        stack.wait_for("io runs again")

    def test_ctrl_c_stops_everything(self, stack: Running) -> None:
        assert len(stack.family()) > 8
        assert stack.stop(signal.SIGINT) == 0
        assert stack.output().rstrip().endswith("Stopped.")
        assert stack.family() == []
        assert not (stack.data_dir / "broker.sock").exists()
        assert "Traceback" not in stack.output()


@pytest.mark.slow
def test_nothing_is_left_when_it_is_killed(tmp_path: Path) -> None:
    running = _up(tmp_path, COMFYLINE_SIMULATED_GPUS="1")
    running.wait_until_ready(1)
    assert any("comfy.simulator" in line for line in running.family())
    running.popen.kill()
    running.popen.wait()
    assert eventually(lambda: not running.family(), 10.0), running.family()


@pytest.mark.parametrize("which", ["COMFYLINE_API_PORT", "COMFYLINE_FLOWER_PORT"])
def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = _up(tmp_path, **{which: str(port)})
        assert running.popen.wait(READY_TIMEOUT_S) == 2
    assert f"comfyline: {which}: port {port} " in running.output()
    assert "Traceback" not in running.output()
    assert not (tmp_path / "data" / "broker").exists()


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file stands where the directory should be")
    running = _up(tmp_path)
    assert running.popen.wait(READY_TIMEOUT_S) == 2
    assert (
        running.output()
        .splitlines()[-1]
        .startswith(f"comfyline: COMFYLINE_DATA_DIR={tmp_path / 'data'} cannot be written")
    )
    assert "Traceback" not in running.output()


@pytest.mark.slow
def test_demo_makes_a_picture_and_leaves_nothing(tmp_path: Path) -> None:
    # Another fleet's broker and database in the environment must not be touched: they would not even answer.
    elsewhere = {
        "COMFYLINE_BROKER_URL": "redis://127.0.0.1:1",
        "COMFYLINE_DATABASE_URL": "postgresql://127.0.0.1:1/none",
    }
    command = [sys.executable, "-m", "cli.main", "demo", "--output", str(tmp_path / "pictures")]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = Running(
        tmp_path, *command, COMFYLINE_SIMULATOR_ARGS="--simulate-speed 0", TMPDIR=str(temporary), **elsewhere
    )
    assert running.popen.wait(60) == 0, running.output()
    (picture,) = (tmp_path / "pictures").rglob("*.png")
    assert f"Saved {picture}" in running.output()
    assert "SIMULATED" in running.output()
    assert running.family() == []
    assert not [path for path in temporary.iterdir() if path.name.startswith("comfyline-demo-")]
    assert not running.data_dir.exists()


@pytest.mark.slow
def test_a_procfile_host_runs_it_in_any_order_and_stops_it(tmp_path: Path) -> None:
    honcho = shutil.which("honcho", path=str(Path(sys.executable).parent))
    assert honcho is not None, "honcho is among the development packages"
    running = Running(
        tmp_path, honcho, "start", COMFYLINE_SIMULATED_GPUS="1", COMFYLINE_SIMULATOR_ARGS="--simulate-speed 0"
    )
    running.wait_until_ready(1)
    assert requests.get(running.flower_url, timeout=10).status_code == 401
    done = running.fleet("submit", str(DEMO), "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    running.stop(signal.SIGTERM)
    assert running.family() == []
    assert not (running.data_dir / "broker.sock").exists()
    # honcho kills what takes longer than five seconds, and says so.
    assert "SIGKILL" not in running.output()


@pytest.mark.slow
def test_a_procfile_host_that_kills_soon_loses_no_job_with_the_grace_that_is_documented(tmp_path: Path) -> None:
    found = re.search(r"Set\s`COMFYLINE_DRAIN_GRACE_S=(\d+)` there", OPERATIONS.read_text())
    assert found is not None
    command = (str(Path(sys.executable).parent / "honcho"), "start")
    running = Running(tmp_path, *command, COMFYLINE_SIMULATED_GPUS="1", COMFYLINE_DRAIN_GRACE_S=found[1])
    running.wait_until_ready(1)
    (tmp_path / "graph.json").write_text(json.dumps(work(60.0)))
    submitted = running.fleet("submit", str(tmp_path / "graph.json"), "--no-wait", "--json")
    job_id = json.loads(submitted.stdout)["id"]
    ledger = Ledger(load_settings(data_dir=running.data_dir))
    assert eventually(lambda: ledger.jobs.get(job_id).status == RUNNING, READY_TIMEOUT_S)

    running.stop(signal.SIGTERM)

    assert ledger.jobs.get(job_id).status == QUEUED, running.output()
    [given_back] = [event for event in ledger.jobs.events(job_id) if event.data.get("reason")]
    assert "code" not in given_back.data, "an orderly stop is no loss"
    ledger.close()


def credentials(stack: Running) -> tuple[str, str]:
    """Flower's user and password."""
    user, _, password = (stack.data_dir / "flower-credentials").read_text().strip().partition(":")
    return user, password
