"""The jobs of a caller's tenant as ComfyUI lists them: its queue, its history, and what newer versions call jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flask import Response, request

from api.contracts.comfyui.answers import whole_number
from api.contracts.comfyui.entries import (
    ACTIVE,
    ENDED,
    IN_PROGRESS,
    STATUS_WORDS,
    WAITING,
    WORKFLOW_ID,
    history_entry,
    prompt_id_of,
    queue_item,
)
from api.contracts.comfyui.job_entries import job_entry, whole_job_entry
from api.contracts.comfyui.stored_results import StoredResults
from api.http.caller import caller
from api.http.errors import BadParameter, json_response
from api.http.time_limits import ledger_time_limit
from api.service.jobs import JobService, check_id
from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.job_pages import MAX_JOBS
from core.records.job import CANCELED, CANCELING, Job, Status
from core.texts.json_types import JsonObject

#: Jobs that one answer shows, with their graphs: of a queue, of a history of which nobody said how much, and at most.
MAX_QUEUED_SHOWN, DEFAULT_SHOWN, MAX_SHOWN = 500, 200, 1_000
#: How long one request goes on cancelling.
CLEARING_S = 10.0


class Prompts:
    """The jobs of the caller's tenant, as ComfyUI lists them."""

    def __init__(self, ledger: Ledger, service: JobService, results: StoredResults) -> None:
        self._jobs, self._pages = ledger.jobs, ledger.job_pages
        self._service = service
        self._results = results
        self._output_nodes = service.check.catalogues.output_nodes

    def remaining(self) -> int:
        """Return how many wait or run."""
        return self._pages.count(of=caller().tenant, statuses=ACTIVE)

    def named(self, name: str) -> Job | None:
        """Return the job that a client knows by this id."""
        with ledger_time_limit():
            try:
                job_id = self._pages.named(check_id(name), of=caller().tenant)
                return None if job_id is None else self._jobs.get(job_id, of=caller().tenant)
            except NotFound:
                return None

    def queue(self) -> JsonObject:
        """Return what runs and what waits, the oldest first."""
        running = self._page(IN_PROGRESS, MAX_QUEUED_SHOWN)
        # Those that begin next are shown, and not those that came last.
        waiting = self._pages.count(of=caller().tenant, statuses=WAITING)
        pending = self._page(WAITING, MAX_QUEUED_SHOWN, max(0, waiting - MAX_QUEUED_SHOWN))
        sent = self._pages.submitted([job.id for job in (*running, *pending)], of=caller().tenant)
        items = {job.id: queue_item(job, sent.get(job.id), self._output_nodes) for job in (*running, *pending)}
        return {
            "queue_running": [items[job.id] for job in reversed(running)],
            "queue_pending": sorted((items[job.id] for job in pending), key=lambda item: item[:2]),
        }

    def history(self, max_items: int | None, offset: int | None) -> JsonObject:
        """Return entries, the oldest first: the last ones, or those from a place on."""
        limit = DEFAULT_SHOWN if max_items is None else max_items
        with ledger_time_limit():
            newer = 0
            if offset is not None:
                total = self._pages.count(of=caller().tenant, statuses=ENDED)
                limit = min(limit, max(0, total - offset))
                newer = max(0, total - offset - limit)
            found = self._page(ENDED, limit, newer) if limit else []
        return self.entries(list(reversed(found)))

    def entries(self, jobs: Sequence[Job]) -> JsonObject:
        """Return the entries of ended jobs, by their prompt ids."""
        with ledger_time_limit():
            sent = self._pages.submitted([job.id for job in jobs], of=caller().tenant)
        read = self._results.text
        return {prompt_id_of(job): history_entry(job, sent.get(job.id), self._output_nodes, read) for job in jobs}

    def whole(self, name: str) -> JsonObject | None:
        """Return all that is said of one job."""
        job = self.named(name)
        if job is None:
            return None
        with ledger_time_limit():
            sent = self._pages.submitted([job.id], of=caller().tenant)
        return whole_job_entry(job, sent.get(job.id), self._results.text)

    def hide(self, names: Sequence[str], *, all_of_them: bool) -> None:
        """Leave ended jobs out of all lists from now on."""
        found = None if all_of_them else [job.id for name in names if (job := self.named(name)) is not None]
        if found != []:
            with ledger_time_limit():
                self._pages.hide(found, of=caller().tenant)

    def cancel(self, name: str, statuses: Sequence[Status]) -> bool:
        """Cancel a job if it has one of these statuses; returns whether it had."""
        job = self.named(name)
        if job is None or job.status not in statuses:
            return False
        try:
            return self._service.cancel(job.id).status in (CANCELED, CANCELING)
        except NotFound:
            return False

    def cancel_all(self, statuses: Sequence[Status]) -> None:
        """Cancel all jobs that have one of these statuses, as far as the time of one request goes."""
        until_s = time.monotonic() + CLEARING_S
        asked: set[str] = set()
        while time.monotonic() < until_s:
            with ledger_time_limit():
                some = [job for job in self._page(statuses, MAX_QUEUED_SHOWN) if job.id not in asked]
            if not some:
                return
            for job in some:
                asked.add(job.id)
                self._service.cancel(job.id)
                if time.monotonic() >= until_s:
                    return

    def job_list(self) -> Response:
        """Return the answer of `/api/jobs` to the query of this request."""
        words = [word.strip() for word in request.args.get("status", "").lower().split(",") if word.strip()]
        if wrong := [word for word in words if word not in STATUS_WORDS]:
            return _refused(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(STATUS_WORDS)}")
        by = request.args.get("sort_by", "created_at").lower()
        order = request.args.get("sort_order", "desc").lower()
        if by not in ("created_at", "execution_duration"):
            return _refused("sort_by must be 'created_at' or 'execution_duration'")
        if order not in ("asc", "desc"):
            return _refused("sort_order must be 'asc' or 'desc'")
        try:
            limit, offset = whole_number("limit", MAX_SHOWN), whole_number("offset", MAX_JOBS) or 0
        except BadParameter as exc:
            return _refused(str(exc))
        if limit == 0:
            return _refused("limit must be a positive integer")
        statuses = [status for word in words or STATUS_WORDS for status in STATUS_WORDS[word]]
        labels = {WORKFLOW_ID: found} if (found := request.args.get("workflow_id")) else None
        most = DEFAULT_SHOWN if limit is None else limit
        shown, total = self._shown(statuses, labels, by=by, is_rising=order == "asc", limit=most, offset=offset)
        pages = {"offset": offset, "limit": limit, "total": total, "has_more": offset + len(shown) < total}
        return json_response({"jobs": [job_entry(job) for job in shown], "pagination": pages})

    def _shown(
        self,
        statuses: Sequence[Status],
        labels: dict[str, str] | None,
        *,
        by: str,
        is_rising: bool,
        limit: int,
        offset: int,
    ) -> tuple[list[Job], int]:
        tenant = caller().tenant
        total = self._pages.count(of=tenant, statuses=statuses, labels=labels)
        if by == "execution_duration":
            # Of the newest ones: what is sorted has to be read.
            found = self._pages.page(of=tenant, statuses=statuses, labels=labels, limit=MAX_SHOWN)
            found.sort(key=lambda job: (job.completed_at_ms or 0) - (job.started_at_ms or 0), reverse=not is_rising)
            return found[offset : offset + limit], min(total, MAX_SHOWN)
        if not is_rising:
            return self._pages.page(of=tenant, statuses=statuses, labels=labels, limit=limit, offset=offset), total
        some = min(limit, max(0, total - offset))
        if not some:
            return [], total
        newer = total - offset - some
        found = self._pages.page(of=tenant, statuses=statuses, labels=labels, limit=some, offset=newer)
        return list(reversed(found)), total

    def _page(self, statuses: Sequence[Status], limit: int, offset: int = 0) -> list[Job]:
        return self._pages.page(of=caller().tenant, statuses=statuses, limit=limit, offset=offset)


def _refused(words: str) -> Response:
    return json_response({"error": words}, 400)
