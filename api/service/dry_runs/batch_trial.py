"""Dry runs of batches: all jobs are drafted and judged as those of a submission are, and none is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.http.time_limits import ledger_time_limit
from api.schema.batch_bodies import BatchBody
from api.service.batches.checks import BatchCheck, CheckedJobs
from api.service.batches.service import BatchService, allowed
from api.service.dry_runs.job_trial import DryRuns
from api.service.dry_runs.kinds_of_gpus import NO_SURVEY, Survey
from api.service.estimates import Estimates, Prospect
from api.service.job_check import JobCheck, JudgedJob
from api.service.jobs import JobService
from api.service.kept_refusals import KeptRefusals
from core.errors import ComfylineError
from core.ledger import Ledger
from core.ledger.scheduling.newcomers import Newcomer
from core.records.job_request import AcceptedJob, JobRequest

#: Sorts of jobs that are foreseen, each for itself; of a batch with more nothing is estimated.
MAX_SORTS = 100


@dataclass(frozen=True, kw_only=True)
class BatchEstimate:
    """When jobs would begin and end."""

    starts_in_s: float | None
    ends_in_s: float | None
    #: How long all of them run, one after the other.
    run_s: float
    expires: bool


@dataclass(frozen=True, kw_only=True)
class BatchDryRun:
    """What would become of a batch."""

    #: What keeps it from being accepted.
    refusals: tuple[ComfylineError, ...]
    is_runnable: bool
    jobs: int
    #: Of the job that is refused, else of the first one.
    survey: Survey = NO_SURVEY
    estimate: BatchEstimate | None = None
    #: The batch that the same request has already.
    batch_id: str | None = None


class BatchDryRuns:
    """Dry runs of batches of one process."""

    def __init__(
        self, ledger: Ledger, jobs: JobService, batches: BatchService, dry_runs: DryRuns, estimates: Estimates
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._batches = batches
        self._dry_runs = dry_runs
        self._estimates = estimates

    def of(self, body: BatchBody, *, key: str | None, digest: bytes, base_url: str) -> BatchDryRun:
        """Judge a batch. Raises: as `DryRuns.of`; what makes no jobs is refused as it is when it is submitted."""
        base, draft = self._batches.drafted(body, base_url)
        own = allowed(draft.requests)
        refusals = KeptRefusals()
        batch_id = None
        with refusals, ledger_time_limit():
            batch_id = self._ledger.batch_intake.known(key, digest, tenant=base.tenant)
        if batch_id is not None:
            return BatchDryRun(refusals=(), is_runnable=True, jobs=len(own), batch_id=batch_id)
        with refusals:
            self._jobs.require_room(len(own))
        with refusals:
            self._batches.require_tenants_room(base.tenant, len(own))
        files = self._dry_runs.files()
        check = self._dry_runs.check(_Watched, files)
        checked: CheckedJobs | None = None
        with refusals:
            checked = BatchCheck(check).accept(own)
        return BatchDryRun(
            refusals=tuple(refusals.errors),
            is_runnable=checked is not None,
            jobs=len(own),
            survey=self._dry_runs.survey(own[0] if checked is not None else check.last or own[0], files),
            estimate=None if checked is None else self._estimate(checked.jobs, body.max_running),
        )

    def _estimate(self, jobs: Sequence[AcceptedJob], max_running: int | None) -> BatchEstimate | None:
        sorts: dict[tuple[Any, ...], list[AcceptedJob]] = {}
        for job in jobs:
            sorts.setdefault((job.models, job.catalogues, job.shape, job.request.template), []).append(job)
        if len(sorts) > MAX_SORTS:
            return None
        newcomers: list[Newcomer] = [self._dry_runs.newcomer(found[0], len(found)) for found in sorts.values()]
        prospects = self._estimates.prospects(newcomers)
        run_s = sum(each.run_s * new.count for each, new in zip(prospects, newcomers, strict=True))
        starts_s = [each.starts_in_s for each in prospects if each.starts_in_s is not None]
        ends_s = [each.ends_in_s for each in prospects if each.ends_in_s is not None]
        ends_in_s = max(ends_s) if len(ends_s) == len(prospects) else None
        if ends_in_s is not None and max_running:
            # However many GPUs there are, no more of its jobs run at once.
            ends_in_s = max(ends_in_s, run_s / max_running)
        return BatchEstimate(
            starts_in_s=min(starts_s, default=None),
            ends_in_s=ends_in_s,
            run_s=run_s,
            expires=any(_expires(each, jobs[0].request.start_within_s) for each in prospects),
        )


def _expires(prospect: Prospect, within_s: float | None) -> bool:
    """Return whether the last job of a sort would not begin in time, as far as can be told without its load."""
    last_in_s = None if prospect.ends_in_s is None else prospect.ends_in_s - prospect.run_s
    return within_s is not None and (last_in_s is None or last_in_s > within_s)


class _Watched(JobCheck):
    """A check that remembers which job it judged last: where one is refused, that is it."""

    last: JobRequest | None = None

    def judge(self, request: JobRequest, job_id: str) -> JudgedJob:
        """Judge as any check does."""
        self.last = request
        return super().judge(request, job_id)
