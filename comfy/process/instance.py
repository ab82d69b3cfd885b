"""One ComfyUI process on one GPU, or one that somebody else runs: start, probe, stop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from comfy.client.client import ComfyClient
from comfy.client.transport import unresolved
from comfy.process.child import Child, end_leftover, spawn
from comfy.process.log import open_log, rotate, tail
from comfy.process.ports import belongs_to, free_port, is_free
from comfy.process.spec import (
    LOOPBACK,
    InstanceSpec,
    clean_environment,
    command_line,
    make_directories,
    working_directory,
    write_files,
)
from core.errors import ComfyUnavailable

__all__ = ["Instance", "InstanceSpec"]

log = logging.getLogger(__name__)

#: ComfyUI's event loop also does blocking work (`/object_info`, hashing of uploads) and shares the interpreter lock
#: with the nodes, so a healthy server may be silent for seconds while it loads a model.
PROBE_TIMEOUT_S = 5.0
#: Pause between two looks at an instance that starts.
READY_POLL_S = 0.1
#: The longest pause between two looks at an attached instance that does not answer.
ATTACHED_POLL_S = 3.0
#: Starts with another port when the chosen one was taken before ComfyUI could listen on it.
PORT_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One start of the process."""

    child: Child
    port: int
    #: Size of the log before this start: what stands before belongs to earlier runs. 0 once it was emptied.
    log_offset_bytes: int


