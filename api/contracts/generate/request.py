"""Reading the body of a `/generate` request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from api.http.json_body import body_digest
from api.schema.bodies import NEITHER_MODE, GenerateBody, GenerateInput
from api.schema.validation import place_of, read_enveloped, unwrapped
from api.service.job_drafts import EditorDocuments
from api.service.job_requests import filled_request, with_extra_data, with_output_fields, with_placement
from core.contracts.registry import CONTRACT_GENERATE
from core.errors import InvalidRequest
from core.records.job_request import JobRequest
from core.settings import Settings
from workflows.graphs.misplaced import misplaced_graph
from workflows.templates.fill import drawn_places, with_random_integers
from workflows.templates.library import Library
from workflows.templates.modifiers import GRAPH_KEY, build, draw_between, template_of
from workflows.templates.template import unwrapped as unwrapped_graph


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request of this contract."""

    job: JobRequest
    #: Outputs are wanted in the answer itself, as base64.
    is_inline: bool


def parse_generate(
    body: Any, settings: Settings, base_url: str, library: Library, documents: EditorDocuments
) -> GenerateRequest:
    """Read `{"input": {...}, "expected_time"?}`, bare or within `{"auth_data", "payload"}`.

    Raises:
      InvalidRequest, InvalidWorkflow: what is wrong with it.
    """
    try:
        read = read_enveloped(GenerateBody, body)
    except InvalidRequest as exc:
        # The text stays as it is for those who compare it; where a graph is found elsewhere there is more to say.
        bare = unwrapped(GenerateBody, body)
        if exc.message == NEITHER_MODE and (hint := misplaced_graph(bare, "input.workflow_json")):
            raise InvalidRequest(hint) from exc
        raise
    wanted = read.input
    job = replace(
        _work(wanted, library, settings.comfy_model or None, documents),
        request_id=wanted.request_id,
        request_digest=body_digest(unwrapped(GenerateBody, body)) if wanted.request_id else None,
        expected_time_s=read.expected_time,
        timeout_s=wanted.timeout,
        label=wanted.label,
    )
    job = with_placement(job, wanted, settings, within=f"{place_of(GenerateBody, body)}input.")
    job = with_extra_data(job, wanted.extra_data)
    job = with_output_fields(job, wanted, wanted.webhook, settings, base_url, has_defaults=True)
    return GenerateRequest(job=job, is_inline=bool(wanted.return_outputs_as_base64))


def _work(
    wanted: GenerateInput, library: Library, default_workflow: str | None, documents: EditorDocuments
) -> JobRequest:
    """Return a request for the graph; of a modifier with its template, and what that was filled with."""
    if not wanted.modifier:
        job = documents.request(JobRequest(contract=CONTRACT_GENERATE, graph=wanted.workflow_json))
        return replace(job, graph=with_random_integers(job.graph, draw=draw_between), drawn=drawn_places(job.graph))
    modifications = dict(wanted.modifications or {})
    if GRAPH_KEY in modifications:
        modifications[GRAPH_KEY] = documents.as_graph(unwrapped_graph(modifications[GRAPH_KEY]))
    filled = build(wanted.modifier, modifications, library, default_workflow)
    template = template_of(wanted.modifier, modifications, default_workflow)
    return filled_request(filled, contract=CONTRACT_GENERATE, template=template)
