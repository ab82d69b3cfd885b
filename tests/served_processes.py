"""What the kernel says of the processes of a server that a test has started: memory, and files that are open."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit


class ServedProcesses:
    """The processes of the API at an address of this machine, as `gunicorn_api` starts them."""

    def __init__(self, url: str) -> None:
        mark = f"COMFYLINE_API_PORT={urlsplit(url).port}".encode()
        self.pids = [pid for pid in _pids() if mark in _environment(pid)]
        assert self.pids, "none of them is there"
        self._before: dict[int, int] = {}

    def note_memory(self) -> None:
        """Begin to measure: from now on peaks are new ones."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            self._before[pid] = _status_bytes(pid, "VmRSS")

    def grown_bytes(self) -> int:
        """Return by how much the memory of that process has grown at its peak that has grown the most."""
        return max(_status_bytes(pid, "VmHWM") - self._before[pid] for pid in self.pids)

    def open_files(self) -> list[str]:
        """Return what regular files they have open, deleted ones too."""
        found = [name for pid in self.pids for name in _links(pid)]
        return [name for name in found if name.startswith("/") and not name.startswith("/dev/")]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _status_bytes(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, name
    return int(found[1]) * 1024


def holders_of(port: int, pids: list[int]) -> list[int]:
    """Return which of some processes hold the other end of a connection from a port of this machine."""
    marks = {f"socket:[{inode}]" for inode in _inodes_of_peers(port)}
    return [pid for pid in pids if marks.intersection(_links(pid))]


def _inodes_of_peers(port: int) -> Iterator[str]:
    """The inodes of sockets whose other end has this port, as proc_net_tcp(5) lists them."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == port:
            yield fields[9]


def _links(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return found
