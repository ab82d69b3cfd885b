"""Starts the ComfyUI stand-in as its own process for a test, and ends that process by its own id."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.waiting import PATIENCE

REPOSITORY_ROOT = Path(__file__).resolve().parents[1]

# A start takes well under a second on an idle machine; a loaded two-core runner may need far more.
READY_TIMEOUT_S = 30.0


@dataclasses.dataclass(kw_only=True)
class SimulatorProcess:
    """One running stand-in. Its directories exist and are its own."""

    base_url: str
    port: int
    pid: int
    root: Path
    output_dir: Path
    input_dir: Path
    #: What the process printed, standard output and standard error together.
    log_path: Path
    popen: subprocess.Popen[bytes]

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def temp_dir(self) -> Path:
        return self.root / "temp"

    def log(self) -> str:
        """Everything printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """The JSON reply to a GET, for tests that do not care how the request is made."""
        with urllib.request.urlopen(f"{self.base_url}{path}", timeout=10) as reply:
            return json.load(reply)

    def fault(self, **faults: dict[str, Any]) -> None:
        """Arm faults, e.g. `fault(oom={"times": 2})`."""
        body = json.dumps(faults).encode()
        request = urllib.request.Request(f"{self.base_url}/simulator/faults", data=body, method="POST")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.status == 200

    def wait_exit(self, timeout_s: float = 10.0) -> int:
        """Wait for the process to end by itself; its exit status (negative: the signal)."""
        return self.popen.wait(timeout=timeout_s)

    def kill(self) -> None:
        """End it the hard way, as the kernel's out-of-memory killer would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator would; fine to call twice."""
        self._end(signal.SIGTERM)

    def _end(self, sig: signal.Signals) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
        try:
            self.popen.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(timeout=10)


def start_simulator(root: Path, *flags: str, port: int | None = None) -> SimulatorProcess:
    """Start one stand-in with its directories under `root` and wait until it answers.

    The caller ends it with `stop()`. `port` is only for a restart on the same address.
    """
    chosen = port or free_port()
    output_dir, input_dir, user_dir = root / "output", root / "input", root / "user"
    for folder in (output_dir, input_dir, user_dir):
        folder.mkdir(parents=True, exist_ok=True)
    log_path = root / "simulator.log"
    command = [sys.executable, "-m", "comfy.simulator", "--port", str(chosen)]
    command += ["--output-directory", str(output_dir), "--input-directory", str(input_dir)]
    command += ["--temp-directory", str(root), "--user-directory", str(user_dir), *flags]
    with log_path.open("ab") as log:
        popen = subprocess.Popen(command, cwd=REPOSITORY_ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    process = SimulatorProcess(
        base_url=f"http://127.0.0.1:{chosen}",
        port=chosen,
        pid=popen.pid,
        root=root,
        output_dir=output_dir,
        input_dir=input_dir,
        log_path=log_path,
        popen=popen,
    )
    _wait_ready(process)
    return process


@contextlib.contextmanager
def simulator(root: Path, *flags: str, port: int | None = None) -> Iterator[SimulatorProcess]:
    """A running stand-in for the length of a `with` block."""
    process = start_simulator(root, *flags, port=port)
    try:
        yield process
    finally:
        process.stop()


def _wait_ready(process: SimulatorProcess) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S * PATIENCE
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            raise RuntimeError(f"the simulator ended at once ({process.popen.returncode}):\n{process.log()}")
        try:
            process.get("/prompt")
        except OSError:
            time.sleep(0.02)
        else:
            return
    process.stop()
    raise RuntimeError(f"the simulator did not answer within {READY_TIMEOUT_S} s:\n{process.log()}")
