"""The types of single fields that carry a rule of their own, with what a schema can say of it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from api import fields
from core.errors import InvalidWorkflow

WEEK_S = 7 * 24 * 3600.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECRET = re.compile(r"[\x20-\x7e]{0,512}")


def _reserved(value: Any, info: ValidationInfo) -> None:
    # Taking it and doing nothing would be worse than refusing.
    if value is not None:
        raise InvalidWorkflow(f"The field {info.field_name} is reserved and cannot be used yet.")


def _an_object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("an object")
    return value


def _request_id(value: str | None) -> str | None:
    # Clients would resolve the last two before they ask for /result/..
    if value and (not _REQUEST_ID.fullmatch(value) or value in (".", "..")):
        raise ValueError("1 to 128 of A-Z a-z 0-9 . _ - and not . or ..")
    return value or None


def _webhook_secret(value: str | None) -> str | None:
    if value and not _SECRET.fullmatch(value):
        raise ValueError("at most 512 printable ASCII characters")
    return value or None


#: The graph is checked by code of its own, and may be large: pydantic neither looks into it nor copies it.
Graph = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "object",
            "description": "A graph in ComfyUI's API format: node id -> class_type and inputs.",
            "additionalProperties": {
                "type": "object",
                "properties": {"class_type": {"type": "string"}, "inputs": {"type": "object"}},
                "required": ["class_type", "inputs"],
            },
        }
    ),
]
Reserved = Annotated[None, BeforeValidator(_reserved)]
TimeoutS = Annotated[
    float | None,
    Field(
        gt=0,
        le=WEEK_S,
        description="Longest run of the prompt in seconds, at most a week; waiting does not count. "
        "Default: FLEET_JOB_TIMEOUT_S.",
    ),
]
Metadata = Annotated[
    Any,
    AfterValidator(fields.metadata),
    WithJsonSchema(
        {
            "description": "Labels, a map of strings, or one string of at most 1 KiB; returned as given.",
            "anyOf": [
                {
                    "type": "object",
                    "maxProperties": fields.MAX_LABELS,
                    "propertyNames": {"pattern": "^[A-Za-z0-9_.-]{1,40}$"},
                    "additionalProperties": {"type": "string", "maxLength": fields.MAX_LABEL_VALUE_BYTES},
                },
                {"type": "string", "maxLength": fields.MAX_METADATA_BYTES},
                {"type": "null"},
            ],
        }
    ),
]
ExtraData = Annotated[
    Any,
    AfterValidator(fields.partner_key),
    WithJsonSchema(
        {
            "description": "The key for ComfyUI's partner nodes; sealed, never shown, deleted with the job's end.",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"api_key_comfy_org": {"type": "string"}},
                    "additionalProperties": False,
                },
                {"type": "null"},
            ],
        }
    ),
]
#: A graph whose contract answers `invalid_request` to what is no object at all.
GraphObject = Annotated[Graph, AfterValidator(_an_object)]
RequestId = Annotated[str | None, AfterValidator(_request_id)]
WebhookSecret = Annotated[str | None, AfterValidator(_webhook_secret)]
