"""Tools that wait, and tell how far it is. A client that leaves, or waits for too long, ends no job: it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from api.contracts.comfy_v2.events import FAR_PLACE_S, MOVING, PLACE_S, REREAD_S
from api.contracts.mcp.arguments import BatchWaitArguments, JobWaitArguments
from api.contracts.mcp.tool import Moved, Steps, Tool, ToolResult
from api.contracts.mcp.tool_views import ToolBatchView, ToolJobView, batch_view, job_view
from api.http.caller import caller, links_for
from api.http.time_limits import ledger_time_limit
from api.service.batches.causes import Causes
from api.service.estimates import Estimates, Place
from api.service.jobs import check_id, seen
from api.service.waiting import CLIENT_CHECK_S, Hub, Watch
from core.contracts.comfy_v2 import SHOWN, progress_view
from core.errors import LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.links import Links
from core.records.batch import Batch
from core.records.job import QUEUED, SUCCEEDED, Job
from core.settings import Settings

#: Shortest pause between two notifications.
PAUSE_S: Final = 0.5
#: Pauses between two looks at a batch: the longer it takes, the longer they are.
FIRST_LOOK_S, LAST_LOOK_S, LOOK_GROWTH = 1.0, 10.0, 1.3
_AGAIN = "It has not ended, and goes on by itself: call this tool again."


class WaitingTools:
    """The tools of one process that wait."""

    def __init__(self, settings: Settings, ledger: Ledger, hub: Hub, estimates: Estimates) -> None:
        self._settings = settings
        self._ledger = ledger
        self._hub = hub
        self._estimates = estimates
        self._causes = Causes(ledger)

    def tools(self) -> list[Tool[Any]]:
        """Return them."""
        return [
            Tool(
                name="wait_for_job",
                title="Wait for a job",
                description="Waits until a job has ended, or for timeout_s, and answers with the job. Progress is told "
                "meanwhile. If has_ended is false, call it again.",
                scope="read",
                arguments=JobWaitArguments,
                view=ToolJobView,
                run=self._wait_for_job,
                only_reads=True,
            ),
            Tool(
                name="wait_for_batch",
                title="Wait for a batch",
                description="Waits until all jobs of a batch have ended, or for timeout_s, and answers with the batch. "
                "Progress is told meanwhile. If has_ended is false, call it again.",
                scope="read",
                arguments=BatchWaitArguments,
                view=ToolBatchView,
                run=self._wait_for_batch,
                only_reads=True,
            ),
        ]

    def _wait_for_job(self, arguments: JobWaitArguments) -> Steps:
        job = seen(self._hub.look(check_id(arguments.job_id)))
        links = links_for(self._settings, self._ledger)
        return JobWait(self._hub, self._estimates, links, job).steps(arguments.timeout_s)

    def _wait_for_batch(self, arguments: BatchWaitArguments) -> Steps:
        batch_id, sees = check_id(arguments.batch_id), caller().sees

        def look() -> Batch:
            with ledger_time_limit():
                return self._ledger.batches.get(batch_id, of=sees)

        return self._batch_steps(look(), look, arguments.timeout_s)

    def _batch_steps(self, batch: Batch, look: Callable[[], Batch], timeout_s: float) -> Steps:
        deadline_s = time.monotonic() + timeout_s
        look_s, due_s = FIRST_LOOK_S, time.monotonic() + FIRST_LOOK_S
        yield _batch_moved(batch)
        while batch.completed_at_ms is None and (now_s := time.monotonic()) < deadline_s:
            time.sleep(min(CLIENT_CHECK_S, deadline_s - now_s, max(0.0, due_s - now_s)))
            yield None
            if time.monotonic() < min(due_s, deadline_s):
                continue
            before, batch = batch, _again(look, batch)
            look_s = min(look_s * LOOK_GROWTH, LAST_LOOK_S)
            due_s = time.monotonic() + look_s
            if batch.ended != before.ended:
                yield _batch_moved(batch)
        view = batch_view(batch, self._causes.of(batch))
        yield ToolResult(view=view, advice="" if view["has_ended"] else _AGAIN)


class JobWait:
    """One client's wait for a job.

    Parameters:
      job: as it was when the client asked.
    """

    def __init__(self, hub: Hub, estimates: Estimates, links: Links, job: Job) -> None:
        self._hub = hub
        self._estimates = estimates
        self._links = links
        self._job = job
        self._read_at_s = 0.0
        self._place: Place | None = None
        self._placed_at_s = 0.0
        # What happened between the client's question and our standing in line is in the ledger.
        self._is_behind = True

    def steps(self, timeout_s: float) -> Steps:
        """Yield each change, and the job last, when it has ended or the time is over. Raises NotFound."""
        deadline_s = time.monotonic() + timeout_s
        told: tuple[object, ...] = ()
        told_at_s = float("-inf")
        with self._hub.watch(self._job.id, live=True) as watch:
            while True:
                # Before its place is read: what moves from then on is heard.
                watch.is_in_line = self._job.status == QUEUED
                self._look(watch)
                now_s = time.monotonic()
                if self._job.is_terminal or now_s >= deadline_s:
                    break
                news = self._news()
                if news != told and now_s - told_at_s >= PAUSE_S:
                    told, told_at_s = news, now_s
                    yield self._moved()
                watch.wait(min(CLIENT_CHECK_S if news == told else PAUSE_S, deadline_s - now_s))
                yield None
        yield self._result()

    def _look(self, watch: Watch) -> None:
        """Bring the job and its place up to date, as far as the ledger answers. Raises NotFound."""
        now_s = time.monotonic()
        if watch.is_gone:
            raise NotFound(f"The job {self._job.id} was deleted.")
        progress = watch.take_progress()
        if progress is not None and self._job.status in MOVING:
            self._job = replace(self._job, progress=progress)
        is_quiet = self._job.status in MOVING and now_s - self._read_at_s >= REREAD_S
        try:
            if self._is_behind or is_quiet or watch.seq > self._job.last_seq:
                self._is_behind = True
                self._job = self._hub.look(self._job.id)
                self._is_behind, self._read_at_s = False, now_s
            self._look_up_place(now_s)
        except LedgerUnavailable:
            # Jobs go on without it, and so does whoever waits for one.
            return

    def _look_up_place(self, now_s: float) -> None:
        if self._job.status != QUEUED:
            self._place = None
            return
        is_far = self._place is not None and self._place.is_far
        if self._place is None or now_s - self._placed_at_s >= (FAR_PLACE_S if is_far else PLACE_S):
            self._placed_at_s = now_s
            self._place = self._estimates.place(self._job)

    def _news(self) -> tuple[object, ...]:
        place = self._place
        why = None if place is None else (place.position, place.reason.code)
        return (self._job.status, why, self._job.progress)

    def _moved(self) -> Moved:
        progress = None if self._job.status == QUEUED else progress_view(self._job)
        if progress is not None:
            return Moved(value=progress["value"], message=progress["message"])
        sentence = "" if self._place is None else f": {self._place.sentence}"
        return Moved(value=0.0, message=f"{SHOWN[self._job.status]}{sentence}")

    def _result(self) -> ToolResult:
        job = self._job
        view = job_view(job, self._links, place=self._place)
        if not job.is_terminal:
            return ToolResult(view=view, advice=_AGAIN)
        looks = "show_outputs shows them." if job.status == SUCCEEDED and job.outputs else ""
        return ToolResult(view=view, advice=looks)


def _again(look: Callable[[], Batch], batch: Batch) -> Batch:
    try:
        return look()
    except LedgerUnavailable:
        return batch


def _batch_moved(batch: Batch) -> Moved:
    return Moved(value=batch.progress, message=f"{batch.ended} of {batch.total} jobs have ended")
