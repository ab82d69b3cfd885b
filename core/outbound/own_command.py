"""Runs commands of the operator, which stand in this machine's own settings, without the secrets of ours."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping

from core.settings import process_environment

#: What of a command's last words is told.
SAID_CHARS = 300
#: What begins like that is ours, or for our tasks: a command has no use for such secrets.
_OURS = ("COMFYLINE_", "S3_", "WEBHOOK_")


def run_command(
    setting: str, command: str, *, limit_s: float, given: bytes = b"", variables: Mapping[str, str] | None = None
) -> str | None:
    """Run a command, with all it starts for no longer than its limit; return what went wrong.

    Parameters:
      setting: where it stands, for people.
      given: its standard input.
      variables: what its environment has besides.
    """
    environment = {name: value for name, value in process_environment().items() if not name.startswith(_OURS)}
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment, **(variables or {})},
            start_new_session=True,
        )
    except OSError as exc:
        return f"{setting} could not be run: {exc.strerror}."
    try:
        _, said = process.communicate(given, timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{setting} had not ended after {limit_s:g} s, and was killed."
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:SAID_CHARS]
        return f"{setting} ended with status {process.returncode}: {last!r}."
    return None
