"""Child processes that never outlive us: started in sessions of their own, restarted with pauses, ended in order."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from comfy.liveness.procfs import with_variable
from comfy.process.spawner import LAUNCHER
from core.errors import ConfigurationError
from core.log_format import plain_line
from core.startup import SET_VARIABLE

#: Pause before the first restart; it doubles with each further one.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
#: A process that ran this long is sound again: its next end starts with the first pause.
SOUND_AFTER_S = 60.0
#: How often the state of children is looked at.
TICK_S = 0.1
#: The status of a process that would only end again so: it has said what to change.
NOT_AGAIN = 6
#: A log that has grown over this is set aside when its process starts.
LARGEST_LOG_BYTES = 20 * 1024 * 1024
#: How much of the end of a log is looked through for the reason of an end.
LAST_WORDS_BYTES = 64 * 1024
#: Our lines for people, levels of logs, and the last lines of tracebacks, which name an exception.
_SPEAKS_OF_ERROR = re.compile(
    r"^comfyline: |^.{0,60}\b(ERROR|CRITICAL)\b|^([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception)\b"
)
_TRACEBACK = "Traceback (most recent call last):"
#: Said of a process that was killed so: the kernel leaves no word in the log of the process.
_KILLED = " If nobody did that, memory ran out: see the kernel's log (dmesg)."
#: In the environment of everything one set starts, so that the last of a family is found, wherever it moved.
MARKER_NAME = SET_VARIABLE

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """One program to keep running."""

    #: What people call it: `api`, `gpu0`.
    name: str
    #: The absolute path of the program, then its arguments.
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path
    #: File that gets its output; None shares ours.
    log: Path | None = None


@dataclass(kw_only=True)
class Child:
    """One program of a set, over all its restarts."""

    spec: ProcessSpec
    popen: subprocess.Popen[bytes]
    started_at_s: float
    #: Size of the log when it started: what stands before is of earlier starts.
    log_offset_bytes: int = 0
    restarts_in_a_row: int = 0
    #: When it is due again after it ended; None while it runs, or when it is not to run again.
    due_at_s: float | None = None
    is_over: bool = False

    def is_alive(self) -> bool:
        return self.popen.poll() is None


@dataclass(kw_only=True)
class ProcessSet:
    """Programs that start, run and end together. Use it from one thread that lives as long as they shall.

    The kernel ties each child to the *thread* that started it, so a set in a thread that ends would kill its children.
    """

    #: Gets one line for people whenever a process ends, starts again, or is killed.
    report: Report
    #: Whether a process that ends with status 0 by itself is started again; otherwise it was told to end, and stays so.
    restart_clean_ends: bool = True
    children: dict[str, Child] = field(default_factory=dict)
    #: Those that ended with `NOT_AGAIN`.
    refused: list[str] = field(default_factory=list)
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, spec: ProcessSpec) -> None:
        """Start one more program. Raises: ConfigurationError - the operating system refuses."""
        popen, log_offset_bytes = _spawn(spec, self.marker)
        child = Child(spec=spec, popen=popen, started_at_s=time.monotonic(), log_offset_bytes=log_offset_bytes)
        self.children[spec.name] = child

    def tick(self) -> None:
        """Notice who ended, and start again who is due."""
        now_s = time.monotonic()
        for child in self.children.values():
            if child.is_over or child.is_alive():
                continue
            if child.due_at_s is None:
                self._ended(child, now_s)
            elif now_s >= child.due_at_s:
                self._restart(child, now_s)

    def is_running(self) -> bool:
        """Return whether anything runs or will run again."""
        return any(not child.is_over for child in self.children.values())

    def ask_to_end(self, names: Iterable[str]) -> None:
        """SIGTERM, in the given order, to each main process alone: Celery's pool children would drop their jobs."""
        for name in names:
            child = self.children[name]
            child.is_over = True
            if child.is_alive():
                child.popen.terminate()

    def alive(self, names: Iterable[str]) -> list[str]:
        """Return those of the named processes that still run."""
        return [name for name in names if self.children[name].is_alive()]

    def wait(self, names: Iterable[str], *, until: Callable[[], bool]) -> list[str]:
        """Wait until all have ended or `until` says stop; returns who still runs."""
        names = list(names)
        while (left := self.alive(names)) and not until():
            time.sleep(TICK_S)
        return left

    def kill(self, names: Iterable[str]) -> None:
        """SIGKILL to the process groups of those that did not end."""
        for name in self.alive(names):
            child = self.children[name]
            child.is_over = True
            self._say(f"{name} did not end in time and is killed.")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.popen.pid, signal.SIGKILL)
            child.popen.wait()

    def sweep(self) -> None:
        """Kill what is left of any family, for instance pool processes whose parent was killed."""
        for pid in with_variable(MARKER_NAME, self.marker):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _ended(self, child: Child, now_s: float) -> None:
        code = child.popen.returncode
        if code == 0 and not self.restart_clean_ends:
            child.is_over = True
            self._say(f"{child.spec.name} ended as told.")
            return
        if code == NOT_AGAIN:
            child.is_over = True
            self.refused.append(child.spec.name)
            self._say(f"{child.spec.name} is not started again.{_last_words(child)}")
            return
        if now_s - child.started_at_s > SOUND_AFTER_S:
            child.restarts_in_a_row = 0
        pause_s = self._pause_s(child)
        child.due_at_s = now_s + pause_s
        words = f"{child.spec.name} {describe_end(code)}; it starts again in {pause_s:.0f} s."
        words += _KILLED if code == -signal.SIGKILL else ""
        self._say(f"{words}{_last_words(child)}")

    def _restart(self, child: Child, now_s: float) -> None:
        try:
            child.popen, child.log_offset_bytes = _spawn(child.spec, self.marker)
        except ConfigurationError as exc:
            # The disk is full, or there are too many processes: it may pass, and the others of this set run.
            pause_s = self._pause_s(child)
            child.due_at_s = now_s + pause_s
            self._say(f"{exc.message} It is tried again in {pause_s:.0f} s.")
            return
        child.started_at_s, child.due_at_s = now_s, None
        self._say(f"{child.spec.name} runs again (process {child.popen.pid}).")

    def _pause_s(self, child: Child) -> float:
        """Return how long to wait before the next start; longer each time."""
        pause_s: float = min(FIRST_PAUSE_S * 2**child.restarts_in_a_row, LONGEST_PAUSE_S)
        child.restarts_in_a_row += 1
        return pause_s

    def _say(self, line: str) -> None:
        # Where lines for people go may be a file on a full disk. That must not end what they are about.
        with contextlib.suppress(OSError):
            self.report(line)


