"""Dry runs: a request is judged by all checks of a submission, none of which ends it, and nothing is recorded.

The checks are those of `api.service.jobs` and `api.service.job_check`, in the same order, so that a submission is
refused with the first of what is kept here, and accepted where nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from api.http.caller import caller
from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Acceptance
from api.service.dry_runs.kinds_of_gpus import NO_SURVEY, GpuSurvey, Survey
from api.service.dry_runs.missing_things import MissingThing
from api.service.dry_runs.trial_files import TrialFiles
from api.service.estimates import Estimates, Prospect
from api.service.input_files import Intake
from api.service.job_check import JobCheck, JudgedJob
from api.service.job_drafts import JobDraft
from api.service.jobs import JobService, owned_by
from api.service.kept_refusals import KeptRefusals
from core.clock import now_ms
from core.errors import ComfylineError, IdempotencyKeyReuse
from core.ledger import Ledger
from core.ledger.scheduling.newcomers import Newcomer
from core.records.job import new_job_id
from core.records.job_request import AcceptedJob, JobRequest
from core.settings import Settings
from workflows.graphs.graph import parse_graph
from workflows.graphs.lacks import Lack
from workflows.graphs.misplaced import is_document

Check = TypeVar("Check", bound=JobCheck)


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What would become of a request."""

    #: What keeps it from being accepted, in the order of the checks.
    refusals: tuple[ComfylineError, ...]
    #: Who can run its graph with its files, whether there is room for it now or not; None: no GPU.
    verdict: Acceptance | None = None
    survey: Survey = NO_SURVEY
    prospect: Prospect | None = None
    #: No GPU would take it by the time that it sets.
    expires: bool = False


class DryRuns:
    """Dry runs of one process."""

    def __init__(
        self, settings: Settings, ledger: Ledger, jobs: JobService, intake: Intake, estimates: Estimates
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._jobs = jobs
        self._intake = intake
        self._estimates = estimates
        self._gpus = GpuSurvey(ledger, jobs.check.catalogues)

    def files(self) -> TrialFiles:
        """Return an intake for one dry run, for files that come with its request."""
        return TrialFiles(self._intake)

    def check(self, kind: type[Check], files: TrialFiles) -> Check:
        """Return what judges requests with these files, of a class."""
        return kind(self._settings, self._ledger, self._jobs.check.catalogues, files)

    def of(self, request: JobRequest, files: TrialFiles | None = None) -> DryRun:
        """Judge a request.

        Parameters:
          files: those that came with it.
        Raises:
          InvalidWorkflow: its graph is none.
          NotAllowed: its key may not ask for this.
          LedgerUnavailable, StorageUnavailable, StorageFull: nobody can tell now.
        """
        request = owned_by(caller(), request)
        if not is_document(request.graph):
            parse_graph(request.graph)
        refusals = KeptRefusals()
        with refusals:
            self._jobs.require_room()
        with refusals:
            self._jobs.require_tenants_room(request, counts=False)
        # By what there is now: what is told of each GPU has to go with the verdict.
        self._jobs.check.catalogues.known_gpus()
        files = files or self.files()
        check, job_id = self.check(JobCheck, files), new_job_id()
        drafted: tuple[JobRequest, JobDraft] | None = None
        before = len(refusals.errors)
        with refusals:
            drafted = check.drafted(request, job_id, refusals)
        if drafted is None:
            self._refuse_used_key(request, refusals)
            return DryRun(refusals=tuple(refusals.errors))
        request, draft = drafted
        verdict = check.verdict(request, draft, job_id, refusals)
        # Nothing is fetched for a graph that cannot run.
        there = [each for each in draft.references if verdict is not None or each.url is None]
        inputs = files.try_each(there, job_id, refusals)
        is_runnable = verdict is not None and len(refusals.errors) == before
        self._refuse_used_key(request, refusals)
        survey = self._surveyed(request, draft, files)
        prospect = None
        if is_runnable and verdict is not None:
            judged = JudgedJob(request=request, id=job_id, draft=draft, verdict=verdict)
            prospect = self._estimates.prospects([self.newcomer(check.finished(judged, inputs))])[0]
        return DryRun(
            refusals=tuple(refusals.errors),
            verdict=verdict if is_runnable else None,
            survey=survey,
            prospect=prospect,
            expires=prospect is not None and expires(prospect, request.start_within_s),
        )

    def newcomer(self, job: AcceptedJob, count: int = 1) -> Newcomer:
        """Return a job, or so many that are alike, as they would come in. Raises LedgerUnavailable."""
        within_s = job.request.start_within_s
        with ledger_time_limit():
            kind = self._ledger.jobs.line_kind(job)
        return Newcomer(
            kind=kind,
            shape=job.shape,
            template=job.request.template,
            start_by_ms=None if within_s is None else now_ms() + int(within_s * 1000),
            count=count,
        )

    def survey(self, request: JobRequest, files: TrialFiles) -> Survey:
        """Return what all GPUs have to say about a request that is not judged here. Raises LedgerUnavailable."""
        drafted: tuple[JobRequest, JobDraft] | None = None
        with KeptRefusals() as kept:
            drafted = self.check(JobCheck, files).drafted(request, new_job_id(), kept)
        return NO_SURVEY if drafted is None else self._surveyed(*drafted, files)

    def _surveyed(self, request: JobRequest, draft: JobDraft, files: TrialFiles) -> Survey:
        found = self._gpus.of(draft, request.requires, caller().limits.pools)
        return Survey(kinds=found.kinds, missing=(*_absent(draft, files), *found.missing))

    def _refuse_used_key(self, request: JobRequest, refusals: KeptRefusals) -> None:
        if any(isinstance(error, IdempotencyKeyReuse) for error in refusals.errors):
            return
        with refusals, ledger_time_limit():
            self._ledger.jobs.refuse_used_key(request.idempotency_key, tenant=request.tenant)


def expires(prospect: Prospect, within_s: float | None) -> bool:
    """Return whether no GPU would take a job by the time that it sets."""
    if within_s is None:
        return False
    return prospect.taken_in_s is None or prospect.taken_in_s > within_s


def _absent(draft: JobDraft, files: TrialFiles) -> list[MissingThing]:
    """Return the assets of a draft that are not there, or are not its caller's."""
    nodes: dict[Lack, list[str]] = {}
    for each in draft.references:
        if each.asset is not None and files.referred_to(each.asset) is None:
            lack = Lack(kind="input", name=each.asset, class_type=each.class_type, input_name=each.input_name)
            nodes.setdefault(lack, []).append(each.node_id)
    return [MissingThing(lack=lack, nodes=tuple(found), absent_in=()) for lack, found in nodes.items()]
