"""Processes as /proc shows them: who one is, so that nobody else is ever signalled, and who belongs to its family."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.machine import PROC, boot_id

#: Indexes into `/proc/<pid>/stat` after the command name, which may itself hold spaces (proc(5) counts from 1, with
#: two fields before these).
STATE, PARENT, GROUP, SESSION, START_TIME = 0, 1, 2, 3, 19
#: CPU time in user and kernel mode, of the process itself and of children that ended and were waited for; clock ticks.
CPU_TIMES = slice(11, 15)


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
        """Return the process that has this number now; None if there is none, or no /proc to ask."""
        fields = _stat(pid)
        if fields is None:
            return None
        return cls(pid=pid, start_ticks=int(fields[START_TIME]), boot_id=boot_id())

    def is_alive(self) -> bool:
        """Return whether this very process still runs; one whose parent has yet to notice its end does not."""
        fields = _stat(self.pid)
        return fields is not None and fields[STATE] not in "ZX" and ProcessIdentity.of(self.pid) == self


def group_members(group: int) -> Iterator[int]:
    """Yield the processes of a process group, as far as they can be seen."""
    for pid in _all_pids():
        fields = _stat(pid)
        if fields is not None and int(fields[GROUP]) == group:
            yield pid


def with_variable(name: str, value: str) -> list[int]:
    """Return the processes with `name=value` in their environment: all descendants of one start."""
    wanted = f"{name}={value}".encode()
    return [pid for pid in _all_pids() if wanted in _environment(pid)]


def family_stats(pid: int) -> dict[int, list[str]]:
    """`{pid: fields of /proc/<pid>/stat}` of a process, of its descendants, and of all in a session that it leads.

    Empty if there is no such process. One that left the session and whose parent has ended is not found.
    """
    stats = {member: fields for member in _all_pids() if (fields := _stat(member)) is not None}
    children: dict[int, list[int]] = {}
    for member, fields in stats.items():
        children.setdefault(int(fields[PARENT]), []).append(member)
    found: set[int] = set()
    waiting = [pid, *(member for member, fields in stats.items() if int(fields[SESSION]) == pid)]
    while waiting:
        member = waiting.pop()
        if member in stats and member not in found:
            found.add(member)
            waiting += children.get(member, [])
    return {member: stats[member] for member in found} if pid in found else {}


def having_open(path: Path) -> list[tuple[int, str]]:
    """Return the number and the name of each process that has a file open, whatever became of its name since.

    Files beside it that begin with its name count, too. Processes of other users are seen by root alone.
    """
    whole = str(path.resolve())
    pids = [pid for pid in _all_pids() if pid != os.getpid()]
    return [(pid, _name(pid)) for pid in pids if any(name.startswith(whole) for name in _open_files(pid))]


def io_counters(pid: int) -> dict[str, int] | None:
    """`/proc/<pid>/io`, in bytes and calls; None if it may not be read (another user's process) or is gone."""
    try:
        lines = (PROC / str(pid) / "io").read_text().splitlines()
    except OSError:
        return None
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


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


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                # A file that was removed is shown as `name (deleted)`.
                yield str(descriptor.readlink())
