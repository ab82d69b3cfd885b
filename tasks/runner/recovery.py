"""What a runner does for its instance beside running prompts: watch over it, free its memory, have it replaced."""

from __future__ import annotations

import contextlib
import logging

from comfy.client.client import ComfyClient
from comfy.liveness.watchdog import Limits, Watchdog
from comfy.process.child import recorded_pid
from comfy.process.cleanup import remove_job_files
from core.errors import (
    ComfylineError,
    ComfyOutOfMemory,
    ComfyUnavailable,
    LedgerUnavailable,
    PromptStuck,
    PromptTimeout,
)
from core.ledger.instances import UNHEALTHY
from core.records.instance import InstanceRecord
from tasks.runner.distress import CondemnPipe
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: After so many prompts in a row that ran out of memory the process is replaced: what frees nothing, leaks.
OUT_OF_MEMORY_LIMIT = 3


class Recovery:
    """For the instance of one worker; used by the threads that wait for prompts."""

    def __init__(self, runtime: Runtime, pipe: CondemnPipe) -> None:
        self._runtime = runtime
        self._line = pipe
        self._out_of_memory = 0
        settings = runtime.settings
        self._limits = Limits(idle_limit_s=settings.stuck_idle_s, silence_limit_s=settings.stuck_s)
        #: When the instance came up, and its process id: new together at each start.
        self._process: tuple[int | None, int | None] = (None, None)

    def watchdog(self, instance: InstanceRecord) -> Watchdog:
        """Return a watchdog for one prompt."""
        if self._process[0] != instance.up_since_ms:
            pid_file = self._runtime.settings.gpu_dir(instance.gpu_name) / "instance.pid"
            self._process = (instance.up_since_ms, None if instance.kind == "attached" else recorded_pid(pid_file))
        return Watchdog(self._limits, self._process[1])

    def after(self, exc: ComfylineError, instance: InstanceRecord) -> bool:
        """Do what the instance needs after a prompt that ended badly; return whether it is of no use any more."""
        if isinstance(exc, ComfyOutOfMemory):
            self._out_of_memory += 1
            self._free(instance)
            if self._out_of_memory < OUT_OF_MEMORY_LIMIT:
                return False
            self._out_of_memory = 0
            return self._condemn(instance, f"{OUT_OF_MEMORY_LIMIT} prompts in a row ran out of memory.")
        if isinstance(exc, PromptStuck) or (isinstance(exc, PromptTimeout) and exc.still_runs):
            return self._condemn(instance, exc.message)
        return False

    def is_well(self) -> None:
        """Note a prompt that ran whole."""
        self._out_of_memory = 0

    def remove_files(self, instance: InstanceRecord, job_id: str) -> None:
        """Remove what a job that ended without a result left in the instance's directories.

        Not if another attempt may be writing there; then age will have it removed.
        """
        if instance.kind == "attached":
            return
        with contextlib.suppress(ComfylineError):
            if self._runtime.ledger.jobs.get(job_id).is_terminal:
                remove_job_files(self._runtime.settings.gpu_dir(instance.gpu_name), job_id)

    def _free(self, instance: InstanceRecord) -> None:
        client = ComfyClient(instance.url or "")
        with contextlib.closing(client):
            try:
                client.free(unload_models=True, free_memory=True)
                with contextlib.suppress(LedgerUnavailable):
                    self._runtime.ledger.instances.forget_models(instance.name, worker=instance.worker)
            except ComfyUnavailable as exc:
                log.warning("%s: memory not freed: %s", instance.name, exc)

    def _condemn(self, instance: InstanceRecord, reason: str) -> bool:
        # The ledger first: from here on nothing is claimed for it, although its process still answers.
        with contextlib.suppress(LedgerUnavailable):
            self._runtime.ledger.instances.down(
                instance.name, worker=instance.worker, state=UNHEALTHY, reason=f"Replaced: {reason}"
            )
        log.warning("%s is to be replaced: %s", instance.name, reason)
        self._line.say(reason)
        return True
