"""The task of the GPU queue: use one turn."""

from __future__ import annotations

import logging
import time

from celery import shared_task
from celery.exceptions import Ignore

from core.errors import ComfyUnavailable
from tasks.names import GENERATE
from tasks.outcome import Failed, Finished
from tasks.recorder import Recorder
from tasks.runtime import FleetTask
from tasks.sparing import spared_from_sigterm
from tasks.station import Station

log = logging.getLogger(__name__)

#: How long a turn rests before it is published again when the instance is away: another worker may take it, and this
#: one stops consuming as soon as its supervisor has noticed.
REST_S = 1.0

_station: Station | None = None


def open_station(station: Station) -> None:
    """Called in the pool's process, after the fork."""
    global _station
    _station = station


def close_station() -> None:
    """Called when the pool's process ends in good order."""
    if _station is not None:
        _station.close()


@shared_task(bind=True, base=FleetTask, name=GENERATE)
def generate(self: FleetTask, job_id: str) -> list[str | int]:
    """Run one waiting job on this worker's instance; returns `[job_id, attempt]` of the job that was run."""
    assert _station is not None, "only a GPU worker runs this task"
    try:
        with spared_from_sigterm(self.runtime.settings.drain_grace_s):
            outcome = _station.work(job_id)
    except ComfyUnavailable as exc:
        log.warning("turn of job %s passed on: %s", job_id, exc)
        time.sleep(REST_S)
        self.runtime.publisher.turn(job_id)
        raise Ignore from exc
    if isinstance(outcome, Finished):
        return [outcome.job_id, outcome.attempt]
    if outcome is not None:
        Recorder(self.runtime).move_on(outcome)
    if isinstance(outcome, Failed):
        raise outcome.error
    raise Ignore
