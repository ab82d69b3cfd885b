"""Which of a runner's jobs is posted next, and whether to claim more, so that no GPU waits for input files.

A job whose files have to be fetched is claimed so much earlier that they are there in time. How much that is is learned
from the jobs before it. Where files come at once, or jobs have none, one prompt on deck is enough.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from tasks.runner.claimed.run import Run
from tasks.runner.run_times import Durations

#: Files that come within this time are no reason to claim more than one job ahead.
SLOW_S = 0.1
#: The newest jobs, of which the slowest counts; and the most that it counts.
KEPT, MOST_LEAD_S = 16, 10.0
#: Files that take so many times as long as usual, or this long where nothing is known, come at a time that nobody can
#: tell: until they are here, the GPU needs other work.
LATE_RATIO, LATE_S = 1.5, 1.0


class Leads:
    """How long it was of late from the claim of a job until its input files were there."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=KEPT)

    def learn(self, seconds: float) -> None:
        """Learn it of one job; 0 if it has no files."""
        self._newest.append(seconds)

    def expect(self) -> float:
        """Return the seconds that the files of the next job will take at most, most likely; 0: no time worth noting."""
        slowest = max(list(self._newest), default=0.0)
        return 0.0 if slowest < SLOW_S else min(slowest, MOST_LEAD_S)


class Lineup:
    """Every attempt of one runner that has not ended, the oldest first. Safe to share between threads."""

    def __init__(self, durations: Durations, *, look_ahead_s: float, most: int) -> None:
        """Parameters:
        look_ahead_s: so much earlier than needed a job may be claimed.
        most: jobs that may be here and have not begun.
        """
        self.runs: list[Run] = []
        self._lock = threading.Lock()
        self._leads = Leads()
        self._durations = durations
        self._look_ahead_s = look_ahead_s
        self._most = most

    def add(self, run: Run) -> None:
        with self._lock:
            self.runs.append(run)

    def remove(self, run: Run) -> bool:
        """Take out an attempt that has ended; return whether a task waits for it, which is settled from then on."""
        with self._lock:
            self.runs.remove(run)
            return run.is_attended

    def unattended(self) -> list[Run]:
        with self._lock:
            return [run for run in self.runs if not run.is_attended]

    def take_unattended(self) -> Run | None:
        """Return the oldest attempt that no task waits for, which the caller's does from now on."""
        with self._lock:
            for run in self.runs:
                if not run.is_attended:
                    run.is_attended = True
                    return run
        return None

    def is_empty(self) -> bool:
        with self._lock:
            return not self.runs

    def posted_before(self, run: Run) -> list[Run]:
        """Return the attempts whose prompts were posted before that of this one."""
        with self._lock:
            posted = [other for other in self.runs if other.is_posted and other is not run]
        return [other for other in posted if other.posted_s <= run.posted_s]

    def has_next(self) -> bool:
        """Return whether a job waits for the one on the GPU to end; it may still be on its way to ComfyUI."""
        with self._lock:
            return any(run.started_s is None for run in self.runs)

    def wants_more(self) -> bool:
        """Return whether several jobs are to be claimed ahead, so that the GPU has one while files are fetched."""
        with self._lock:
            return wants_more(
                self.runs,
                now_s=time.monotonic(),
                lead_s=self._leads.expect(),
                look_ahead_s=self._look_ahead_s,
                most=self._most,
                expect=self._expected_s,
            )

    def waiting_s(self) -> float:
        """Return how long the jobs will keep the GPU busy that have not begun."""
        with self._lock:
            return sum(self._expected_s(run) for run in self.runs if run.started_s is None)

    def take_next(self) -> Run | None:
        """Return the job whose prompt is to be posted now, by the caller; None: there is none, or not yet."""
        with self._lock:
            run = next_to_post(self.runs)
            if run is not None:
                run.is_posted = True
            return run

    def note_ready(self, run: Run) -> bool:
        """Note that a job's input files are here, if it had any; False: it has been stopped meanwhile."""
        with self._lock:
            self._leads.learn(0.0 if run.fetched_since_s is None else time.monotonic() - run.fetched_since_s)
            run.fetched_since_s = None
            run.is_ready = not run.is_over
            return run.is_ready

    def stop_early(self, run: Run) -> bool:
        """Settle that a job ends before its prompt is posted; False: it is posted, or has ended."""
        with self._lock:
            run.fetched_since_s = None
            if run.is_posted or run.is_over:
                return False
            run.is_over = True
            return True

    def known_s(self, run: Run) -> float | None:
        """Return the seconds that a job like this one takes here; None: none was seen yet."""
        return self._durations.expect(run.shape)

    def _expected_s(self, run: Run) -> float:
        known_s = self.known_s(run)
        return run.claim.load_s + run.claim.run_s if known_s is None else known_s


def next_to_post(runs: Sequence[Run]) -> Run | None:
    """Return the job whose prompt is to be posted now; None while ComfyUI has one that waits, or must have none.

    Parameters:
      runs: all that have not ended, the oldest first.
    """
    for run in runs:
        if run.is_posted and not run.collected.is_set() and (run.started_s is None or run.names_own_files):
            return None
    return next((run for run in runs if run.is_ready and not run.is_posted and not run.is_over), None)


def wants_more(
    runs: Sequence[Run],
    *,
    now_s: float,
    lead_s: float,
    look_ahead_s: float,
    most: int,
    expect: Callable[[Run], float],
) -> bool:
    """Return whether what is here will be done before the files of a further job could come, if it has any.

    Parameters:
      lead_s: how long those take, see `Leads.expect`.
      look_ahead_s: so much earlier than needed a job may be claimed.
      most: jobs that may be here and have not begun.
      expect: the seconds that a job keeps the GPU busy.
    Returns: False also where files are no reason to claim more than one job ahead.
    """
    since_s = [run.fetched_since_s for run in runs if run.fetched_since_s is not None]
    if lead_s <= 0 and now_s - min(since_s, default=now_s) < SLOW_S:
        return False
    if sum(run.started_s is None for run in runs) >= most:
        return False
    late_s = max(LATE_RATIO * lead_s, LATE_S)
    work_s = 0.0
    for run in runs:
        is_late = run.fetched_since_s is not None and now_s - run.fetched_since_s > late_s
        if not is_late and not run.collected.is_set():
            work_s += max(0.0, expect(run) - (0.0 if run.started_s is None else now_s - run.started_s))
    return work_s <= look_ahead_s + lead_s
