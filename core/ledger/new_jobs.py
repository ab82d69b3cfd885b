"""The rows of new jobs, made from requests that were checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from core.clock import now_ms
from core.ledger.database.stored_fields import columns_from
from core.ledger.requests import Requests
from core.ledger.scheduling.lines import LineKind, line_tenant
from core.records.job import QUEUED, Job, JobSpec
from core.records.job_request import AcceptedJob
from core.settings import Settings
from core.texts.stored_json import json_text

#: Fields that every job has from its beginning: what its client asked for, what the check added, and where it stands.
_ASKED = tuple(field.name for field in fields(JobSpec))
_BEGUN = (
    *_ASKED,
    *("id", "status", "attempt", "last_seq", "nodes_total", "shape", "inputs"),
    *("created_at_ms", "updated_at_ms", "expires_at_ms", "files_expire_at_ms"),
)
#: Fields in which the requests of one batch differ.
_OWN = ("template", "parameters", "drawn", "varied", "metadata", "requires")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long jobs are kept after their end, in milliseconds, where they do not say themselves."""

    job_ms: int
    #: The same for their files; never more.
    files_ms: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Retention:
        """Return the times that the operator set."""
        files_s = settings.output_retention_s or settings.retention_s
        return cls(job_ms=int(settings.retention_s * 1000), files_ms=int(files_s * 1000))

    def of(self, retention_s: float | None) -> Retention:
        """Return the times of one job, which may ask for one of its own."""
        if retention_s is None:
            return self
        return Retention(job_ms=int(retention_s * 1000), files_ms=int(retention_s * 1000))


class JobRows:
    """Makes the rows of one process's new jobs."""

    def __init__(self, requests: Requests, retention: Retention) -> None:
        self._requests = requests
        self._retention = retention

    def of(self, new: AcceptedJob, line_id: int) -> tuple[Job, dict[str, Any]]:
        """Return a new job, and its row in a line."""
        request = new.request
        job = _begun(new, self._retention.of(request.retention_s))
        return job, {
            **columns_from(job, _BEGUN),
            "line": line_id,
            "start_by_ms": _start_by_ms(job),
            "lost_attempts": 0,
            **_of_its_graph(new),
            "request_mark": self._requests.mark(request.request_digest) if request.request_digest else None,
            "secret_names": sorted(request.secrets) or None,
            "extra_pnginfo": json_text(request.extra_pnginfo) if request.extra_pnginfo else None,
        }

    def alike(self, row: Mapping[str, Any], new: AcceptedJob, line_id: int) -> dict[str, Any]:
        """Return the row of a further job of a batch, most of which is as in that of another one."""
        own = columns_from(new.request, _OWN) | columns_from(new, ("id", "nodes_total", "shape", "inputs"))
        return {**row, **own, **_of_its_graph(new), "line": line_id}


def line_of(new: AcceptedJob) -> LineKind:
    """Return the line that a new job joins."""
    return LineKind(
        priority=new.request.priority,
        tenant=line_tenant(new.request.tenant),
        files=new.models,
        catalogues=_catalogues_column(new),
        requires=new.request.requires,
    )


def _of_its_graph(new: AcceptedJob) -> dict[str, Any]:
    catalogues = _catalogues_column(new)
    return {"graph": new.graph_text, "shared_graph": new.shared_graph, "catalogues": catalogues}


def _catalogues_column(new: AcceptedJob) -> str | None:
    return ",".join(new.catalogues) if new.catalogues else None


def _start_by_ms(job: Job) -> int | None:
    return None if job.start_within_s is None else job.created_at_ms + int(job.start_within_s * 1000)


def _begun(new: AcceptedJob, retention: Retention) -> Job:
    """Return the job of a request as it begins."""
    now = now_ms()
    return Job(
        **{name: getattr(new.request, name) for name in _ASKED},
        id=new.id,
        status=QUEUED,
        attempt=0,
        last_seq=1,
        nodes_total=new.nodes_total,
        shape=new.shape,
        inputs=new.inputs,
        created_at_ms=now,
        updated_at_ms=now,
        expires_at_ms=now + retention.job_ms,
        files_expire_at_ms=now + retention.files_ms,
    )
