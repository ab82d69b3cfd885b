"""What each route says of itself, for the OpenAPI document: beside its view, as a decorator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from api.http.errors import NotAllowed, RequestTimeout
from api.http.scopes import Needed, say_scope
from api.schema import fields
from api.schema.validation import Body
from core.errors import (
    BodyTooLarge,
    ComfylineError,
    EditorWorkflow,
    InvalidBody,
    InvalidRequest,
    InvalidWorkflow,
    LedgerUnavailable,
    LimitReached,
    MissingAsset,
    NoHealthyInstance,
    QueueFull,
    RequirementsUnmet,
    StorageFull,
    StorageUnavailable,
    UnsupportedMediaType,
)
from core.texts.json_types import JsonObject

COMFYUI = "ComfyUI's own protocol"
JOBS, ASSETS, GENERATE = "Comfy API v2: jobs", "Comfy API v2: assets", "The /generate family"
WORKFLOWS, PYWORKER, WEBHOOKS = "Workflows", "PyWorker routes", "Webhooks"
BATCHES = "Batches"
MODELS = "Models, as the official SDK runs them"
AGENTS = "Agents"
KEYS, USAGE, SERVER = "Tenants and keys", "Usage and audit", "Server"
#: The groups, in the order in which they are shown.
TAGS = (JOBS, BATCHES, ASSETS, GENERATE, WORKFLOWS, MODELS, AGENTS, PYWORKER, COMFYUI, WEBHOOKS, KEYS, USAGE, SERVER)
#: What every route that reads a JSON body may answer.
BODY_ERRORS = (InvalidBody, BodyTooLarge, UnsupportedMediaType, RequestTimeout, InvalidRequest)
#: What every route that reads a form may answer.
FORM_ERRORS = (
    InvalidBody,
    BodyTooLarge,
    UnsupportedMediaType,
    RequestTimeout,
    InvalidRequest,
    LedgerUnavailable,
    LimitReached,
    StorageUnavailable,
    StorageFull,
)
#: What every route that takes a job in may answer beside those.
SUBMIT_ERRORS = (
    InvalidWorkflow,
    EditorWorkflow,
    MissingAsset,
    RequirementsUnmet,
    QueueFull,
    NoHealthyInstance,
    LimitReached,
    LedgerUnavailable,
    StorageUnavailable,
    StorageFull,
    NotAllowed,
)

#: The model of a JSON answer - a `TypedDict`, which its view builds too -, or the media type of another one, or
#: nothing at all.
Answer = type[Any] | str | None
#: The bytes of a file: what they are, the answer's Content-Type says.
ANY_TYPE = "*/*"
#: Several where the client chooses one by its Accept header, the usual one first.
Answers = Answer | tuple[Answer, ...]
V = TypeVar("V", bound=Callable[..., Any])
_ATTRIBUTE = "__openapi__"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A header or a query parameter."""

    name: str
    #: `header` or `query`.
    place: str
    description: str
    schema: Mapping[str, Any]
    #: How a query parameter spells an object.
    style: str | None = None
    is_required: bool = False

    def to_json(self) -> JsonObject:
        """Return the parameter as the document has it."""
        shown = {"name": self.name, "in": self.place, "description": self.description, "schema": dict(self.schema)}
        needed = {"required": True} if self.is_required else {}
        return shown | needed | ({"style": self.style, "explode": True} if self.style else {})


@dataclass(frozen=True, kw_only=True)
class Described:
    """Decorates a view, beneath its route, with what the document says of it."""

    summary: str
    tag: str
    answers: Mapping[int, Answers]
    #: What a key needs for it; of no meaning where no key is needed.
    scope: Needed
    body: type[Body] | None = None
    #: It may be left out.
    is_optional: bool = False
    #: The body may come in the envelope of Vast's router.
    is_enveloped: bool = False
    #: The content of a body that is no JSON, as `form_of` makes it.
    form: Mapping[str, Any] | None = None
    #: Errors of its own; those of every body and of every route need not be named.
    errors: Sequence[type[ComfylineError]] = ()
    parameters: Sequence[Parameter] = ()
    text: str = ""

    def __call__(self, view: V) -> V:
        setattr(view, _ATTRIBUTE, self)
        say_scope(view, self.scope)
        return view

    @classmethod
    def of(cls, view: Callable[..., Any]) -> Described | None:
        """Return what was said of a view."""
        found = getattr(view, _ATTRIBUTE, None)
        return found if isinstance(found, cls) else None


IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    description="Good for one submission within 24 hours.",
    schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
)
DRY_RUN = Parameter(
    name="dry_run",
    place="query",
    description="true: judge it as if it were submitted, say what would become of it, and record nothing.",
    schema={"type": "boolean", "default": False},
)
CURSOR = Parameter(
    name="cursor", place="query", description="The next_cursor of the page before.", schema={"type": "string"}
)


def limit_of(things: str = "") -> Parameter:
    """Return the parameter that says how many things a page has at most; a word for them makes it plainer."""
    return Parameter(
        name="limit",
        place="query",
        description=f"How many {things} at most." if things else "How many at most.",
        schema={"type": "integer", "minimum": 1, "maximum": fields.MAX_LIMIT, "default": fields.DEFAULT_LIMIT},
    )


def form_of(*needed: str, **texts: str) -> JsonObject:
    """Return a form for `Described.form`: a part `file`, and parts of text, name by name with what they mean."""
    parts: dict[str, Any] = {"file": {"type": "string", "contentMediaType": "application/octet-stream"}}
    parts |= {name: {"type": "string", "description": description} for name, description in texts.items()}
    return {"multipart/form-data": {"schema": {"type": "object", "properties": parts, "required": list(needed)}}}
