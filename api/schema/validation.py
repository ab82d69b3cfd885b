"""Request bodies against their models: what pydantic finds wrong, in our words and as our errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails

from core.errors import InvalidRequest
from workflows.graphs.misplaced import misplaced_graph
from workflows.templates.parameters import shown

#: Fields whose values no answer repeats, and the blocks they stand in: where one is text, that may be the secret.
SECRETS = frozenset({"access_key_id", "secret_access_key", "session_token", "secret", "put_urls", "headers", "token"})
SECRET_BLOCKS = frozenset({"s3", "webhook", "extra_data"})
#: The kind of a problem whose context has `names`: fields of another system's, and what each is called here.
OTHER_NAME = "other_name"
_TYPES = {
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "integer": "an integer",
    "number": "a number",
    "null": "null",
}
#: From 0 to 1, as difflib counts it: a known field that an unknown one may be meant for is as much alike.
LIKENESS = 0.6


class Body(BaseModel):
    """Base of all request bodies: types as JSON has them, no text for a number; unknown keys are ignored."""

    #: Where the body has its graph, if it cannot do without one.
    graph_field: ClassVar[str | None] = None

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


class Envelope(Body, Generic[B]):
    """A body as Vast's serverless router wraps it."""

    auth_data: Any = Field(None, description="The router's own; not looked at.")
    payload: B = Field(description="The request itself.")


class Schema(GenerateJsonSchema):
    """JSON Schema in the order of the models, without titles that only repeat the names of fields, and without null for
    a field left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def sort(self, value: Any, parent_key: str | None = None) -> Any:  # noqa: ARG002 - pydantic's signature
        return value

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().default_schema(schema)
        return {key: value for key, value in found.items() if key != "default" or value is not None}

    def typed_dict_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().typed_dict_schema(schema)
        return {**found, "title": self.normalize_name(found["title"])}

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().model_schema(schema)
        return {**found, "title": self.normalize_name(found["title"])}

    def normalize_name(self, name: str) -> str:
        """Return the name of a model in the document: `Job` for the `JobView` that a job's answer is built from."""
        return super().normalize_name(name).removesuffix("View")


def read(model: type[B], value: Any) -> B:
    """Read a parsed JSON value as a body. Values of type `Any`, graphs among them, are neither checked nor copied.

    Raises:
      InvalidRequest: a field is missing or wrong; it is named by its path, with what is allowed. Models raise further
        errors of ours by themselves.
    """
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        if lacks_graph(model, value) and (hint := misplaced_graph(value, model.graph_field or "")):
            raise InvalidRequest(hint) from exc
        raise _error(model, exc.errors(include_url=False)) from exc


def lacks_graph(model: type[Body], value: Any) -> bool:
    """Return whether the field for the graph is empty, or not there."""
    for name in (model.graph_field or "").split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return model.graph_field is not None and not value


def read_enveloped(model: type[B], value: Any) -> B:
    """Return a body, bare or as the `payload` of an envelope. Raises as `read`."""
    if unwrapped(model, value) is not value:
        # A model's class made at run time is beyond what the type checker can follow.
        return read(Envelope[model], value).payload  # type: ignore[valid-type]
    return read(model, value)


def unwrapped(model: type[Body], value: Any) -> Any:
    """Return the `payload` of an envelope; anything else as it is."""
    if isinstance(value, dict) and isinstance(value.get("payload"), dict) and not _needed(model) & value.keys():
        return value["payload"]
    return value


def other_names(block: Sequence[int | str], names: Mapping[str, str]) -> InvalidRequest:
    """Return the error about fields that we know by other names, or in other places.

    Parameters:
      block: where the fields stand.
      names: as they came, and what each is called here, both within the block.
    """
    came, ours = (
        ", ".join(".".join([*map(str, block), name]) for name in some)
        for some in (map(_plain_name, names), names.values())
    )
    if len(names) == 1:
        return InvalidRequest(f"Unknown field '{came}': it is called {ours} here.")
    return InvalidRequest(f"Unknown fields {came}: they are called {ours} here.")


def place_of(model: type[Body], value: Any) -> str:
    """Return what stands before the names of fields in errors about a body: `payload.` if it came in an envelope."""
    return "payload." if unwrapped(model, value) is not value else ""


def _needed(model: type[Body]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}


