"""A dry run as its client sees it: what a submission would be answered, which GPUs could run it, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.contracts.comfy_v2.views import REASON_CODES
from api.http.error_shapes import COMFY_API, ErrorBodyView
from api.service.dry_runs.batch_trial import BatchDryRun, BatchEstimate
from api.service.dry_runs.job_trial import DryRun
from api.service.dry_runs.kinds_of_gpus import CanRun, JudgedKind, Survey
from api.service.dry_runs.missing_things import Fetchable, MissingThing
from api.service.estimates import Prospect
from core.errors import ComfylineError, TransientError
from workflows.graphs.lacks import Kind


class RefusalView(TypedDict):
    """What a submission would be answered."""

    status: Annotated[int, Field(description="The HTTP status.")]
    error: ErrorBodyView
    retry_after_s: NotRequired[Annotated[int, Field(description="When the same may be accepted.")]]


class GpuKindView(TypedDict):
    """GPUs that are alike for this job."""

    pool: str | None
    vram_bytes: int | None
    gpus: Annotated[int, Field(description="How many there are.")]
    ready: Annotated[int, Field(description="How many of them are healthy now.")]
    can_run: Annotated[CanRun, Field(description="once_fetched: when their host has fetched what they lack.")]
    why_not: Annotated[list[str], Field(description="In sentences.")]


class FetchView(TypedDict):
    """A model file that the fleet knows how to fetch."""

    size_bytes: int | None
    fetch_s: Annotated[float | None, Field(description="How long it takes. Null: no host fetches it.")]


class MissingView(TypedDict):
    """What some GPUs lack, or a file that is not there."""

    kind: Annotated[Kind, Field(description="A node class, a model file, or an input file.")]
    name: str
    nodes: Annotated[list[str], Field(description="The ids of the nodes that need it.")]
    input: NotRequired[Annotated[str, Field(description="Of a file: the input that names it.")]]
    absent_in: Annotated[list[str | None], Field(description="Pools that lack it; null: GPUs in no pool.")]
    present_in: Annotated[list[str | None], Field(description="Pools that have it.")]
    nearest: Annotated[list[str], Field(description="Names most like it that there are.")]
    fetch: NotRequired[FetchView]


class EstimateView(TypedDict):
    """What would become of a job that came now."""

    position: int | None
    starts_in_s: Annotated[float | None, Field(description="Until its own work begins. Null: no GPU takes it now.")]
    load_s: Annotated[float | None, Field(description="Of that, how long models load for it.")]
    run_s: Annotated[float, Field(description="How long it runs where its models are held.")]
    expires: Annotated[bool, Field(description="No GPU would take it within start_within_s.")]
    reason_code: Annotated[
        str, Field(description="Why it would wait, or not.", json_schema_extra={"enum": REASON_CODES})
    ]
    reason: str


class VerdictView(TypedDict):
    """What a submission would be answered, and what the GPUs have to say."""

    dry_run: Literal[True]
    accepted: Annotated[bool, Field(description="Whether a submission would be accepted now.")]
    runnable: Annotated[bool, Field(description="Whether some GPU can run it, or will when it has fetched models.")]
    problems: Annotated[
        list[RefusalView], Field(description="All that keeps it from being accepted; a submission is told the first.")
    ]
    gpus: list[GpuKindView]
    missing: list[MissingView]


class DryRunView(VerdictView):
    """What would become of a job."""

    nodes_total: NotRequired[Annotated[int, Field(description="How many of its nodes would run.")]]
    estimate: EstimateView | None


class BatchEstimateView(TypedDict):
    """What would become of the jobs of a batch that came now."""

    starts_in_s: Annotated[float | None, Field(description="Until the first of them begins.")]
    ends_in_s: Annotated[float | None, Field(description="Until the last has run. Null: some begin on no GPU.")]
    run_s: Annotated[float, Field(description="How long all of them run, one after the other.")]
    expires: Annotated[bool, Field(description="Some would not begin within start_within_s.")]


class BatchDryRunView(VerdictView):
    """What would become of a batch. gpus and missing are of the job that is refused, else of the first one."""

    jobs: Annotated[int, Field(description="How many it has.")]
    batch_id: NotRequired[Annotated[str, Field(description="The batch that this Idempotency-Key has already.")]]
    estimate: BatchEstimateView | None


def dry_run_view(found: DryRun) -> DryRunView:
    view: DryRunView = {
        "dry_run": True,
        "accepted": not found.refusals,
        "runnable": found.verdict is not None,
        "problems": _refusals(found.refusals),
        "gpus": _gpu_kinds(found.survey),
        "missing": _missing_things(found.survey),
        "estimate": None if found.prospect is None else _estimate(found.prospect, expires=found.expires),
    }
    if found.verdict is not None:
        view["nodes_total"] = found.verdict.nodes_total
    return view


def batch_dry_run_view(found: BatchDryRun) -> BatchDryRunView:
    view: BatchDryRunView = {
        "dry_run": True,
        "accepted": not found.refusals,
        "runnable": found.is_runnable,
        "problems": _refusals(found.refusals),
        "jobs": found.jobs,
        "gpus": _gpu_kinds(found.survey),
        "missing": _missing_things(found.survey),
        "estimate": None if found.estimate is None else _batch_estimate(found.estimate),
    }
    if found.batch_id is not None:
        view["batch_id"] = found.batch_id
    return view


def _refusals(errors: Sequence[ComfylineError]) -> list[RefusalView]:
    return [_refusal(error) for error in errors]


def _gpu_kinds(survey: Survey) -> list[GpuKindView]:
    return [_gpu_kind(each) for each in survey.kinds]


def _missing_things(survey: Survey) -> list[MissingView]:
    return [_missing(each) for each in survey.missing]


def _batch_estimate(estimate: BatchEstimate) -> BatchEstimateView:
    return {
        "starts_in_s": _rounded(estimate.starts_in_s),
        "ends_in_s": _rounded(estimate.ends_in_s),
        "run_s": round(estimate.run_s, 3),
        "expires": estimate.expires,
    }


def _refusal(error: ComfylineError) -> RefusalView:
    view: RefusalView = {"status": COMFY_API.status(error), "error": COMFY_API.body(error)["error"]}
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        view["retry_after_s"] = error.retry_after_s
    return view


def _gpu_kind(judged: JudgedKind) -> GpuKindView:
    return {
        "pool": judged.kind.pool,
        "vram_bytes": judged.kind.vram_bytes,
        "gpus": judged.gpus,
        "ready": judged.ready,
        "can_run": judged.can_run,
        "why_not": list(judged.why_not),
    }


def _missing(thing: MissingThing) -> MissingView:
    view: MissingView = {
        "kind": thing.lack.kind,
        "name": thing.lack.name,
        "nodes": list(thing.nodes),
        "absent_in": list(thing.absent_in),
        "present_in": list(thing.present_in),
        "nearest": list(thing.nearest),
    }
    if thing.lack.input_name:
        view["input"] = thing.lack.input_name
    if thing.fetchable is not None:
        view["fetch"] = _fetch(thing.fetchable)
    return view


def _fetch(found: Fetchable) -> FetchView:
    return {"size_bytes": found.size_bytes, "fetch_s": None if found.fetch_s is None else round(found.fetch_s, 1)}


def _estimate(prospect: Prospect, *, expires: bool) -> EstimateView:
    return {
        "position": prospect.position,
        "starts_in_s": _rounded(prospect.starts_in_s),
        "load_s": _rounded(prospect.load_s),
        "run_s": round(prospect.run_s, 3),
        "expires": expires,
        "reason_code": prospect.reason.code,
        "reason": prospect.sentence,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
