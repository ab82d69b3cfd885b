"""Checks a job that a client wants: whether some instance can run it, and with which files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.http.caller import caller
from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Acceptance, Catalogues
from api.service.foreign_files import refuse_foreign, refuse_other_jobs
from api.service.input_files import Intake
from api.service.job_drafts import EditorDocuments, JobDraft, JobDrafts
from api.service.kept_refusals import AT_ONCE, Refusals
from core.errors import RequestIdReuse
from core.job_files import is_job_id
from core.ledger import Ledger
from core.records.access import ALL_TENANTS
from core.records.job import InputRef, new_job_id
from core.records.job_request import AcceptedJob, JobRequest
from core.settings import Settings
from core.texts.stored_json import json_text
from workflows.graphs.node_facts import GraphFacts
from workflows.graphs.references import put_all


@dataclass(frozen=True, kw_only=True)
class JudgedJob:
    """A request that some instance can run, whose files are not there yet."""

    request: JobRequest
    id: str
    draft: JobDraft
    verdict: Acceptance


class JobCheck:
    """Checks and completes a client's request before it is recorded."""

    def __init__(self, settings: Settings, ledger: Ledger, catalogues: Catalogues, intake: Intake) -> None:
        self._settings = settings
        self._ledger = ledger
        self._catalogues = catalogues
        self._intake = intake
        self._drafts = JobDrafts(ledger, catalogues, intake)
        self._documents = EditorDocuments(catalogues)

    @property
    def documents(self) -> EditorDocuments:
        """What converts documents of the editor."""
        return self._documents

    @property
    def catalogues(self) -> Catalogues:
        """What it judges by."""
        return self._catalogues

    def accept(self, request: JobRequest) -> AcceptedJob:
        """Check a request and have its files in storage; the request's own graph stays as it is.

        Raises:
          InvalidWorkflow, MissingAsset, InvalidRequest, RequirementsUnmet, RequestIdReuse: the client must change the
            request.
          NoHealthyInstance, InputUnavailable, StorageUnavailable, LedgerUnavailable: it may work later.
        """
        judged = self.judge(request, new_job_id())
        return self.finished(judged, self.bring(judged))

    def judge(self, request: JobRequest, job_id: str) -> JudgedJob:
        """Check a request, and bring none of its files. Raises as `accept`, but for what has to do with files."""
        request, draft = self.drafted(request, job_id)
        verdict = self.verdict(request, draft, job_id)
        assert verdict is not None
        return JudgedJob(request=request, id=job_id, draft=draft, verdict=verdict)

    def drafted(self, request: JobRequest, job_id: str, refusals: Refusals = AT_ONCE) -> tuple[JobRequest, JobDraft]:
        """Return a request that has a graph, and its draft. Raises as `judge`, but for what is judged by a verdict."""
        request = self._documents.request(request)
        return request, self._drafts.draft(request, job_id, refusals)

    def verdict(
        self, request: JobRequest, draft: JobDraft, job_id: str, refusals: Refusals = AT_ONCE
    ) -> Acceptance | None:
        """Return who can run a draft; None, where refusals are kept: nobody. Raises as `judge`."""
        sees = caller().sees
        found: Acceptance | None = None
        with refusals:
            refuse_foreign(draft.facts.paths, job_id, self._settings, self._ledger, of=sees)
        with refusals:
            found = self._catalogues.check(
                draft.runnable, draft.staged_files, requires=request.requires, facts=draft.facts
            )
        with refusals:
            if sees != ALL_TENANTS and found is not None:
                # What another tenant's job made is refused last: before that it is as if it did not exist.
                refuse_other_jobs(draft.facts.paths, job_id, self._ledger, of=ALL_TENANTS)
        with refusals:
            self._refuse_taken(request.request_id, request.tenant)
        return found

    def bring(self, judged: JudgedJob) -> list[InputRef]:
        """Have the file of each of a job's references in storage, and return them in their order.

        Last, for a graph that can run, and outside of the time the ledger gets.
        """
        return self._intake.bring(judged.draft.references, judged.id) if judged.draft.references else []

    def finished(self, judged: JudgedJob, inputs: Sequence[InputRef]) -> AcceptedJob:
        """Return a job with its files in its graph. Parameters: inputs - one for each of its references."""
        draft = judged.draft
        final = put_all(draft.graph, draft.references, [file.name for file in inputs])
        facts = GraphFacts(final) if inputs else draft.facts
        return AcceptedJob(
            request=judged.request,
            id=judged.id,
            graph_text=json_text(final) if inputs else draft.text,
            nodes_total=judged.verdict.nodes_total,
            catalogues=judged.verdict.catalogues,
            shape=facts.shape,
            models=facts.models,
            inputs=tuple(dict.fromkeys(inputs)),
        )

    def _refuse_taken(self, request_id: str | None, tenant: str) -> None:
        # Results are found by either id, so nobody may call a job by the id of another one.
        if not request_id or not is_job_id(request_id):
            return
        with ledger_time_limit():
            if self._ledger.jobs.states([request_id], of=tenant):
                raise RequestIdReuse.of(request_id, request_id)
