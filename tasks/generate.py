"""The task of the GPU queue: use one turn."""

from __future__ import annotations

import logging
import time

from celery import shared_task

from core import log_fields
from core.errors import ComfylineError, ComfyUnavailable, LedgerUnavailable
from tasks.messaging.names import GENERATE
from tasks.runner.attempt_end import AttemptEnd, Dropped, Failed, Finished, Stored
from tasks.runner.recorder import Recorder
from tasks.runner.runner import JobRunner
from tasks.runner.sigterm import spared_from_sigterm
from tasks.runtime import ComfylineTask

log = logging.getLogger(__name__)

#: How long a turn rests before it is published again when the instance is away: another worker may take it, and this
#: one stops consuming as soon as its supervisor has noticed.
REST_S = 1.0


@shared_task(bind=True, base=ComfylineTask, name=GENERATE)
def generate(self: ComfylineTask, job_id: str) -> list[str | int | float] | str:
    """Run one waiting job on this worker's instance.

    Returns: `[job_id, attempt, instance, seconds]` of the job that was run, which the next step of the chain takes, or
      in words why nothing follows. Flower shows either.
    """
    runner = self.context[JobRunner]
    started_s = time.monotonic()
    try:
        with spared_from_sigterm(self.runtime.settings.drain_grace_s):
            end = runner.work(job_id)
    except ComfyUnavailable as exc:
        log.warning("turn of job %s passed on: %s", job_id, exc)
        time.sleep(REST_S)
        self.runtime.publisher.turn(job_id)
        return self.end_chain(f"passed on: {runner.name} takes no jobs")
    except LedgerUnavailable as exc:
        log.warning("turn of job %s dropped: %s", job_id, exc)
        return self.end_chain("dropped: the ledger does not answer")
    except Exception as exc:
        # Its words may hold what a client wrote, and Celery would send them to Flower.
        log.exception("turn of job %s: a fault of ours", job_id)
        raise ComfylineError(f"A fault of ours ({type(exc).__name__}); the worker's log has it.") from None
    if end is None:
        return self.end_chain("nothing to do")
    # The turn was published for one job, and has run this one.
    log_fields.begin(job_id=end.job_id, attempt=end.attempt, tenant=end.tenant, trace_id=end.trace_id)
    who = f"job {end.job_id} attempt {end.attempt} on {runner.name}"
    if isinstance(end, Finished):
        self.report(who)
        if isinstance(end, Stored):
            # Nothing is left to be stored: whom to tell is told now, and the chain ends here.
            Recorder(self.runtime).move_on(end)
            self.end_chain(who)
        return [end.job_id, end.attempt, runner.name, round(time.monotonic() - started_s, 3)]
    self.report(f"{who}: {_in_words(end)}")
    Recorder(self.runtime).move_on(end)
    return self.end_chain(f"{who}: {_in_words(end)}")


def _in_words(end: AttemptEnd) -> str:
    """How a job ended that has no files; why is for its client alone."""
    if isinstance(end, Failed):
        return f"failed ({end.error.code})"
    return "canceled, or another attempt's" if isinstance(end, Dropped) else "queued again"
