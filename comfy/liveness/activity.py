"""How much a family of processes works, so that one that is busy in silence is told from one that is dead."""

from __future__ import annotations

import os
from dataclasses import dataclass

from comfy.liveness.procfs import CPU_TIMES, ProcessIdentity, family_stats, io_counters

#: What counts as work in `/proc/<pid>/io`. A file that is mapped into memory shows in `read_bytes` alone, one that
#: the kernel has in memory in `rchar` alone. What goes to sockets and logs (`wchar`) is small talk.
_IO_COUNTERS = ("rchar", "read_bytes", "write_bytes")


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that a family has done up to now."""

    cpu_s: float
    io_bytes: int


class Vitals:
    """Reads the work of a process, of its descendants and of its session, from /proc."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process = ProcessIdentity.of(pid)

    def work(self) -> Work | None:
        """Return the work of the family since its start.

        None where /proc does not tell: not Linux, another user's process, or the process has ended.

        Rises, except when a member ends that nobody waits for: what it did is then missing.
        """
        if self._process is None or not self._process.is_alive():
            return None
        stats, io_bytes = family_stats(self._pid), self._io_bytes(self._pid)
        if io_bytes is None or self._pid not in stats:
            return None
        ticks = sum(int(value) for fields in stats.values() for value in fields[CPU_TIMES])
        # A member of another user (a setuid helper) hides its files, not its CPU time.
        io_bytes += sum(self._io_bytes(member) or 0 for member in stats if member != self._pid)
        return Work(cpu_s=ticks / os.sysconf("SC_CLK_TCK"), io_bytes=io_bytes)

    @staticmethod
    def _io_bytes(pid: int) -> int | None:
        counters = io_counters(pid)
        return None if counters is None else sum(counters.get(name, 0) for name in _IO_COUNTERS)