class StopSignals:
    """Counts the requests to stop (SIGINT, SIGTERM, SIGHUP) from its making on."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup has it ignored on purpose.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def __bool__(self) -> bool:
        return self.count > 0

    def _note(self, *_: object) -> None:
        self.count += 1


def describe_end(code: int) -> str:
    """For people: `ended with status 1` or `was killed by SIGKILL`."""
    return f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, or nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((plain_line(line.strip()) for line in reversed(lines) if line.strip()), "")


def cause(log: Path, offset_bytes: int = 0) -> str:
    """Return why a process ended, as far as its log tells: its last line that speaks of an error, else its last line.

    Parameters:
      offset_bytes: what stands before is of earlier starts.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(offset_bytes, log.stat().st_size - LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = [plain_line(line.rstrip()) for line in lines if line.strip()]
    raised = _raised(said)
    speaking = [number for number, line in enumerate(said) if number == raised or _SPEAKS_OF_ERROR.search(line.strip())]
    return said[speaking[-1] if speaking else -1].strip() if said else ""


def _raised(lines: Sequence[str]) -> int | None:
    """Return where the last traceback names what was raised: the first line of it that is not indented."""
    begin = next((number for number in reversed(range(len(lines))) if lines[number].startswith(_TRACEBACK)), None)
    if begin is None:
        return None
    return next((number for number in range(begin + 1, len(lines)) if not lines[number][0].isspace()), None)


def _last_words(child: Child) -> str:
    log = child.spec.log
    if log is None:
        return ""
    return f"\n  {cause(log, child.log_offset_bytes) or 'It said nothing.'}\n  log: {log}"


def _spawn(spec: ProcessSpec, marker: str) -> tuple[subprocess.Popen[bytes], int]:
    """Return the process, and how long its log was before."""
    # Through the launcher, which asks the kernel to kill the program when we die: also by SIGKILL nothing is left.
    command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *spec.command]
    with contextlib.ExitStack() as files:
        try:
            output = None if spec.log is None else files.enter_context(_open_log(spec.log))
            log_offset_bytes = 0 if output is None else os.fstat(output.fileno()).st_size
            popen = subprocess.Popen(
                command,
                cwd=spec.cwd,
                env={**spec.environment, MARKER_NAME: marker},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                # Ctrl-C in the terminal, and a SIGTERM that a Procfile host sends to our group, reach us alone.
                start_new_session=True,
            )
        except OSError as exc:
            raise ConfigurationError(f"{spec.name} cannot be started: {exc}") from exc
        return popen, log_offset_bytes


def _open_log(path: Path) -> FileIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGEST_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab", buffering=0)
