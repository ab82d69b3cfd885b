#!/usr/bin/env -S python3 -I -S
"""Says whether a part of Comfyline in this container is well.

    comfyline-probe api [PORT] | flower [PORT] | gpu [DATA DIR]

Exit status 0 if it is; else 1, and a line that says what is not. It imports nothing of ours: a probe that took a
second of a core every few seconds would be felt by the jobs.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import struct
import sys
from pathlib import Path

TIMEOUT_S = 4.0


def main(arguments: list[str]) -> int:
    """Probe what is named; returns the exit status."""
    what, *rest = arguments or [""]
    if what == "api":
        problem = answers(int(rest[0]) if rest else 8000, "/health")
    elif what == "flower":
        # It asks for its password, which is an answer too.
        problem = answers(int(rest[0]) if rest else 5555, "/healthcheck", highest=499)
    elif what == "gpu":
        problem = gpus(Path(rest[0] if rest else "/data"))
    else:
        problem = "say what to look at: api [PORT], flower [PORT], gpu [DATA DIR]"
    if problem:
        sys.stderr.write(f"comfyline-probe: {problem}\n")
    return 1 if problem else 0


def answers(port: int, path: str, *, highest: int = 299) -> str | None:
    """Return what is wrong with the server at a port of this container; None if nothing is.

    Parameters: highest - of the statuses that are good answers.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return f"port {port} does not answer {path}: {exc or type(exc).__name__}"
    finally:
        connection.close()
    return None if status <= highest else f"port {port} answers {path} with {status}"


def gpus(data_dir: Path) -> str | None:
    """Return which ComfyUI of a running worker does not answer; None if all do, and there is one."""
    # What a worker of before has left behind is nobody's: the worker that runs holds the lock in its folder.
    folders = [folder for folder in sorted(data_dir.glob("gpus/*")) if is_held(folder / "worker.lock")]
    if not folders:
        return f"no GPU worker runs on {data_dir}/gpus"
    for folder in folders:
        if (port := port_of(folder)) is None:
            return f"{folder.name} has no ComfyUI that runs"
        # ComfyUI's shortest answer; a node that holds the interpreter delays it, and the next probe will do.
        if (problem := answers(port, "/prompt")) is not None:
            return f"{folder.name}: {problem}"
    return None


def is_held(lock: Path) -> bool:
    """Return whether a process has locked a file. It is only asked: to try it would be in the way of who wants it."""
    try:
        with lock.open("rb+") as file:
            asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind: int = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0]
    except OSError:
        return False
    return kind != fcntl.F_UNLCK


def port_of(folder: Path) -> int | None:
    """Return the port of the ComfyUI of a GPU; None if none runs."""
    try:
        pid = int(json.loads((folder / "instance.pid").read_text())["process"]["pid"])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return int(words[words.index(b"--port") + 1])
    except (OSError, ValueError, LookupError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
