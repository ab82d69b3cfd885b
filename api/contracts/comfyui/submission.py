"""A prompt as ComfyUI's clients post it, made a job request."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flask import Response

from api.contracts.comfyui.answers import ids_in
from api.contracts.comfyui.entries import CLIENT_ID, WORKFLOW_ID
from api.contracts.comfyui.refused import comfyui_error
from api.http.caller import highest_priority
from api.http.errors import json_response
from api.schema import fields
from api.service.jobs import JobService
from core.contracts.registry import CONTRACT_V2
from core.errors import EditorWorkflow, InvalidWorkflow, NodeErrors
from core.records.job import Job
from core.records.job_request import JobRequest
from core.settings import Settings
from core.texts.json_types import JsonObject
from workflows.graphs.graph import Graph, ancestors, parse_graph

#: Current servers take no other spelling.
_PROMPT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Errors that refuse a prompt as a whole, even where some of its outputs have nothing to do with them.
_OF_THE_WHOLE = frozenset({"missing_node_type", "node_type_refused", "dependency_cycle", "dependency_chain_too_long"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client posted."""

    request: JobRequest
    client_id: str | None


def asked(body: JsonObject, settings: Settings) -> Asked | Response:
    """Return what a body asks for, or what to answer to one that asks for nothing that can be."""
    if "prompt" not in body:
        return _refused("no_prompt", "No prompt provided", "No prompt provided")
    prompt_id = body.get("prompt_id")
    if prompt_id is not None and not is_prompt_id(prompt_id):
        rule = "A UUID in small letters, with hyphens; without one the server makes it."
        return _refused("invalid_prompt_id", "prompt_id must be a valid UUID", rule)
    client_id = body.get("client_id")
    said = body.get("extra_data")
    said = said if isinstance(said, dict) else {}
    if client_id is None:
        client_id = said.get("client_id")
    graph = body["prompt"]
    if targets := ids_in(body, "partial_execution_targets"):
        graph = only_for(parse_graph(graph), targets)
        if not graph:
            return _refused("prompt_no_outputs", "Prompt has no outputs")
    pnginfo = said.get("extra_pnginfo")
    pnginfo = pnginfo if isinstance(pnginfo, dict) else None
    key = said.get("api_key_comfy_org")
    request = JobRequest(
        contract=CONTRACT_V2,
        graph=graph,
        request_id=prompt_id,
        extra_pnginfo=pnginfo or None,
        metadata=fields.metadata(_labels(client_id, pnginfo)),
        priority=min(1 if _goes_first(body) else 0, highest_priority(settings)),
        secrets={"api_key_comfy_org": key} if isinstance(key, str) and key else {},
    )
    return Asked(request=request, client_id=None if client_id is None else str(client_id))


def is_prompt_id(value: Any) -> bool:
    """Return whether something can be the id of a prompt."""
    return isinstance(value, str) and _PROMPT_ID.fullmatch(value) is not None


def submitted(request: JobRequest, service: JobService) -> tuple[Job, NodeErrors]:
    """Submit a prompt; what of it cannot run is left out, as ComfyUI does, where that leaves anything.

    Returns: the job, and what is wrong with the nodes that were left out.
    Raises: what `JobService.submit` does.
    """
    try:
        return service.submit(request), {}
    except EditorWorkflow:
        raise
    except InvalidWorkflow as exc:
        left = what_can_run(request.graph, exc.node_errors, service.check.catalogues.output_nodes)
        if left is None:
            raise
        return service.submit(replace(request, graph=left)), exc.node_errors


def what_can_run(graph: Any, node_errors: NodeErrors, output_nodes: Callable[[Graph], list[str]]) -> Graph | None:
    """Return the part of a graph whose outputs depend on nothing that is wrong; None: there is none."""
    kinds = {each["type"] for entry in node_errors.values() for each in entry["errors"]}
    if not node_errors or kinds & _OF_THE_WHOLE:
        return None
    whole = parse_graph(graph)
    bad = set(node_errors).union(*(entry["dependent_outputs"] for entry in node_errors.values()))
    good = [node for node in output_nodes(whole) if node not in bad and bad.isdisjoint(ancestors(whole, [node]))]
    return only_for(whole, good) or None


def only_for(graph: Graph, wanted: list[str]) -> Graph:
    """Return a graph without what some of its nodes do not need."""
    needed = ancestors(graph, [node for node in wanted if node in graph])
    return {node: entry for node, entry in graph.items() if node in needed}


def _labels(client_id: Any, pnginfo: JsonObject | None) -> dict[str, str] | None:
    """What is noted on the job, so that any process finds the jobs of a client."""
    labels: dict[str, str] = {}
    if client_id is not None:
        labels[CLIENT_ID] = str(client_id)
    workflow = (pnginfo or {}).get("workflow")
    if isinstance(workflow, dict) and isinstance(workflow.get("id"), str):
        labels[WORKFLOW_ID] = workflow["id"]
    return labels or None


def _goes_first(body: JsonObject) -> bool:
    """Whether a prompt is to run before others: the number of a place below zero says so as well."""
    number = body.get("number")
    if isinstance(number, (int, float)):
        return number < 0
    return body.get("front") is True


def _refused(kind: str, message: str, details: str = "") -> Response:
    return json_response(comfyui_error(kind, message, details=details), 400)
