"""A job once more: the request that its record makes, with the changes that a client wants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from api.http.caller import caller, highest_priority
from api.http.errors import NotAllowed
from api.http.time_limits import ledger_time_limit
from api.schema.bulk_bodies import RerunBody
from api.service.job_requests import recorded_parameters, with_job_fields
from api.service.jobs import check_id
from core.errors import InvalidRequest, MissingAsset
from core.ledger import Ledger
from core.ledger.reruns import Ingredients
from core.records.bucket_target import ENVIRONMENT
from core.records.job import Job
from core.records.job_request import JobRequest
from core.settings import Settings
from core.texts.strict_json import loads
from workflows.graphs.graph import Graph
from workflows.graphs.places import find_place, with_values
from workflows.graphs.references import ASSET_TAG
from workflows.templates.fill import MAX_RANDOM
from workflows.templates.library import Library
from workflows.templates.modifiers import draw_between

#: Fields of a body, and what each sets in a request.
_SET_BY = {
    "label": "label",
    "timeout": "timeout_s",
    "metadata": "metadata",
    "priority": "priority",
    "requires": "requires",
    "start_within_s": "start_within_s",
    "retention": "retention_s",
    "webhook": "webhook",
}
#: Fields that a rerun has from its job as they are.
_KEPT = (
    *("contract", "label", "metadata", "template", "output_options", "expected_time_s", "webhook", "timeout_s"),
    *("requires", "start_within_s"),
)
_OF_WEBHOOKS = ("webhook_secret", "webhook_headers", "webhook_query")


@dataclass(frozen=True, kw_only=True)
class _Changes:
    """What of a job's graph becomes another."""

    #: By node id and input name, where a template puts its parameters.
    of_template: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    #: By places, `node.input`.
    by_place: Mapping[str, Any] = field(default_factory=dict)
    #: Of its template, as they are recorded.
    parameters: dict[str, Any] | None = None
    #: What of the rerun is drawn, now or when its job was made.
    drawn: tuple[str, ...] = ()
    #: The template's own files that changed parameters name.
    files: Mapping[str, Path] = field(default_factory=dict)


class Reruns:
    """Makes requests for jobs that are to run once more."""

    def __init__(self, settings: Settings, ledger: Ledger, library: Library) -> None:
        self._settings = settings
        self._ledger = ledger
        self._library = library

    def request(self, job_id: str, body: RerunBody, *, base_url: str, idempotency_key: str | None) -> JobRequest:
        """Return the request for a job once more, ready to be submitted.

        Raises:
          NotFound: there is no such job for who asks.
          NotAllowed: it is another tenant's, or the key may not change graphs.
          InvalidRequest: a change fits nothing, or secrets that were deleted have to come again.
          MissingAsset: a file of the job is not there any more.
          LedgerUnavailable.
        """
        with ledger_time_limit():
            job = self._ledger.jobs.get(check_id(job_id), of=caller().sees)
            graph_text = self._ledger.jobs.graph(job.id, of=caller().sees)
            made_of = self._ledger.reruns.ingredients(job.id)
        if job.tenant != caller().tenant:
            raise NotAllowed("Only the tenant of a job may run it once more: its files and secrets are its own.")
        if body.inputs and caller().limits.templates is not None:
            raise NotAllowed("This key may submit jobs from templates alone: change parameters, not inputs.")
        changes = self._changes(job, body)
        graph = _changed(loads(graph_text.encode()), changes)
        wanted = JobRequest(
            **{name: getattr(job, name) for name in _KEPT},
            graph=self._with_assets(graph, job),
            files=changes.files,
            parameters=changes.parameters,
            drawn=changes.drawn,
            rerun_of=job.id,
            priority=min(job.priority, highest_priority(self._settings)),
            idempotency_key=idempotency_key,
            retention_s=_own_retention_s(job),
        )
        return self._with_said(wanted, made_of, body, base_url)

    def _changes(self, job: Job, body: RerunBody) -> _Changes:
        places = [] if body.same_seed else [name for name in job.drawn if "." in name]
        by_place = {place: draw_between(0, MAX_RANDOM) for place in places} | (body.inputs or {})
        changes = _Changes(
            by_place=by_place,
            parameters=job.parameters,
            drawn=tuple(name for name in job.drawn if name not in (body.inputs or {})),
        )
        if body.parameters and job.template is None:
            raise InvalidRequest("parameters: the job was made from no template; change places of its graph by inputs.")
        return changes if job.template is None else self._refilled(job, job.template, body, changes)

    def _refilled(self, job: Job, name: str, body: RerunBody, changes: _Changes) -> _Changes:
        """Return the changes with those of the template's parameters: what becomes another in the graph it makes."""
        said = {key.lower(): value for key, value in (body.parameters or {}).items()}
        anew = set() if body.same_seed else {each for each in job.drawn if "." not in each and each not in said}
        if not said and not anew:
            return changes
        template = self._library.get(name)
        old = job.parameters or {}
        filled = template.fill(
            {key: value for key, value in {**old, **said}.items() if key not in anew}, draw=draw_between
        )
        before = template.fill(old, draw=_lowest).graph
        after = template.fill(filled.values, draw=_lowest).graph
        drawn = {each for each in filled.drawn if "." not in each}
        return replace(
            changes,
            of_template={
                (node_id, input_name): value
                for node_id, node in after.items()
                for input_name, value in node["inputs"].items()
                if before[node_id]["inputs"].get(input_name) != value
            },
            parameters=recorded_parameters(filled.values),
            drawn=tuple(dict.fromkeys([each for each in changes.drawn if each not in said] + sorted(drawn))),
            files=filled.files,
        )

    def _with_assets(self, graph: Graph, job: Job) -> Graph:
        """Return the graph with the assets of the job's files in the places of their names."""
        keys = {file.name: file.key for file in job.inputs}
        if not keys:
            return graph
        with ledger_time_limit():
            assets = self._ledger.reruns.assets_of(sorted(set(keys.values())), tenant=job.tenant)
        found = {name: assets.get(key) for name, key in keys.items()}
        for place, name in _names_in(graph, found):
            if found[name] is None:
                shown = name.rpartition("/")[2].partition("-")[2] if name.startswith(job.id) else name
                raise MissingAsset(
                    f"{place}: the file {shown} of job {job.id} is not kept any more. Upload it again, and name it in "
                    f'inputs: {{"{place}": "<its id>"}}.'
                )
        restored: Graph = {node_id: _restored(node, found) for node_id, node in graph.items()}
        return restored

    def _with_said(self, wanted: JobRequest, made_of: Ingredients, body: RerunBody, base_url: str) -> JobRequest:
        """Return the request with all that the body says beside the graph, and with its secrets."""
        said = with_job_fields(JobRequest(contract=wanted.contract, graph=None), body, self._settings, base_url)
        given = body.model_fields_set
        fields = {ours: getattr(said, ours) for name, ours in _SET_BY.items() if name in given}
        old, new = wanted.output_options, said.output_options
        options = replace(
            old,
            bucket=new.bucket if "s3" in given else old.bucket,
            convert=new.convert if "convert_output" in given else old.convert,
            strip_metadata=new.strip_metadata if "strip_metadata" in given else old.strip_metadata,
        )
        replaced = (*(_OF_WEBHOOKS if "webhook" in given else ()), *(("s3",) if "s3" in given else ()))
        kept = {name: value for name, value in made_of.secrets.items() if name not in replaced}
        result = replace(
            wanted,
            **fields,
            output_options=options,
            extra_pnginfo=said.extra_pnginfo or made_of.extra_pnginfo,
            secrets={**kept, **said.secrets},
        )
        _require_secrets(result, set(made_of.wiped) - set(replaced))
        return result


