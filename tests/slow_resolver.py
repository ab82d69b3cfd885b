"""For processes under test: a resolver that is slow with names below `slow.invalid`, and knows `fast.invalid`."""

from __future__ import annotations

from pathlib import Path

SLOW_S = 20.0

#: What all of Python asks in the end is replaced before anything else is loaded.
_CODE = f"""
import _socket
from time import sleep

_real = _socket.getaddrinfo


def resolve(host, *arguments, **options):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name.endswith(".slow.invalid"):
        sleep({SLOW_S})
        raise _socket.gaierror(-2, "Name or service not known")
    return _real("127.0.0.1" if name == "fast.invalid" else host, *arguments, **options)


_socket.getaddrinfo = resolve
"""


def slow_resolver(folder: Path) -> dict[str, str]:
    """What a process has to have in its environment to use it. Parameters: folder - an empty one."""
    (folder / "sitecustomize.py").write_text(_CODE)
    return {"PYTHONPATH": str(folder)}
