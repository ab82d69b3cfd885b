"""Tools that look at jobs, batches and GPUs, and those that end what goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.contracts.mcp.arguments import BatchIdArguments, JobArguments, ListArguments, NoArguments
from api.contracts.mcp.tool import Tool, ToolResult
from api.contracts.mcp.tool_views import (
    ToolBatchView,
    ToolGpusView,
    ToolJobsView,
    ToolJobView,
    ToolQueueView,
    batch_view,
    gpu_view,
    job_view,
)
from api.http.caller import caller, links_for
from api.http.time_limits import ledger_time_limit
from api.schema import fields
from api.service.batches.causes import Causes
from api.service.batches.service import BatchService
from api.service.estimates import Estimates
from api.service.jobs import JobService, check_id
from core.ledger import Ledger
from core.ledger.instances import HEALTHY
from core.records.job import TERMINAL, Job, Status
from core.settings import Settings


class LookingTools:
    """The tools of one process that look, and that cancel."""

    def __init__(
        self, settings: Settings, ledger: Ledger, service: JobService, batches: BatchService, estimates: Estimates
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._service = service
        self._batches = batches
        self._estimates = estimates
        self._causes = Causes(ledger)

    def tools(self) -> list[Tool[Any]]:
        """Return them."""
        return [
            Tool(
                name="get_job",
                title="A job as it stands",
                description="Status, place in the queue, progress, outputs or error of a job, at once.",
                scope="read",
                arguments=JobArguments,
                view=ToolJobView,
                run=self._get_job,
                only_reads=True,
            ),
            Tool(
                name="list_jobs",
                title="Jobs",
                description="Jobs, the newest first, or those of a batch.",
                scope="read",
                arguments=ListArguments,
                view=ToolJobsView,
                run=self._list_jobs,
                only_reads=True,
            ),
            Tool(
                name="get_batch",
                title="A batch as it stands",
                description="How many jobs of a batch wait, run and have ended, and why some failed, at once.",
                scope="read",
                arguments=BatchIdArguments,
                view=ToolBatchView,
                run=self._get_batch,
                only_reads=True,
            ),
            Tool(
                name="queue_status",
                title="Queue",
                description="How many of your jobs wait and run, and how many GPUs there are for them.",
                scope="read",
                arguments=NoArguments,
                view=ToolQueueView,
                run=self._queue_status,
                only_reads=True,
            ),
            Tool(
                name="list_gpus",
                title="GPUs",
                description="Each GPU of the fleet: its state, its job, the models it holds. For operators.",
                scope="operate",
                arguments=NoArguments,
                view=ToolGpusView,
                run=self._list_gpus,
                only_reads=True,
            ),
            Tool(
                name="cancel_job",
                title="Cancel a job",
                description="Ask for a job's end. Safe to repeat; one that has ended stays as it is.",
                scope="cancel",
                arguments=JobArguments,
                view=ToolJobView,
                run=self._cancel_job,
                is_destructive=True,
            ),
            Tool(
                name="cancel_batch",
                title="Cancel a batch",
                description="Ask for the end of all jobs of a batch. Safe to repeat.",
                scope="cancel",
                arguments=BatchIdArguments,
                view=ToolBatchView,
                run=self._cancel_batch,
                is_destructive=True,
            ),
        ]

    def _get_job(self, arguments: JobArguments) -> ToolResult:
        with ledger_time_limit():
            job = self._ledger.jobs.get(check_id(arguments.job_id), of=caller().sees)
        view = job_view(job, links_for(self._settings, self._ledger), place=self._estimates.place(job))
        return ToolResult(view=view)

    def _list_jobs(self, arguments: ListArguments) -> ToolResult:
        statuses = fields.statuses(",".join(arguments.status) if arguments.status else None)
        with ledger_time_limit():
            found, cursor = (
                self._of_batch(arguments, statuses) if arguments.batch_id else self._all(arguments, statuses)
            )
        places = self._estimates.places(found)
        links = links_for(self._settings, self._ledger)
        view: ToolJobsView = {
            "jobs": [job_view(job, links, place=places.get(job.id)) for job in found],
            "next_cursor": cursor,
        }
        return ToolResult(view=view)

    def _all(self, arguments: ListArguments, statuses: Sequence[Status]) -> tuple[list[Job], str | None]:
        page = self._ledger.jobs.page(
            of=caller().sees,
            statuses=statuses,
            label=arguments.label,
            after=fields.decode_cursor(arguments.cursor),
            limit=arguments.limit + 1,
        )
        last = page[arguments.limit - 1] if len(page) > arguments.limit else None
        cursor = None if last is None else fields.encode_cursor(last.created_at_ms, last.id)
        return page[: arguments.limit], cursor

    def _of_batch(self, arguments: ListArguments, statuses: Sequence[Status]) -> tuple[list[Job], str | None]:
        batch_id, sees = check_id(arguments.batch_id or ""), caller().sees
        # One that there is not has no jobs either, and its client is to hear of it.
        self._ledger.batches.over_names(batch_id, of=sees)
        page = self._ledger.batch_children.page(
            batch_id,
            of=sees,
            statuses=statuses,
            after=fields.number_cursor(arguments.cursor, digits=9),
            limit=arguments.limit + 1,
        )
        cursor = str(page[arguments.limit - 1].batch_index) if len(page) > arguments.limit else None
        return page[: arguments.limit], cursor

    def _get_batch(self, arguments: BatchIdArguments) -> ToolResult:
        batch = self._batches.get(arguments.batch_id)
        return ToolResult(view=batch_view(batch, self._causes.of(batch)))

    def _queue_status(self, _arguments: NoArguments) -> ToolResult:
        sizes = self._estimates.outlook().sizes_of(caller().sees)
        with ledger_time_limit():
            healthy = [record for record in self._ledger.instances.all() if record.state == HEALTHY]
        view: ToolQueueView = {
            "jobs": {status: count for status, count in sizes.items() if status not in TERMINAL},
            "healthy_gpus": len(healthy),
            "idle_gpus": sum(record.job_id is None for record in healthy),
        }
        return ToolResult(view=view)

    def _list_gpus(self, _arguments: NoArguments) -> ToolResult:
        with ledger_time_limit():
            view: ToolGpusView = {"gpus": [gpu_view(record) for record in self._ledger.instances.all()]}
        return ToolResult(view=view)

    def _cancel_job(self, arguments: JobArguments) -> ToolResult:
        job = self._service.cancel(arguments.job_id)
        return ToolResult(view=job_view(job, links_for(self._settings, self._ledger)))

    def _cancel_batch(self, arguments: BatchIdArguments) -> ToolResult:
        return ToolResult(view=batch_view(self._batches.cancel(arguments.batch_id)))
