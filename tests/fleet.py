"""A whole fleet for a test: each process started by itself, so that a test can kill exactly the one it means."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from comfy.process.child import recorded_pid
from tests.ports import free_port
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parent.parent
TERMINAL = ("succeeded", "failed", "canceled", "expired")
ALL = ("broker", "api", "gpu0", "gpu1", "io", "beat")


def work(seconds: float, *, steps: int = 10, seed: int = 0, prefix: str = "picture") -> dict[str, Any]:
    """A graph that keeps a simulated GPU busy for so long, and then saves a small picture."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": seed}},
        "2": {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": steps}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


def sampled(seed: int, **inputs: Any) -> dict[str, Any]:
    """A graph with a sampler, which loads a checkpoint.

    Parameters:
      inputs: further ones of the nodes that have a seed, such as `steps`.
    """
    graph: dict[str, Any] = json.loads((ROOT / "workflows" / "demo.json").read_text())
    for node in graph.values():
        node["inputs"] |= {"seed": seed, **inputs} if "seed" in node["inputs"] else {}
    return graph


class Fleet:
    """Processes of one data directory. A context manager that leaves nothing running."""

    def __init__(self, root: Path, **settings: str) -> None:
        self.root = root
        self._variables: dict[str, str] = {}
        self.data_dir = root / "data"
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._settings = {"data_dir": str(self.data_dir), "api_port": str(self.port), **settings}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        #: Whose code runs: the directory of our packages, for processes that are started from now on.
        self.tree = ROOT
        #: Of an operator, where the fleet asks for keys.
        self.key = ""

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_error: object) -> None:
        # The broker last: the others say good-bye through it.
        for name in sorted(self.processes, key=lambda name: name == "broker"):
            self.signal(name, signal.SIGCONT)
            self.signal(name, signal.SIGTERM)
        for name in list(self.processes):
            self.stop(name)

    @property
    def headers(self) -> dict[str, str]:
        """What goes with each request."""
        return {"X-API-Key": self.key} if self.key else {}

    def reconfigure(self, **settings: str) -> None:
        """Change settings for processes that are started from now on."""
        self._settings |= settings

    def with_variables(self, **variables: str) -> Fleet:
        """Add to the environment what does not begin with COMFYLINE_."""
        self._variables |= variables
        return self

    def environment(self) -> Mapping[str, str]:
        """What every process of the fleet is started with."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("COMFYLINE_")}
        # At the end of a test nobody waits for an answer any more.
        clean.setdefault("GUNICORN_CMD_ARGS", "--graceful-timeout 1")
        return clean | self._variables | {f"COMFYLINE_{name.upper()}": value for name, value in self._settings.items()}

    def start(self, *names: str) -> Fleet:
        """Start processes by their names in `ALL`; `gpu` is all GPUs of the machine under one process."""
        for name in names:
            command = ["worker", name] if name.startswith("gpu") and name != "gpu" else [name]
            log = self.root / f"{name}.log"
            with log.open("ab") as output:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "cli.main", *command],
                    cwd=self.tree,
                    env=dict(self.environment()),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return self

    def signal(self, name: str, number: int, *, group: bool = False) -> None:
        """Send a signal to one process, or to everything it started in its own session."""
        process = self.processes[name]
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, number)

    def kill(self, name: str) -> None:
        """SIGKILL a process and all it started in its session, as the kernel's OOM killer or a power cut would."""
        self.signal(name, signal.SIGKILL, group=True)
        self.processes.pop(name).wait(10 * PATIENCE)

    def stop(self, name: str) -> int:
        """SIGTERM, and SIGKILL for what does not end by itself; returns the exit status."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(20 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait(10 * PATIENCE)
        return status

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.root / f"{name}.log").read_text(errors="replace")

    def ready(self, *, gpus: int = 2, timeout_s: float = 40.0) -> Fleet:
        """Wait until the API answers and so many GPUs are healthy."""

        def healthy() -> bool:
            try:
                answer = requests.get(f"{self.base_url}/ready", headers=self.headers, timeout=5)
                return answer.ok and len(self.instances("healthy")) >= gpus
            except (requests.ConnectionError, requests.Timeout):
                return False

        until(healthy, timeout_s=timeout_s, what=f"{gpus} healthy GPUs")
        return self

    def instances(self, state: str | None = None) -> list[dict[str, Any]]:
        """The fleet's instances as /ready lists them."""
        listed: list[dict[str, Any]] = requests.get(f"{self.base_url}/ready", headers=self.headers, timeout=5).json()[
            "instances"
        ]
        return [instance for instance in listed if state is None or instance["state"] == state]

    def instance_pid(self, name: str) -> int:
        """Process id of the simulator of `gpu0`."""
        record = json.loads((self.data_dir / "gpus" / name / "instance.pid").read_text())
        return int(record["process"]["pid"])

    def living_instance_pid(self, name: str) -> int | None:
        """Process id of the simulator of `gpu0`; None when the one that was recorded is gone."""
        return recorded_pid(self.data_dir / "gpus" / name / "instance.pid")

    def pool_pid(self, name: str) -> int | None:
        """Process id of the process of a GPU worker that runs its jobs; None while there is none."""
        parent = self.processes[name].pid
        try:
            command = Path(f"/proc/{parent}/cmdline").read_bytes()
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            copies = [child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == command]
        except OSError:
            return None
        return int(copies[0]) if command and len(copies) == 1 else None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `fleet` as an operator of this fleet does."""
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=self.tree,
            env={"COMFY_BASE_URL": self.base_url, **self.environment()},
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )

    def submit(self, graph: Mapping[str, Any], **body: Any) -> str:
        """Submit through Comfy API v2; returns the job's id."""
        answer = requests.post(
            f"{self.base_url}/api/v2/jobs",
            json={"workflow": graph, **body},
            headers=self.headers,
            timeout=10 * PATIENCE,
        )
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as Comfy API v2 shows it."""
        answer = requests.get(f"{self.base_url}/api/v2/jobs/{job_id}", headers=self.headers, timeout=10 * PATIENCE)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, job_id: str, *statuses: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until a job has one of these statuses (default: an end)."""
        wanted = statuses or TERMINAL

        def arrived() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["status"] in wanted or job["status"] not in TERMINAL, job
            return job if job["status"] in wanted else None

        try:
            found: dict[str, Any] = until(arrived, timeout_s=timeout_s, what=f"status {wanted} of {job_id}")
        except AssertionError as exc:
            # What the processes said last is all that is left of a run on another machine.
            logs = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.processes)
            raise AssertionError(f"{exc}\n{self.job(job_id)}\n{logs}") from exc
        return found

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask for a job's end."""
        answer = requests.post(
            f"{self.base_url}/api/v2/jobs/{job_id}/cancel", headers=self.headers, timeout=10 * PATIENCE
        )
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def picture(self, job: Mapping[str, Any]) -> bytes:
        """The bytes of a job's only output."""
        [output] = job["outputs"]
        answer = requests.get(output["url"], headers=self.headers, timeout=10 * PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.content
