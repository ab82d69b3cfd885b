"""Exit statuses: what a script that calls `comfyline` can rely on."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
#: Misuse, a refused request, a wrong setting: the caller has to change something.
EXIT_USAGE = 2
EXIT_CANCELED = 3
EXIT_UNREACHABLE = 4
#: What shells use for a program ended by Ctrl-C.
EXIT_INTERRUPTED = 130


def exit_status_of(status: str) -> int:
    """Return the exit status for a job's terminal status."""
    return {"succeeded": EXIT_OK, "canceled": EXIT_CANCELED}.get(status, EXIT_FAILED)
