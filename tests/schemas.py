"""Answers held against the OpenAPI document: no field, status, kind of content or code that it does not name."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from openapi_schema_validator import OAS31Validator

#: What `spoiled` puts where something else belongs.
WRONG: tuple[Any, ...] = (None, True, -1, 0, 2**70, 1.5, "", "x", "é\n", "a" * 3000, [], [[]], {}, {"a": {"b": 1}})


class Document:
    """An OpenAPI document whose objects hold nothing but what they name."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.paths: dict[str, Any] = document["paths"]
        self._components = copy.deepcopy(document["components"])
        for schema in self._components["schemas"].values():
            _close(schema)
        self._routes = [(_pattern(path), path) for path in sorted(self.paths, key=_is_general)]
        self._validators: dict[str, OAS31Validator] = {}
        #: `(method, path, status)` of every answer that was checked.
        self.seen: set[tuple[str, str, int]] = set()

    def differences(self, answer: requests.Response) -> list[str]:
        """What of an answer is not as described."""
        method = str(answer.request.method).lower()
        path = self.route_of(str(answer.request.url), method)
        if path is None:
            return []
        status, where = answer.status_code, f"{method} {path} {answer.status_code}"
        self.seen.add((method, path, status))
        described = self.paths[path][method]["responses"].get(str(status))
        if described is None:
            return [f"{where}: the status is not described: {answer.text[:200]}"]
        return [f"{where}: {problem}" for problem in self._content_problems(described, answer)]

    def route_of(self, url: str, method: str) -> str | None:
        """The described path that serves a URL; None: there is none for this method."""
        path = unquote(urlsplit(url).path)
        found = next((route for pattern, route in self._routes if pattern.fullmatch(path)), None)
        return found if found is not None and method in self.paths[found] else None

    def sample(self, schema: dict[str, Any], rng: random.Random) -> Any:
        """A value that the schema describes, more or less."""
        if "$ref" in schema:
            named = self._components["schemas"][schema["$ref"].rpartition("/")[2]]
            has_example = named.get("examples") and rng.random() < 0.5
            return rng.choice(named["examples"]) if has_example else self.sample(named, rng)
        if "anyOf" in schema:
            return self.sample(rng.choice(schema["anyOf"]), rng)
        if "enum" in schema or "const" in schema:
            return rng.choice(schema.get("enum") or [schema["const"]])
        kind = schema.get("type")
        if kind == "object":
            return self._sample_object(schema, rng)
        if kind == "array":
            return [self.sample(schema.get("items", {}), rng) for _ in range(rng.randint(0, 3))]
        if kind == "integer":
            return rng.randint(int(schema.get("minimum", -3)), int(schema.get("maximum", 1000)))
        if kind == "number":
            return rng.uniform(schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema.get("maximum", 1000))
        simple: dict[str, list[Any]] = {
            "boolean": [True, False],
            "null": [None],
            "string": ["x", "a b", "https://example.com/", "日本"],
        }
        return rng.choice(simple.get(str(kind), [1, "x", None, {}]))

    def _sample_object(self, schema: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        needed = schema.get("required", [])
        fields = {
            name: self.sample(inner, rng)
            for name, inner in schema.get("properties", {}).items()
            if name in needed or rng.random() < 0.4
        }
        more = schema.get("additionalProperties")
        if isinstance(more, dict) and rng.random() < 0.5:
            fields["extra"] = self.sample(more, rng)
        return fields

    def _content_problems(self, described: dict[str, Any], answer: requests.Response) -> list[str]:
        content = described.get("content", {})
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        if answer.request.method == "HEAD" or not content:
            return ["there is a body, and none is described"] if answer.content else []
        if kind not in content and "*/*" not in content:
            return [f"{kind or 'no kind of content'} is not described"]
        if kind != "application/json" or kind not in content:
            return []
        body = answer.json()
        schema = content[kind]["schema"]
        problems = [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
            for error in self._validator(schema).iter_errors(body)
        ]
        code = body["error"].get("code") if isinstance(body, dict) and isinstance(body.get("error"), dict) else None
        # A failed job has such a field too; it is about the job.
        if code is not None and "details" in body["error"] and f"`{code}`" not in described["description"]:
            problems.append(f"the code {code} is not described")
        return problems

    def _validator(self, schema: dict[str, Any]) -> OAS31Validator:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            self._validators[key] = OAS31Validator({**schema, "components": self._components})
        return self._validators[key]


def spoiled(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one place taken away, added or filled with something else."""
    copied = copy.deepcopy(value)
    places = [(holder, key) for holder, key in _places(copied)]
    if not places or rng.random() < 0.05:
        return rng.choice(WRONG)
    holder, key = rng.choice(places)
    act = rng.random()
    if act < 0.3:
        del holder[key]
    elif act < 0.45 and isinstance(holder, dict):
        holder["unknown"] = rng.choice(WRONG)
    else:
        holder[key] = rng.choice(WRONG)
    return copied


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, (dict, list)):
            for key, part in list(inner.items() if isinstance(inner, dict) else enumerate(inner)):
                found.append((inner, key))
                pending.append(part)
    return found


def _close(schema: Any) -> None:
    """Objects that name their fields have no others."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for inner in schema.values():
            _close(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _close(inner)


def _pattern(path: str) -> re.Pattern[str]:
    # The last place of these holds slashes too.
    last = ".*" if path.startswith(("/download", "/api/v2/model-files")) else "[^/]*"
    parts = re.split(r"\{[^}]*\}", path)
    return re.compile(last.join(map(re.escape, parts)), re.DOTALL)


def _is_general(path: str) -> tuple[int, str]:
    return path.count("{"), path