def _error(model: type[Body], problems: list[ErrorDetails]) -> InvalidRequest:
    # A name of another system's is told first, then what is missing: the rest may be the same mistake.
    first = {OTHER_NAME: 0, "missing": 1}
    problem = min(problems, key=lambda each: first.get(each["type"], 2))
    path, found = ".".join(map(str, problem["loc"])), problem["type"]
    if found == OTHER_NAME:
        return other_names(problem["loc"], problem["ctx"]["names"])
    if not path:
        return InvalidRequest(" with ".join(["The body must be an object", *sorted(_needed(model))[:1]]) + ".")
    if found == "missing":
        wanted = allowed(_part(model, problem["loc"]))
        return InvalidRequest(f"{path} is missing: it must be {wanted}.")
    if found == "extra_forbidden":
        known = list(properties(_part(model, problem["loc"][:-1])))
        near = difflib.get_close_matches(str(problem["loc"][-1]).lower(), known, n=1, cutoff=LIKENESS)
        meant = f": most like it is {near[0]}" if near else ""
        return InvalidRequest(f"Unknown field {shown(path)}{meant}; there are: {', '.join(known)}.")
    # A rule that no schema says is a validator that raises ValueError("what is allowed").
    wanted = str(problem["ctx"]["error"]) if found == "value_error" else allowed(_part(model, problem["loc"]))
    value = problem["input"]
    is_secret = not SECRETS.isdisjoint(problem["loc"]) or (
        isinstance(value, str) and problem["loc"][-1] in SECRET_BLOCKS
    )
    told = _counted(value) if found in ("too_long", "too_short") or value == [] else shown(value)
    but = "" if is_secret else f", not {told}"
    return InvalidRequest(f"{path} must be {wanted}{but}.")


def _counted(value: Any) -> str:
    """A value for a message about its length."""
    if not isinstance(value, list):
        return shown(value)
    return f"a list of {len(value)}" if value else "an empty list"


def _plain_name(name: str) -> str:
    """A field's name as it came, for messages."""
    return shown(name)[1:-1]


@cache
def _schema(model: type[Body]) -> JsonSchemaValue:
    return model.model_json_schema(schema_generator=Schema)


def _part(model: type[Body], path: Sequence[int | str]) -> JsonSchemaValue:
    """The schema of what a path leads to, as far as there is one."""
    whole = _schema(model)
    part = whole
    for step in path:
        found = _resolved(part, whole)
        part = found.get("items", {}) if isinstance(step, int) else found.get("properties", {}).get(step, {})
    return _resolved(part, whole)


def _resolved(part: JsonSchemaValue, whole: JsonSchemaValue) -> JsonSchemaValue:
    """Without the null of an optional field, and with the schema that a reference means."""
    options = [option for option in part.get("anyOf", []) if option.get("type") != "null"]
    part = options[0] if len(options) == 1 else part
    return whole["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def properties(schema: Mapping[str, Any]) -> dict[str, JsonSchemaValue]:
    """Return the schemas of an object's fields by name, those first that must be there."""
    needed = schema.get("required", [])
    found = schema.get("properties", {})
    return {name: found[name] for name in sorted(found, key=lambda name: name not in needed)}


def allowed(schema: Mapping[str, Any]) -> str:
    """Return in words what a schema allows: `an integer from 1 to 100`."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    kind = schema.get("type")
    if kind == "string":
        form = f" that matches {schema['pattern']}" if "pattern" in schema else ""
        return f"{_sized('text', schema.get('minLength'), schema.get('maxLength'), 'characters')}{form}"
    if kind == "array":
        return _sized("a list", schema.get("minItems"), schema.get("maxItems"), "entries")
    words = _TYPES.get(str(kind), "a JSON value")
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f"{words} from {low:.0f} to {high:.0f}"
    bounds = [
        *([f"of at least {low:.0f}"] if low is not None else []),
        *([f"above {above:.0f}"] if above is not None else []),
        *([f"at most {high:.0f}"] if high is not None else []),
    ]
    return " ".join([words, " and ".join(bounds)]) if bounds else words


def _sized(words: str, least: int | None, most: int | None, unit: str) -> str:
    """Return words with how much there may be of it: `text of 1 to 64 characters`."""
    if least == 1 and most is None:
        return f"{words} that is not empty"
    if least and most is not None:
        return f"{words} of {least} to {most} {unit}"
    if least:
        return f"{words} of at least {least} {unit}"
    return words if most is None else f"{words} of at most {most} {unit}"
