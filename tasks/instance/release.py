"""How a GPU worker's main process gives jobs back: those that wait, those that run too long, those of a dead process.

A job that is given back belongs to nobody: whatever the worker still learns of its prompt is refused as stale.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from core.errors import LedgerUnavailable
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runtime import Runtime
from tasks.take_back import take_back

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.3


class JobRelease:
    """For one instance. Each use has connections of its own: it is needed rarely, and in moments of trouble.

    Raises: LedgerUnavailable - nothing was given back, or only a part; to be tried again, or left to the reconciler.
    """

    def __init__(self, settings: Settings, instance: str) -> None:
        self._settings = settings
        self._instance = instance

    def what_waits(self, interrupt: Callable[[str], None]) -> None:
        """Give back what stands in ComfyUI's queue and has not begun."""
        self._release(interrupt, "The GPU takes no more jobs for now.", only_on_deck=True)

    def everything(self, interrupt: Callable[[str], None]) -> None:
        """Give back what runs, too; it goes on elsewhere at once."""
        self._release(interrupt, "The GPU was taken out of use before the job was done.", only_on_deck=False)

    def of_dead_process(self) -> None:
        """Give back the jobs of a pool process that died, without waiting for their leases to lapse."""
        with self._runtime() as runtime:
            runtime.ledger.requeue.expire_leases(self._instance)
            take_back(runtime)

    def wait_until_idle(self, timeout_s: float, cancel: threading.Event) -> bool:
        """Wait until the instance holds no job; False if it still does after that time, or when it is called off.

        While the ledger is away nobody knows, and nothing could be given back: then the wait goes on beyond its time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._runtime() as runtime:
            while not cancel.is_set():
                is_busy = self._is_busy(runtime)
                if is_busy is False:
                    return True
                if is_busy and time.monotonic() > deadline_s:
                    return False
                cancel.wait(LOOK_EVERY_S)
        return False

    def _is_busy(self, runtime: Runtime) -> bool | None:
        """Whether the instance holds a job; None: the ledger does not say."""
        try:
            return runtime.ledger.instances.holds_jobs(self._instance)
        except LedgerUnavailable as exc:
            log.warning("%s: whether it still holds a job is not known: %s", self._instance, exc)
            return None

    def _release(self, interrupt: Callable[[str], None], reason: str, *, only_on_deck: bool) -> None:
        with self._runtime() as runtime:
            given_back = runtime.ledger.requeue.release_all(self._instance, reason=reason, only_on_deck=only_on_deck)
            for job in given_back:
                log.info("job %s given back (%s): %s", job.job_id, job.status, reason)
                interrupt(job.prompt_id)
                publish_follow_up(runtime.publisher, Moved(job_id=job.job_id, status=job.status))

    def _runtime(self) -> contextlib.closing[Runtime]:
        return contextlib.closing(Runtime(self._settings, make_app(self._settings, "gpu")))
