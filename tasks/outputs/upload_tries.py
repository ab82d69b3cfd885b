"""How often a job's outputs are tried to be stored, and when they are given up: by time where the reason may pass, by
number where it is a fault of ours or ends the process, as `COMFYLINE_MAX_ATTEMPTS` does for attempts on a GPU."""

from __future__ import annotations

import contextlib
import errno
import logging
from dataclasses import replace
from typing import NoReturn

from core.clock import now_ms
from core.errors import ComfylineError, LedgerUnavailable, OutputUnavailable, UploadFailed
from core.ledger.outputs import DELIVERING_MS
from core.messaging.notices import Notice
from core.records.job import FAILED
from core.records.progress import generated
from core.storage.folders import BucketFault, is_out_of_room
from tasks.job_errors import job_error
from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: What Flower shows of a turn after which another one comes; why is in the log.
WAITS = "waits for another turn"
#: How it begins what a client reads of outputs that wait.
NOTE = "Generated. Its outputs wait to be stored:"
#: What is wrong with the storage is the operator's to know, in the log and in /ready.
AWAY = "the storage of files does not take them now."
FULL = "the storage of files is full."
REFUSES = "the storage of files refuses them."
#: What a client learns of a fault of ours.
FAULT = "an unexpected error on the server, whose log has it"


class Unfinished(Exception):
    """This turn has not brought the job's outputs to their place; says in a few words how it stands with them."""


class UploadTries:
    """One turn's part in the tries at a job's outputs."""

    def __init__(self, runtime: Runtime, job_id: str, attempt: int) -> None:
        self._outputs = runtime.ledger.outputs
        self._notices = runtime.notices
        self._publisher = runtime.publisher
        self._most = runtime.settings.max_attempts
        self._give_up_ms = round(runtime.settings.upload_give_up_s * 1000)
        self._job_id, self._attempt = job_id, attempt
        #: Known once the job was looked up.
        self.generated_at_ms = now_ms()
        #: The node of an output that cannot be had.
        self.node_id: str | None = None
        self._is_counted = False

    @property
    def give_up_at_ms(self) -> int:
        """From then on what fails is not tried again."""
        return self.generated_at_ms + self._give_up_ms

    def begin(self) -> None:
        """Count this turn as lost until it ends otherwise: one that ends its process cannot say so any more.

        The first is not counted, which spares every job that goes well a write.

        Raises:
          Unfinished: the job has had its chances.
          StaleAttempt: it has ended meanwhile.
        """
        if now_ms() - self.generated_at_ms < DELIVERING_MS:
            return
        lost = self._outputs.count_loss(self._job_id, self._attempt)
        self._is_counted = True
        if lost > self._most:
            self._fail(f"Its outputs could not be stored: given up after {lost - 1} turns that came to no end.")

    def put_off(self, exc: OSError | ComfylineError) -> NoReturn:
        """End this turn over what may go well the next time. Raises Unfinished."""
        if self._is_counted:
            self._outputs.forgive_loss(self._job_id, self._attempt)
        if isinstance(exc, OutputUnavailable):
            self._fail(exc.message, exc)
        reason = exc.message if isinstance(exc, ComfylineError) else exc.strerror or type(exc).__name__
        # What puts files into buckets has looked at the clock itself, and that the ledger is away says nothing of them.
        # Nor does a storage that is away: its files are safe where they are, and nobody else has them.
        if now_ms() >= self.give_up_at_ms and not isinstance(exc, (UploadFailed, LedgerUnavailable, BucketFault)):
            self._fail(f"Its outputs could not be stored: {reason}")
        # Not the error whole: it names a file, as the client's graph did.
        log.warning("job %s waits for another turn: %s", self._job_id, reason)
        self.tell(_said_of(exc) if isinstance(exc, OSError) else reason)
        raise Unfinished(WAITS) from exc

    def tell(self, reason: str) -> None:
        """Say on the job why its files are not stored yet."""
        with contextlib.suppress(LedgerUnavailable):
            told = self._outputs.note_delay(self._job_id, self._attempt, f"{NOTE} {reason}")
            if told is not None:
                data = generated(told).to_json()
                self._notices.send(Notice(job_id=self._job_id, kind="progress", data=data))

    def lose(self, exc: Exception) -> NoReturn:
        """Count a turn that a fault of ours has ended. Raises Unfinished."""
        log.error("job %s: its outputs were not stored", self._job_id, exc_info=exc)
        if not self._is_counted:
            lost = self._outputs.count_loss(self._job_id, self._attempt)
        else:
            lost = self._outputs.losses(self._job_id)
        if lost >= self._most:
            self._fail(f"Its outputs could not be stored: {FAULT}.")
        raise Unfinished(WAITS) from exc

    def _fail(self, message: str, exc: ComfylineError | None = None) -> NoReturn:
        error = replace(job_error(exc or UploadFailed(message)), node_id=self.node_id)
        if self._outputs.fail(self._job_id, self._attempt, error):
            # A file's name comes from its graph, which is its client's.
            log.warning("job %s failed (%s)%s", self._job_id, error.code, "" if exc is not None else f": {message}")
            publish_follow_up(self._publisher, Moved(job_id=self._job_id, status=FAILED))
        raise Unfinished(f"failed ({error.code})")


def _said_of(exc: OSError) -> str:
    """What a client reads of a storage that does not take its files: no names, and no settings."""
    if is_out_of_room(exc):
        return FULL
    return REFUSES if exc.errno in (errno.EACCES, errno.EFBIG) else AWAY
