"""A line for a shell to each route of the OpenAPI document, for its page."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from api.schema.validation import properties
from api.server.document_parts import body_schema

#: What a shell has a use of its own for.
_VARIABLES = {"path": "FILE_PATH", "file": "FILE_NAME"}


def command(
    document: Mapping[str, Any], base: str, path: str, method: str, operation: Mapping[str, Any], *, needs_key: bool
) -> str:
    """Return a line that works as it stands, once its variables are set: `$JOB_ID` for `{job_id}`."""
    flags = {"GET": [], "HEAD": ["-I"]}.get(method, ["-X", method])
    if "text/event-stream" in _media_types(operation):
        # Else curl holds back what comes until there is much of it.
        flags = ["-N", *flags]
    needed = [each for each in operation.get("parameters", []) if each["in"] == "query" and each.get("required")]
    query = "&".join(f"{each['name']}={_value(each['schema'])}" for each in needed)
    parts = ["curl", *flags, _quoted(f"{base}{path}" + (f"?{query}" if query else ""))]
    if needs_key:
        parts.append('-H "Authorization: Bearer $COMFY_API_KEY"')
    return " ".join(parts + _sent(document, operation))


def _sent(document: Mapping[str, Any], operation: Mapping[str, Any]) -> list[str]:
    """What a command sends: the first example of a JSON body, or the parts that a form cannot do without."""
    content = operation.get("requestBody", {}).get("content", {})
    schema, _ = body_schema(document, operation)
    if "application/json" in content:
        body = json.dumps(schema["examples"][0]).replace("'", "'\\''")
        return [f"-H 'Content-Type: application/json' -d '{body}'"]
    fields = properties(schema)
    # curl reads a file where the value begins with an @.
    signs = {name: "@" if "contentMediaType" in fields[name] else "" for name in schema.get("required", [])}
    return [f'-F "{name}={sign}${name.upper()}"' for name, sign in signs.items()]


def _value(schema: Mapping[str, Any]) -> str:
    return str((schema.get("enum") or schema["examples"])[0])


def _media_types(operation: Mapping[str, Any]) -> set[str]:
    return {media for response in operation["responses"].values() for media in response.get("content", {})}


def _quoted(url: str) -> str:
    """A URL for a shell, its places as variables; curl and shells would read `{`, `?` and `&` their own way."""
    pieces = re.split(r"\{(\w+)\}", url)
    literal = [re.sub(r'(["$`\\])', r"\\\1", piece) for piece in pieces[::2]]
    names = [f"${_VARIABLES.get(name, name.upper())}" for name in pieces[1::2]]
    return '"' + "".join(itertools.chain.from_iterable(itertools.zip_longest(literal, names, fillvalue=""))) + '"'
