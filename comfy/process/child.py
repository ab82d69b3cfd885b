"""One child process that never outlives the worker: spawned in its own group, ended as a whole, remembered on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from comfy.liveness.procfs import ProcessIdentity, with_variable
from comfy.process.spawner import START_LIMIT_S, Order, spawn_from_lasting_thread
from core.errors import ComfyUnavailable

#: Set to a new value for each start, and inherited by whatever a custom node starts: so the whole family is found
#: again, also where a member moved to a session of its own. It has no prefix of settings: a node may run our command.
MARKER_NAME = "UNDER_COMFYLINE_INSTANCE"
#: How long a killed process may take to vanish; a GPU driver can hold it for seconds while it frees memory.
KILL_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Child:
    """A running process and what is needed to end all of it."""

    popen: subprocess.Popen[bytes]
    marker: str
    pid_file: Path
    #: The process that started it; a forked copy of this record must not end it.
    owner_pid: int

    @property
    def pid(self) -> int:
        return self.popen.pid

    def is_ours(self) -> bool:
        """False in a forked copy of the process that started it."""
        return self.owner_pid == os.getpid()

    def is_alive(self) -> bool:
        # A forked copy must not even ask: it cannot wait for a process that is not its child.
        return self.is_ours() and self.popen.poll() is None

    def how_it_ended(self) -> str:
        """For people: `exited with code 1` or `was killed by SIGKILL`."""
        code = self.popen.poll()
        if code is None:
            return "still runs"
        return f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"

    def end(self, grace_s: float) -> None:
        """Ask the whole group to end, wait `grace_s` for its leader, then kill what is left of it.

        Raises:
          ComfyUnavailable: something survives even SIGKILL, for instance inside a GPU driver; the pid file stays.
        """
        if self.is_alive():
            _signal_group(self.pid, signal.SIGTERM)
            _wait(self.popen, grace_s)
        if self.is_alive():
            _signal_group(self.pid, signal.SIGKILL)
            if not _wait(self.popen, KILL_TIMEOUT_S):
                raise ComfyUnavailable(f"Process {self.pid} does not end, not even by SIGKILL.")
        # From here the number may belong to somebody else, so the rest of the family is told by its marker.
        kill_marked(self.marker)
        self.pid_file.unlink(missing_ok=True)


def spawn(
    command: list[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: IO[bytes],
    pid_file: Path,
    limit_s: float = START_LIMIT_S,
) -> Child:
    """Start a process that the kernel kills when this one dies, and note it in `pid_file`.

    Parameters:
      limit_s: a start that has not returned by then is given up.
    Raises:
      ComfyUnavailable: the operating system refused, or did not come back in time, or the file cannot be written; then
        nothing runs.
    """
    marker = uuid.uuid4().hex
    order = Order(command=command, cwd=cwd, environment={**environment, MARKER_NAME: marker}, log=log)
    try:
        popen = spawn_from_lasting_thread(order, limit_s=limit_s)
    except TimeoutError as exc:
        # Its number is not known; its mark is, if it has come so far.
        kill_marked(marker)
        raise ComfyUnavailable(f"Cannot start {command[0]}: {exc}.") from exc
    except (OSError, ValueError) as exc:
        raise ComfyUnavailable(f"Cannot start {command[0]}: {exc}") from exc
    child = Child(popen=popen, marker=marker, pid_file=pid_file, owner_pid=os.getpid())
    try:
        _write_pid_file(child)
    except OSError as exc:
        child.end(grace_s=0)  # Nobody would know of it, and each further try would add one more.
        raise ComfyUnavailable(f"Cannot write {pid_file}: {exc}") from exc
    return child


def recorded_pid(pid_file: Path) -> int | None:
    """Return the id of the living process that was noted in `pid_file`, for those who did not start it themselves."""
    try:
        process = _identity(json.loads(pid_file.read_text())["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return process.pid if process is not None and process.is_alive() else None


def end_leftover(pid_file: Path) -> None:
    """Kill what a worker that was itself killed left behind, so that it no longer holds the GPU's memory and files.

    Raises:
      ComfyUnavailable: its worker is alive, so the directory is in use; or it does not end.
    """
    try:
        record = json.loads(pid_file.read_text())
        process, owner = (_identity(record[key]) for key in ("process", "owner"))
        marker = str(record["marker"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        pid_file.unlink(missing_ok=True)  # Half-written or foreign: it names nothing that may safely be killed.
        return
    leftover_lives = process is not None and process.is_alive()
    if leftover_lives and owner is not None and owner.pid != os.getpid() and owner.is_alive():
        raise ComfyUnavailable(f"{pid_file.parent} is in use by the worker with process id {owner.pid}.")
    if process is not None and leftover_lives:
        _signal_group(process.pid, signal.SIGKILL)
        _wait_until_gone(process)
    kill_marked(marker)
    pid_file.unlink(missing_ok=True)


def kill_marked(marker: str) -> None:
    """Kill every process of one start, until none is left.

    Raises:
      ComfyUnavailable: one does not end.
    """
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while family := with_variable(MARKER_NAME, marker):
        for pid in family:
            _signal(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ComfyUnavailable(f"Processes {family} do not end, not even by SIGKILL.")
        time.sleep(0.02)


def _write_pid_file(child: Child) -> None:
    process, owner = ProcessIdentity.of(child.pid), ProcessIdentity.of(os.getpid())
    record = {
        "process": asdict(process) if process else None,
        "owner": asdict(owner) if owner else None,
        "marker": child.marker,
    }
    # Renamed into place, so that a worker killed here leaves a whole file or none.
    draft = child.pid_file.with_suffix(".new")
    draft.write_text(json.dumps(record))
    draft.replace(child.pid_file)


def _identity(fields: object) -> ProcessIdentity | None:
    if not isinstance(fields, dict):
        return None
    return ProcessIdentity(
        pid=int(fields["pid"]), start_ticks=int(fields["start_ticks"]), boot_id=str(fields["boot_id"])
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # Most real-time signals have no name.


def _wait(popen: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        popen.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _wait_until_gone(process: ProcessIdentity) -> None:
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while process.is_alive():
        if time.monotonic() > deadline:
            raise ComfyUnavailable(f"Process {process.pid} does not end, not even by SIGKILL.")
        time.sleep(0.02)


def _signal_group(group: int, number: signal.Signals) -> None:
    _send(os.killpg, group, number)


def _signal(pid: int, number: signal.Signals) -> None:
    _send(os.kill, pid, number)


def _send(send: Callable[[int, int], None], target: int, number: signal.Signals) -> None:
    try:
        send(target, number)
    except ProcessLookupError:
        pass  # It ended by itself.
    except PermissionError as exc:
        raise ComfyUnavailable(f"Process {target} belongs to another user and cannot be ended.") from exc