class Instance:
    """Start, probe and stop one instance. Safe to use from several threads; has none of its own.

    It belongs to the process that started it: in a forked child (Celery's pool) it counts as dead, and `stop` does
    nothing.
    """

    def __init__(self, spec: InstanceSpec, *, probe_timeout_s: float = PROBE_TIMEOUT_S) -> None:
        self.spec = spec
        self._probe_timeout_s = probe_timeout_s
        #: Held while the process is started or ended. Readers take `_run` once instead: it is replaced as a whole.
        self._lock = threading.RLock()
        self._run: _Run | None = None

    @property
    def is_attached(self) -> bool:
        """Whether somebody else starts and stops the process."""
        return self.spec.kind == "attached"

    @property
    def base_url(self) -> str | None:
        """`http://host:port`, no slash at the end; changes with each start, None before the first and after `stop`."""
        if self.is_attached:
            return (self.spec.url or "").rstrip("/") or None
        run = self._run
        return None if run is None else f"http://{LOOPBACK}:{run.port}"

    @property
    def pid(self) -> int | None:
        """Process id, also of a process that died and was not stopped or started again yet; None if attached."""
        run = self._run
        return None if run is None else run.child.pid

    @property
    def output_dir(self) -> Path | None:
        """Where its outputs appear; None if attached, since the files may then be on another machine."""
        return None if self.is_attached else self.spec.data_dir / "output"

    @property
    def log_path(self) -> Path:
        """Everything the process printed."""
        return self.spec.data_dir / "comfyui.log"

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; nothing is known of an attached one, so that counts as alive."""
        if self.is_attached:
            return True
        run = self._run
        return run is not None and run.child.is_alive()

    def start(self) -> None:
        """Start the process and return at once; a process of an earlier start is ended first. Nothing if attached.

        Raises:
          ConfigurationError: there is no such checkout or interpreter.
          ComfyUnavailable: the port is taken, an earlier process does not end, or the system refuses to start one.
        """
        if self.is_attached:
            return
        with self._lock:
            self.stop()
            try:
                make_directories(self.spec)
                end_leftover(self._pid_file)
                write_files(self.spec)
                self._run = self._spawn(self._choose_port())
            except OSError as exc:
                raise ComfyUnavailable(f"Cannot start {self.spec.name}: {exc}") from exc
            log.info("%s: started %s as process %d", self.spec.name, self.spec.kind, self._run.child.pid)

    def wait_ready(
        self, cancel: threading.Event | None = None, *, on_wait: Callable[[str], None] | None = None
    ) -> None:
        """Block until the instance answers; one that is attached is waited for without a limit.

        Parameters:
          cancel: gives up when set.
          on_wait: told each time why an attached instance does not answer.
        Raises:
          ComfyUnavailable: the process ended (with how, and the tail of its log), `start_timeout_s` passed, or `cancel`
            was set. The process is left as it is.
        """
        cancel = cancel or threading.Event()
        if self.is_attached:
            self._wait_attached(cancel, on_wait)
            return
        deadline = time.monotonic() + self.spec.start_timeout_s
        tries_left = PORT_TRIES - 1
        while not self._is_ready():
            if cancel.wait(READY_POLL_S):
                raise self._called_off()
            if time.monotonic() > deadline:
                raise ComfyUnavailable(self._with_log(f"did not answer within {self.spec.start_timeout_s:g} s"))
            if not self.is_alive:
                if tries_left == 0 or not self._lost_its_port():
                    raise ComfyUnavailable(self._with_log(self.how_it_ended()))
                tries_left -= 1
                self.start()

    def probe(self) -> bool:
        """Return whether it is alive and answers `GET /prompt`; at most about `probe_timeout_s` (5 s)."""
        return self.problem() is None

    def problem(self) -> ComfyUnavailable | None:
        """Return why `probe` fails, or None if it does not; in the same time."""
        base_url = self.base_url
        if base_url is None or not self.is_alive:
            return ComfyUnavailable(f"{self.spec.name} {self.how_it_ended()}.")
        return _problem(base_url, self._probe_timeout_s)

    def stop(self, grace_s: float = 5.0) -> None:
        """End the process and everything it started: SIGTERM, and SIGKILL after `grace_s`. May be called at any time.

        Nothing if attached. A running prompt is lost; ComfyUI writes nothing on its way out.
        Raises:
          ComfyUnavailable: the process survives SIGKILL; call again.
        """
        with self._lock:
            run, self._run = self._run, None
            if run is None or not run.child.is_ours():
                return
            try:
                run.child.end(grace_s)
            except ComfyUnavailable:
                self._run = run
                raise

    def rotate_log(self) -> None:
        """Put the log aside if it grew too large while the process runs; call every few seconds.

        Nothing if attached, while nothing runs, or while another thread starts or ends the process: a start looks by
        itself. Failures are logged.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            run = self._run
            if run is not None and run.child.is_ours() and rotate(self.log_path):
                self._run = replace(run, log_offset_bytes=0)
        except OSError as exc:
            log.warning("%s: the log cannot be rotated: %s", self.spec.name, exc)
        finally:
            self._lock.release()

    def how_it_ended(self) -> str:
        """For people: how the process ended, if it did."""
        run = self._run
        return "was stopped" if run is None else run.child.how_it_ended()

    @property
    def _pid_file(self) -> Path:
        return self.spec.data_dir / "instance.pid"

    def _choose_port(self) -> int:
        if self.spec.port is None:
            return free_port()
        if not is_free(self.spec.port):
            # Without this look, whoever holds the port would answer for our instance.
            raise ComfyUnavailable(f"{self.spec.name}: port {self.spec.port} is taken by another program.")
        return self.spec.port

    def _spawn(self, port: int) -> _Run:
        command, cwd = command_line(self.spec, port), working_directory(self.spec)
        with open_log(self.log_path) as log_file:
            log_offset_bytes = log_file.tell()
            child = spawn(
                command, cwd=cwd, environment=clean_environment(self.spec), log=log_file, pid_file=self._pid_file
            )
        return _Run(child=child, port=port, log_offset_bytes=log_offset_bytes)

    def _is_ready(self) -> bool:
        run = self._run
        return self.probe() and (run is None or belongs_to(run.child.pid, run.port))

    def _wait_attached(self, cancel: threading.Event, on_wait: Callable[[str], None] | None) -> None:
        # Nobody but its owner can start it, and a server that is too busy to answer keeps each try in its queue.
        pause_s = READY_POLL_S
        while (problem := self.problem()) is not None:
            if on_wait is not None:
                on_wait(f"{self.spec.name}: {problem.message}.")
            if cancel.wait(pause_s):
                raise self._called_off()
            pause_s = min(2 * pause_s, ATTACHED_POLL_S)

    def _called_off(self) -> ComfyUnavailable:
        return ComfyUnavailable(f"{self.spec.name}: the start was called off.")

    def _lost_its_port(self) -> bool:
        run = self._run
        return run is not None and self.spec.port is None and not is_free(run.port)

    def _with_log(self, what: str) -> str:
        run = self._run
        lines = "" if run is None else tail(self.log_path, run.log_offset_bytes)
        # The first line may be shown to anybody; what follows has paths of this host and whatever nodes print.
        return f"{self.spec.name} {what}." + (f"\nThe end of {self.log_path}:\n{lines}" if lines else "")


def _problem(base_url: str, timeout_s: float) -> ComfyUnavailable | None:
    if (unknown := unresolved(base_url, timeout_s)) is not None:
        return unknown
    client = ComfyClient(base_url, connect_timeout_s=timeout_s, read_timeout_s=timeout_s)
    # A new connection each time: one that was accepted long ago says less about a server than one accepted now.
    with contextlib.closing(client):
        try:
            client.queue_remaining()
        except ComfyUnavailable as exc:
            return exc
    return None
