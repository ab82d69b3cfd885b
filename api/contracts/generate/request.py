"""Reading the body of a `/generate` request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import orjson

from api.schema.bodies import NEITHER_MODE, GenerateBody, GenerateInput
from api.schema.validation import place_of, read_enveloped, unwrapped
from api.service.job_requests import filled_request, with_extra_data, with_output_fields, with_placement
from core.contracts.registry import CONTRACT_GENERATE
from core.errors import InvalidRequest
from core.records.job_request import JobRequest
from core.settings import Settings
from workflows.graphs.misplaced import misplaced_graph
from workflows.templates.fill import with_random_integers
from workflows.templates.library import Library
from workflows.templates.modifiers import build, draw_between, template_of


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request of this contract."""

    job: JobRequest
    #: Outputs are wanted in the answer itself, as base64.
    is_inline: bool


def parse_generate(body: Any, settings: Settings, base_url: str, library: Library) -> GenerateRequest:
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
        _work(wanted, library, settings.comfy_model or None),
        request_id=wanted.request_id,
        request_digest=_digest(unwrapped(GenerateBody, body)) if wanted.request_id else None,
        expected_time_s=read.expected_time,
        timeout_s=wanted.timeout,
    )
    job = with_placement(job, wanted, settings, within=f"{place_of(GenerateBody, body)}input.")
    job = with_extra_data(job, wanted.extra_data)
    job = with_output_fields(job, wanted, wanted.webhook, settings, base_url, has_defaults=True)
    return GenerateRequest(job=job, is_inline=bool(wanted.return_outputs_as_base64))


def _digest(body: Any) -> bytes:
    """SHA-256 of a body, however its keys are ordered and its text is spaced."""
    try:
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits.
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(text).digest()


def _work(wanted: GenerateInput, library: Library, default_workflow: str | None) -> JobRequest:
    """Return a request for the graph; of a modifier with its template, and what that was filled with."""
    if not wanted.modifier:
        return JobRequest(
            contract=CONTRACT_GENERATE, graph=with_random_integers(wanted.workflow_json, draw=draw_between)
        )
    modifications = wanted.modifications or {}
    filled = build(wanted.modifier, modifications, library, default_workflow)
    template = template_of(wanted.modifier, modifications, default_workflow)
    return filled_request(filled, contract=CONTRACT_GENERATE, template=template)
