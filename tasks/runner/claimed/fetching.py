"""Input files brought to an instance beside whatever it does, so many at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from core.background import failure_of
from core.errors import InputGone, StorageUnavailable, TransientError
from tasks.runner.claimed.arrivals import ArrivalNotes
from tasks.runner.claimed.run import Run
from tasks.runner.claimed.staging import stage_inputs
from tasks.runtime import Runtime

#: After storage has failed, nothing more is claimed ahead for so long.
REST_S = 2.0


class Fetching:
    """What brings the input files of one runner's jobs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._notes = ArrivalNotes(runtime)
        at_once = runtime.settings.input_fetches
        #: Each brings the files of one job; those of a job that has several are fetched by others.
        self._jobs = ThreadPoolExecutor(at_once, thread_name_prefix="fetch")
        self._files = ThreadPoolExecutor(at_once, thread_name_prefix="fetch-file")
        self._rests_until_s = float("-inf")

    @property
    def rests(self) -> bool:
        """Whether storage has failed a moment ago."""
        return time.monotonic() < self._rests_until_s

    def begin(self, run: Run, fetch: Callable[[Run], None]) -> None:
        """Have a thread do this for a job. Does not wait."""
        run.fetched_since_s = run.claimed_s
        self._jobs.submit(failure_of, functools.partial(fetch, run), f"job {run.claim.job_id}")

    def bring(self, run: Run) -> None:
        """Bring a job's input files to the instance. Raises ComfylineError, see `stage_inputs`."""
        assert run.session is not None
        try:
            with self._notes.watched(run.claim) as arrivals:
                stage_inputs(
                    run.claim, run.instance, run.session.client, self._runtime.settings, self._files, arrivals.of
                )
        except (InputGone, TransientError) as exc:
            if isinstance(exc, StorageUnavailable):
                self._rests_until_s = time.monotonic() + REST_S
            # Not gone, if the storage is away.
            self._runtime.storage.forget()
            self._runtime.storage.require()
            raise
