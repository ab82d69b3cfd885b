"""A NUL in any text of any request: PostgreSQL has no form for it, so it is refused before, and the field is named."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH

#: What the ledger says where nobody looked before it did.
UNSEEN = "cannot be stored"
NUL = "a\0b"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with (
        postgres_database() as url,
        running_api(settings_for(tmp_path_factory.mktemp("api"), database_url=url)) as running,
    ):
        running.worker.come_up()
        yield running


@pytest.fixture(scope="module")
def places(api: Api) -> dict[str, str]:
    """What may stand in a path, by its name there: things that are there, so that what comes after is looked at."""
    job_id = api.submit()
    # An ended one: its stream is over at once.
    assert api.post(f"/api/v2/jobs/{job_id}/cancel").ok
    batch = api.post("/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": [1, 2]}}).json()["id"]
    return {"job_id": job_id, "batch_id": batch, "request_id": job_id}


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if isinstance(operation, dict) and "responses" in operation:
                yield method.upper(), path, operation


def examples(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[Any]:
    """Examples of a body, of each of the forms that it may have."""
    for form in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found = document["components"]["schemas"][form["$ref"].rpartition("/")[2]] if "$ref" in form else form
        yield from found.get("examples", ())


def filled(path: str, places: dict[str, str]) -> str:
    """A path with something in each of its places."""
    return re.sub(r"\{([^}]+)\}", lambda found: places.get(found[1], str(uuid.uuid4())), path)


def spoiled(value: Any) -> Iterator[tuple[str, Any]]:
    """The same value again and again, each time with a NUL in another one of its texts; and where that is."""
    if isinstance(value, str):
        yield "", NUL
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        for place, bad in spoiled(inner):
            changed = copy.copy(value)
            changed[key] = bad
            yield f"{key}.{place}".rstrip("."), changed


def problem(api: Api, method: str, address: str, body: Any = None) -> list[str]:
    """What is wrong with the answer to a request; nothing where it waits for a job, which is what was asked for."""
    try:
        answer = api.session.request(method, api.url + address, json=body, timeout=2, stream=True)
    except requests.ReadTimeout:
        return []
    with answer:
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        # A key is looked for as it comes: one with a NUL is nobody's.
        is_lost = answer.status_code == 401 and address != "/api/v2/session"
        if answer.status_code >= 500 or is_lost or (is_json and UNSEEN in answer.text):
            return [f"{method} {address}: {answer.status_code} {answer.text[:200]}"]
    return []


def test_in_paths_and_queries(api: Api, document: dict[str, Any], places: dict[str, str]) -> None:
    found: list[str] = []
    tried = 0
    for method, path, operation in operations(document):
        for name in re.findall(r"\{([^}]+)\}", path):
            address = filled(path, {**places, name: "a%00b"})
            found += problem(api, method, address, {})
            tried += 1
        for parameter in operation.get("parameters", ()):
            if parameter["in"] != "query" or method != "GET":
                continue
            name = parameter["name"]
            for query in (f"{name}=a%00b", f"{name}[a%00b]=1", f"{name}[a]=a%00b"):
                address = f"{filled(path, places)}?{query}"
                found += problem(api, "GET", address)
                tried += 1
    assert tried > 100
    assert found == []


def test_in_bodies(api: Api, document: dict[str, Any], places: dict[str, str]) -> None:
    found: list[str] = []
    tried = 0
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        for place, body in (each for example in examples(document, content["schema"]) for each in spoiled(example)):
            found += [f"{place}: {each}" for each in problem(api, method, filled(path, places), body)]
            tried += 1
    assert tried > 50
    assert found == []


BODIES: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/api/v2/keys", {"name": NUL, "scopes": ["read"]}, "name"),
    ("POST", "/api/v2/keys", {"name": "a", "scopes": ["read"], "tenant": NUL}, "tenant"),
    ("POST", "/api/v2/keys", {"name": "a", "scopes": ["read"], "templates": [NUL]}, "templates.0"),
    ("POST", "/api/v2/keys", {"name": "a", "scopes": ["read"], "pools": [NUL]}, "pools.0"),
    ("POST", "/api/v2/tenants", {"name": NUL}, "name"),
    ("POST", "/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": [1]}, "label": NUL}, "label"),
    ("POST", "/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": [1]}, "metadata": {"a": NUL}}, "metadata"),
    ("POST", "/api/v2/batches", {"template": NUL, "over": {"seed": [1]}}, "template"),
    ("POST", "/api/v2/batches", {"workflow": GRAPH, "over": {"2.filename_prefix": [NUL]}}, "over.2.filename_prefix[0]"),
    ("POST", "/api/v2/jobs", {"workflow": GRAPH, "label": NUL}, "label"),
    ("POST", "/api/v2/bulk/cancel", {"label": NUL}, "label"),
    ("POST", "/api/v2/bulk/cancel", {"template": NUL}, "template"),
    ("POST", "/api/v2/bulk/delete", {"batch": NUL}, "batch"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), BODIES)
def test_the_field_is_named(api: Api, method: str, path: str, body: dict[str, Any], field: str) -> None:
    answer = api.session.request(method, api.url + path, json=body, timeout=20)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["message"].startswith(field) or f": {field}" in answer.text, answer.text
