"""The types of single fields that carry a rule of their own, with what a schema can say of it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from api.schema import fields
from core.contracts.comfy_v2_events import MAX_EXTRA_BYTES, size_bytes
from core.errors import InvalidRequest, InvalidWorkflow
from core.job_files import is_id
from core.records.requirements import POOL
from core.records.webhook_events import EVENTS
from core.webhooks.keys import hmac_key
from core.webhooks.request_headers import MAX_HEADERS, MAX_VALUE_CHARS, check_headers
from workflows.templates.parameters import shown

WEEK_S = 7 * 24 * 3600.0
_SECRET = re.compile(r"[\x20-\x7e]{1,512}")
MAX_SECRETS = 2


def _content_type(value: str) -> str:
    return fields.plain_text(value, fields.MAX_KEY_CHARS) if value else value


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
    if value and not is_id(value):
        raise ValueError("1 to 128 of A-Z a-z 0-9 . _ - and not . or ..")
    return value or None


def _pool_name(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(POOL, value):
        raise ValueError("1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit")
    return value


def _webhook_secret(value: Any) -> Any:
    if value is None or value == "":
        return None
    secrets = value if isinstance(value, list) else [value]
    if not 1 <= len(secrets) <= MAX_SECRETS or not all(map(_is_secret, secrets)):
        raise ValueError(
            f"text of at most 512 printable ASCII characters, or a list of {MAX_SECRETS} such texts; "
            "behind whsec_ stands base64"
        )
    return value


def _webhook_headers(value: Any) -> Any:
    return check_headers(value) if value else None


def _is_secret(value: Any) -> bool:
    if not isinstance(value, str) or not _SECRET.fullmatch(value):
        return False
    try:
        hmac_key(value)
    except ValueError:
        return False
    return True


def _webhook_events(value: Any) -> list[str] | None:
    if value is None:
        return None
    known = ", ".join(EVENTS)
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list of one or more of {known}")
    unknown = [name for name in value if name not in EVENTS]
    if unknown:
        raise InvalidRequest(f"webhook.events: there is no event {shown(unknown[0])}; there are {known}.")
    return list(dict.fromkeys(value))


def _extra_params(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value and size_bytes(value) > MAX_EXTRA_BYTES:
        raise ValueError(f"an object of at most {MAX_EXTRA_BYTES} bytes as JSON")
    return value


#: The graph is checked by code of its own, and may be large: pydantic neither looks into it nor copies it.
Graph = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "object",
            "description": "A graph in ComfyUI's API format: node id -> class_type and inputs. "
            "Or what the editor saves, which is converted.",
            "anyOf": [
                {
                    "additionalProperties": {
                        "type": "object",
                        "properties": {"class_type": {"type": "string"}, "inputs": {"type": "object"}},
                        "required": ["class_type", "inputs"],
                    }
                },
                {"properties": {"nodes": {"type": "array"}, "links": {}}, "required": ["nodes", "links"]},
            ],
        }
    ),
]
ContentType = Annotated[str, AfterValidator(_content_type)]
Reserved = Annotated[None, BeforeValidator(_reserved)]
TimeoutS = Annotated[
    float | None,
    Field(
        gt=0,
        le=WEEK_S,
        description="Longest run of the prompt in seconds, at most a week; waiting does not count. "
        "Default: COMFYLINE_JOB_TIMEOUT_S.",
    ),
]
#: No longer than a run may last: who means for ever leaves it out.
StartWithinS = Annotated[
    float | None,
    Field(
        gt=0,
        le=WEEK_S,
        description="Seconds within which a GPU is to begin the job, at most a week; else it ends as expired. Where "
        "that comes near, it goes before others of its priority. Default: it waits for as long as it takes.",
    ),
]
PoolName = Annotated[
    str | None,
    AfterValidator(_pool_name),
    WithJsonSchema(
        {
            "description": "The label that its operator gave to the GPU's machine (COMFYLINE_POOL).",
            "anyOf": [{"type": "string", "pattern": POOL, "maxLength": 64}, {"type": "null"}],
        }
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
Label = Annotated[
    str | None,
    AfterValidator(fields.label),
    WithJsonSchema(
        {
            "description": "An extension: a word to find the job by, and those that go with it.",
            "anyOf": [{"type": "string", "minLength": 1, "maxLength": fields.MAX_LABEL_CHARS}, {"type": "null"}],
        }
    ),
]
ExtraData = Annotated[
    Any,
    AfterValidator(fields.extra_data),
    WithJsonSchema(
        {
            "description": "The key for ComfyUI's partner nodes: sealed, never shown, deleted with the job's end. "
            "extra_pnginfo, an extension: what ComfyUI gives to nodes that ask for it and writes into files.",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"api_key_comfy_org": {"type": "string"}, "extra_pnginfo": {"type": "object"}},
                    "additionalProperties": False,
                },
                {"type": "null"},
            ],
        }
    ),
]
#: Checked with the rest of the block; the values are secrets, so no answer repeats them.
PutUrls = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "URLs signed for PUT, in place of keys and bucket: a list in the order of the outputs, or a "
            "map by file name, where * is the first file without one of its own. Sealed.",
            "anyOf": [
                {"type": "array", "items": {"type": "string"}, "maxItems": 1000},
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"type": "null"},
            ],
        }
    ),
]
#: A graph whose contract answers `invalid_request` to what is no object at all.
GraphObject = Annotated[Graph, AfterValidator(_an_object)]
RequestId = Annotated[str | None, AfterValidator(_request_id)]
#: One secret, or two while they are rotated.
WebhookSecret = Annotated[
    Any,
    AfterValidator(_webhook_secret),
    WithJsonSchema(
        {
            "description": "For signing the events; sealed. Two of them while you rotate. Text, or whsec_ and base64.",
            "anyOf": [
                {"type": "string", "maxLength": 512},
                {"type": "array", "items": {"type": "string", "maxLength": 512}, "minItems": 1, "maxItems": 2},
                {"type": "null"},
            ],
        }
    ),
]
#: Sealed with the secret: what a gateway asks for is one.
WebhookHeaders = Annotated[
    Any,
    AfterValidator(_webhook_headers),
    WithJsonSchema(
        {
            "description": "Headers to send with every try, such as Authorization for a gateway; sealed, never shown.",
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARS},
                    "maxProperties": MAX_HEADERS,
                },
                {"type": "null"},
            ],
        }
    ),
]
WebhookEvents = Annotated[
    Any,
    AfterValidator(_webhook_events),
    WithJsonSchema(
        {
            "description": "Which events it is told of. Default: every end, and job.delivery_failed.",
            "anyOf": [
                {"type": "array", "items": {"type": "string", "enum": list(EVENTS)}, "minItems": 1},
                {"type": "null"},
            ],
        }
    ),
]
ExtraParams = Annotated[dict[str, Any] | None, AfterValidator(_extra_params)]
