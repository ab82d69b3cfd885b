"""The API in a rollout: its gunicorn ends as by SIGTERM, and starts anew.

gunicorn's own reload would keep what its first process has loaded: settings, and the modules of ours that read them. So
that process starts anew as a whole, with the id that its supervisor knows.
"""

from __future__ import annotations

import mmap
import os
import signal

from core.records.rollout import ANEW, Renewal
from core.rollouts.anew import start_anew

#: The command of the API, for Python: it waits for what it needs, and becomes gunicorn.
API = ("-m", "cli.main", "api")


class ApiRenewal:
    """Shared by gunicorn's first process and its workers, since it is made before they are forked."""

    def __init__(self) -> None:
        self._wish = mmap.mmap(-1, 1)
        self._master: int | None = None

    def arm(self) -> None:
        """Say that this is gunicorn's first process, which will start anew at its end if that is wished."""
        self._master = os.getpid()

    @property
    def is_armed(self) -> bool:
        """Whether a worker can have its API renewed: it was started by our command."""
        return self._master is not None and self._master == os.getppid()

    def follow(self, wanted: Renewal | None) -> None:
        """In a worker: have the whole API renewed, once."""
        if wanted == ANEW and self._wish[0] == 0 and self._master is not None:
            self._wish[0] = 1
            os.kill(self._master, signal.SIGTERM)

    def start_anew_if_due(self) -> None:
        """In the first process, when all else has ended."""
        if self._wish[0] and self._master == os.getpid():
            start_anew(API)


api_renewal = ApiRenewal()
