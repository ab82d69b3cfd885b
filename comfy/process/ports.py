"""Loopback ports: find a free one, and see who listens on it."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from comfy.liveness.procfs import group_members
from comfy.process.spec import LOOPBACK
from core.errors import ComfyUnavailable

#: Below 32768, where Linux starts to hand out ports for outgoing connections: ComfyUI takes up to a minute between the
#: choice of its port and its bind, and any connection made meanwhile could take a port of that upper range.
LOWEST_PORT = 18_000
HIGHEST_PORT = 32_000
TRIES = 200
#: State LISTEN in /proc/net/tcp.
LISTENING = "0A"


def free_port() -> int:
    """Return a free port on the loopback interface; the caller must still expect to lose it.

    Raises:
      ComfyUnavailable: none was found.
    """
    for _ in range(TRIES):
        port = random.randint(LOWEST_PORT, HIGHEST_PORT)  # noqa: S311 - spreads instances, guards nothing
        if is_free(port):
            return port
    raise ComfyUnavailable(f"No free port on {LOOPBACK} between {LOWEST_PORT} and {HIGHEST_PORT}.")


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As aiohttp does: connections of a former server that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def belongs_to(group: int, port: int) -> bool:
    """Return whether a process of the group is the one that listens on the port.

    An answer alone does not prove that our instance gave it: another program may have taken the port first.
    Where /proc cannot tell (not Linux), the answer is taken to be ours.
    """
    inodes = _listening_inodes(port)
    if inodes is None:
        return True
    return any(_holds(pid, inodes) for pid in group_members(group))


def _listening_inodes(port: int) -> set[str] | None:
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    rows = [line.split() for line in lines]
    return {row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port}


def _holds(pid: int, inodes: set[str]) -> bool:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True  # A process of ours that we may not look into: benefit of the doubt.
    except OSError:
        return False  # It ended while we looked.
    return any(_target(link) in wanted for link in links)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""  # The file was closed while we looked.
