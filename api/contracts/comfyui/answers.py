"""What the routes of ComfyUI's own protocol have in common: their answers, and bodies that may be anything."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from pydantic import RootModel

from api.http.errors import BadParameter
from api.http.json_body import has_body, read_json
from core.errors import InvalidBody
from core.settings import Settings
from core.texts.json_types import JsonObject

#: Ids in one body.
MAX_IDS = 1_000


class ComfyuiAnswerView(RootModel[Any]):
    """As ComfyUI itself answers it."""


def empty(status: int = 200) -> Response:
    """Return an answer that says nothing but how it went."""
    answer = Response(status=status)
    del answer.headers["Content-Type"]
    return answer


def body_object(settings: Settings, *, is_optional: bool = False) -> JsonObject:
    """Return the request's body, which must be an object. Raises InvalidBody, BodyTooLarge, RequestTimeout."""
    if is_optional and not has_body():
        return {}
    value = read_json(settings, of_any_type=True)
    if not isinstance(value, dict):
        raise InvalidBody("The body must be a JSON object.")
    return value


def ids_in(body: JsonObject, name: str) -> list[str]:
    """Return a list of ids from a body; what is no text is no id. Raises BadParameter: it is no list."""
    value = body.get(name) or []
    if not isinstance(value, list) or len(value) > MAX_IDS:
        raise BadParameter(f"{name} must be a list of ids, {MAX_IDS} at most.")
    return [each for each in value if isinstance(each, str)]


def whole_number(name: str, most: int) -> int | None:
    """Return a number of the query, at least 0; None where it is absent. Raises BadParameter."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        value = int(text[:20])
    except ValueError as exc:
        raise BadParameter(f"{name} must be a whole number.") from exc
    return min(max(value, 0), most)
