"""Who a process is, read from /proc, so that a number the kernel gave to somebody else is never signalled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
#: Indexes into `/proc/<pid>/stat` after the command name, which may itself hold spaces (proc(5) counts from 1, with
#: two fields before these).
STATE, GROUP, START_TIME = 0, 2, 19


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process number that cannot be mistaken for a later process with the same number."""

    pid: int
    #: Clock ticks from boot to the start of the process.
    start_ticks: int
    #: Changes with each boot of the machine.
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this number now; None if there is none, or no /proc to ask."""
        fields = _stat(pid)
        if fields is None:
            return None
        return cls(pid=pid, start_ticks=int(fields[START_TIME]), boot_id=_boot_id())

    def is_alive(self) -> bool:
        """Whether this very process still runs; one that only waits for its parent to notice its end does not."""
        fields = _stat(self.pid)
        return fields is not None and fields[STATE] not in "ZX" and ProcessIdentity.of(self.pid) == self


def group_members(group: int) -> Iterator[int]:
    """The processes of a process group, as far as they can be seen."""
    for pid in _all_pids():
        fields = _stat(pid)
        if fields is not None and int(fields[GROUP]) == group:
            yield pid


def with_variable(name: str, value: str) -> list[int]:
    """The processes that were started with `name=value` in their environment, and so all descendants of one start."""
    wanted = f"{name}={value}".encode()
    return [pid for pid in _all_pids() if wanted in _environment(pid)]


def _all_pids() -> Iterator[int]:
    if PROC.is_dir():
        yield from (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _environment(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _boot_id() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # Some sandboxes hide it; the start time still tells processes of one boot apart.
