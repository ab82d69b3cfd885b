"""Checking the body of a `/generate` request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from api.fields import timeout_s
from api.submit import Order
from api.webhooks import parse_webhook
from core.errors import InvalidRequest
from core.settings import Settings
from workflows.library import Library
from workflows.modifiers import build

#: Seconds on an RTX 4090 when the client does not say.
DEFAULT_EXPECTED_S = 46.0
#: A week: more is a mistake.
MAX_EXPECTED_S = 7 * 24 * 3600.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# Clients compare these three texts.
BOTH_MODES = "Cannot provide both workflow_json and modifier - they are mutually exclusive"
NEITHER_MODE = "Must provide either workflow_json OR modifier"
LONE_MODIFICATIONS = "modifications can only be provided when modifier is specified"


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request of this contract."""

    order: Order
    #: Outputs are wanted in the answer itself, as base64.
    is_inline: bool


def parse_generate(body: Any, settings: Settings, base_url: str, library: Library) -> GenerateRequest:
    """Read `{"input": {...}, "expected_time"?}`, bare or within `{"auth_data", "payload"}`.

    Raises:
      InvalidRequest, InvalidWorkflow: what is wrong with it.
    """
    body = _unwrapped(body)
    fields = body.get("input")
    if not isinstance(fields, dict):
        raise InvalidRequest("input must be an object.")
    workflow, parameters = _workflow(fields, library, settings.comfy_model)
    if _is_given(fields.get("s3")):
        raise InvalidRequest("S3 targets are not supported by this version; leave s3 out and fetch outputs by url.")
    webhook = parse_webhook(fields.get("webhook"), settings, base_url)
    inline = fields.get("return_outputs_as_base64")
    if inline is not None and not isinstance(inline, bool):
        raise InvalidRequest("return_outputs_as_base64 must be true or false.")
    order = Order(
        contract="generate",
        workflow=workflow,
        parameters=parameters,
        request_id=_request_id(fields.get("request_id")),
        expected_time_s=_expected_time_s(body),
        timeout_s=timeout_s(fields.get("timeout"), "input.timeout"),
        webhook=webhook.target if webhook else None,
        secrets={"webhook_secret": webhook.secret} if webhook and webhook.secret else None,
    )
    return GenerateRequest(order=order, is_inline=bool(inline))


def _unwrapped(body: Any) -> dict[str, Any]:
    """The request itself: Vast's router wraps it, and signs the wrapping for itself."""
    if isinstance(body, dict) and "input" not in body and isinstance(body.get("payload"), dict):
        body = body["payload"]
    if not isinstance(body, dict):
        raise InvalidRequest('The body must be an object: {"input": {...}}.')
    return body


def _workflow(fields: dict[str, Any], library: Library, default_workflow: str) -> tuple[Any, dict[str, Any] | None]:
    """The graph, and what a modifier has filled it with."""
    workflow, modifier = fields.get("workflow_json"), fields.get("modifier")
    modifications = fields.get("modifications")
    if modifier is not None and not isinstance(modifier, str):
        raise InvalidRequest("modifier must be a string.")
    if workflow and modifier:
        raise InvalidRequest(BOTH_MODES)
    if not workflow and not modifier:
        raise InvalidRequest(NEITHER_MODE)
    if modifications and not modifier:
        raise InvalidRequest(LONE_MODIFICATIONS)
    if not modifier:
        return workflow, None
    if modifications is not None and not isinstance(modifications, dict):
        raise InvalidRequest("modifications must be an object.")
    filled = build(modifier, modifications or {}, library, default_workflow or None)
    return filled.graph, dict(filled.values)


def _is_given(block: Any) -> bool:
    """Sample clients send every block, with all its values blank, when they mean none."""
    return any(block.values()) if isinstance(block, dict) else block is not None


def _request_id(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value) or value in (".", ".."):
        # Clients would resolve the last two before they ask for /result/..
        raise InvalidRequest("request_id must be 1 to 128 of A-Z a-z 0-9 . _ - and not . or ..")
    return value


def _expected_time_s(body: dict[str, Any]) -> float:
    value = body.get("expected_time", DEFAULT_EXPECTED_S)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= MAX_EXPECTED_S:
        raise InvalidRequest(f"expected_time must be a number of seconds from 0 to {MAX_EXPECTED_S:.0f}.")
    return float(value)