def _require_secrets(request: JobRequest, wiped: set[str]) -> None:
    """Refuse a rerun that lacks what its job came with. Raises InvalidRequest, which says what to give again."""
    lacking = []
    if request.webhook is not None and wiped.intersection(_OF_WEBHOOKS):
        lacking.append("webhook, with its secret and headers")
    bucket = request.output_options.bucket
    if bucket is not None and bucket.origin != ENVIRONMENT and "s3" not in request.secrets:
        lacking.append("s3, with its keys or URLs")
    if "api_key_comfy_org" in wiped and "api_key_comfy_org" not in request.secrets:
        lacking.append("extra_data.api_key_comfy_org")
    if lacking:
        raise InvalidRequest(
            f"Secrets of a job are deleted after their use. Give again, or leave out by null: {'; '.join(lacking)}."
        )


def _own_retention_s(job: Job) -> float | None:
    """Return how long a job is kept from its end, where it keeps its files as long: it may have asked for that."""
    if job.expires_at_ms != job.files_expire_at_ms:
        return None
    return (job.expires_at_ms - (job.completed_at_ms or job.created_at_ms)) / 1000


def _changed(graph: Graph, changes: _Changes) -> Graph:
    """Return a job's graph with its changes. Raises InvalidRequest: it has no such place."""
    changed = dict(graph)
    for (node_id, name), value in changes.of_template.items():
        if node_id not in changed:
            raise InvalidRequest("parameters: the template is not what it was when this job was made; submit it anew.")
        node = changed[node_id]
        changed[node_id] = {**node, "inputs": {**node["inputs"], name: value}}
    placed = [(find_place(changed, path, field="inputs"), value) for path, value in changes.by_place.items()]
    return with_values(changed, placed)


def _names_in(graph: Graph, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each place of a graph where one of the names stands, at any depth, as `node.input`, with the name."""
    for node_id, node in graph.items():
        for input_name, value in node["inputs"].items():
            pending = [value]
            while pending:
                inner = pending.pop()
                if isinstance(inner, str) and inner in names:
                    yield f"{node_id}.{input_name}", inner
                elif isinstance(inner, (dict, list)):
                    pending += inner.values() if isinstance(inner, dict) else inner


def _restored(value: Any, assets: Mapping[str, str | None]) -> Any:
    """Return a part of a graph with an asset in place of each name."""
    if isinstance(value, dict):
        return {key: _restored(inner, assets) for key, inner in value.items()}
    if isinstance(value, list):
        return [_restored(inner, assets) for inner in value]
    if isinstance(value, str) and (asset := assets.get(value)) is not None:
        return {"__type": ASSET_TAG, "info": {"id": asset}}
    return value


def _lowest(low: int, _high: int) -> int:
    return low
