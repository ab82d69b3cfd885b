"""The description of the API: complete, valid, readable offline, and true of what is served."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from api import create_app
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.simulator_process import simulator

KEY = {"Authorization": "Bearer a-key"}
#: Where the body of each route's examples has to be sent, beside the path itself.
PLACES = {"{name}": "sd3", "{token_name}": "hub", "{provider}": "fleet", "{model}": "sd3"}
#: Examples that name what a test has to make first.
NEEDS_MORE = {
    "/api/v2/jobs/{job_id}/rerun",
    *("/api/v2/assets/from-hash", "/webhooks/deliveries/{delivery_id}/replay"),
    # The first key of an open server closes it.
    *("/api/v2/session", "/api/v2/keys", "/api/v2/keys/{key_id}/rotate", "/api/v2/tenants/{tenant}"),
    *("/api/v2/batches/{batch_id}/jobs", "/api/v2/batches/{batch_id}/retry"),
    # Processes of a fleet.
    "/api/v2/rollouts",
    # A bucket, and something in it.
    *("/api/v2/assets/uploads", "/api/v2/assets/uploads/{upload_id}/finish"),
}
#: Routes that answer when the job has ended.
WAITING = {"/generate/sync", "/generate/stream", "/prompt", "/v2/models/fleet/sd3"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up(object_info=nodes)
        yield running


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    answer = api.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Hold a value against a schema of the document."""
    OAS31Validator({**schema, "components": document["components"]}).validate(value)


def answer_schema(document: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path][method]["responses"][str(status)]["content"]["application/json"]
    schema: dict[str, Any] = found["schema"]
    return schema


def test_it_is_an_openapi_document(document: dict[str, Any]) -> None:
    validate(document)
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    # Models are called after the code that builds them, and shown without that word.
    schemas = document["components"]["schemas"]
    assert not [name for name in schemas if name.endswith("View")]
    assert not [schema["title"] for schema in schemas.values() if schema.get("title", "").endswith("View")]


def test_errors_have_the_shape_and_the_status_of_their_contract(document: dict[str, Any]) -> None:
    of_paths = {
        "/api/v2/jobs": ("Error", "429"),
        "/generate": ("GenerateError", "503"),
        "/prompt": ("GenerateError", "503"),
    }
    for path, (model, status) in of_paths.items():
        response = document["paths"][path]["post"]["responses"][status]
        assert "`queue_full`" in response["description"]
        assert answer_schema(document, path, "post", int(status)) == {"$ref": f"#/components/schemas/{model}"}


def test_every_route_is_described(api: Api, document: dict[str, Any]) -> None:
    described = {(path, method) for path, method, _ in operations(document)}

    served = set()
    app = create_app(api.settings, ledger=api.ledger, publisher=api.publisher, hub=api.hub, ask=api.publisher.ask)
    for rule in app.url_map.iter_rules():
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"} or {"HEAD"}
        served |= {(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower()) for method in methods}
    assert described == served


def test_what_a_body_may_hold_stands_there_with_its_meaning(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    described = [
        (name, field)
        for name in ("SubmitBody", "TemplateBody", "GenerateInput", "GenerateBody", "ConvertOutput", "WebhookBody")
        for field, schema in schemas[name]["properties"].items()
        if not schema.keys() & {"description", "$ref", "enum", "examples"} and "anyOf" not in schema
    ]
    assert described == []
    assert schemas["ConvertOutput"]["properties"]["format"]["enum"] == ["webp", "jpeg", "png"]
    assert schemas["TemplateBody"]["additionalProperties"] is False
    assert schemas["SubmitBody"]["required"] == ["workflow"]


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/api/v2/jobs", {"workflow": GRAPH, "metadata": {"a": "b"}}, "Event"),
        ("/generate", {"input": {"workflow_json": GRAPH}}, "GenerateEvent"),
    ],
)
def test_what_webhooks_are_sent_fits_its_schema(
    api: Api, document: dict[str, Any], path: str, body: dict[str, Any], model: str
) -> None:
    webhook = {"url": "https://example.com/", "extra_params": {"n": 1}, "events": ["job.completed"]}
    block = body.get("input", body)
    block["webhook"] = webhook
    job_id = api.post(path, body).json()["id"]
    api.worker.run(job_id, b"pixels")
    (due,) = api.ledger.outbox.due(job_ids=[job_id])
    (post,) = api.ledger.outbox.take([due.id])

    sent = json.loads(post.body)

    either = document["webhooks"]["event"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert [schema["$ref"].rpartition("/")[2] for schema in either] == ["Event", "GenerateEvent"]
    schema = document["components"]["schemas"][model]
    check(document, schema, sent)
    assert set(sent) <= set(schema["properties"]), "nothing is sent that is not described"


def test_every_example_fits_its_schema_and_is_accepted(api: Api, document: dict[str, Any]) -> None:
    tried = 0
    for path, method, operation in operations(document):
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            continue
        reference = (schema["anyOf"][0] if "anyOf" in schema else schema)["$ref"].rpartition("/")[2]
        examples = document["components"]["schemas"][reference]["examples"]
        for example in examples:
            check(document, schema, example)
            tried += 1
            if path not in NEEDS_MORE:
                accepted(api, method, path, example)
    assert tried >= 8


def accepted(api: Api, method: str, path: str, body: dict[str, Any]) -> None:
    for place, value in PLACES.items():
        path = path.replace(place, value)
    if isinstance(body.get("input"), dict):
        # Sent to several routes, and an id is good for one job.
        body = {**body, "input": {name: value for name, value in body["input"].items() if name != "request_id"}}
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(api.session.request, method, api.url + path, json=body)
        if path in WAITING:
            api.worker.run_next(b"pixels")
        answer = answering.result()
    assert answer.status_code in (200, 201, 202), (path, answer.text)
    for job in api.ledger.jobs.page(statuses=["queued"], limit=1000):
        api.ledger.jobs.cancel(job.id)


def test_what_is_served_is_what_is_described(api: Api, document: dict[str, Any]) -> None:
    """All plain answers of one job's life, and of what surrounds it."""
    body = {"input": {"workflow_json": GRAPH, "request_id": "described"}}
    queued = api.post("/generate", body)
    check(document, answer_schema(document, "/generate", "post", 202), queued.json())
    api.post("/cancel/described")
    submitted = api.post("/workflows/sd3", {"parameters": {"prompt": "a"}, "metadata": {"a": "b"}})
    check(document, answer_schema(document, "/workflows/{name}", "post", 201), submitted.json())
    job_id = submitted.json()["id"]
    jobs = "/api/v2/jobs/{job_id}"
    check(document, answer_schema(document, jobs, "get", 200), api.get(f"/api/v2/jobs/{job_id}").json())
    api.worker.run(job_id, b"pixels")
    done = api.get(f"/api/v2/jobs/{job_id}").json()
    asset = f"/api/v2/assets/{done['outputs'][0]['id']}"
    for path, url in [
        (jobs, f"/api/v2/jobs/{job_id}"),
        (f"{jobs}/workflow", f"/api/v2/jobs/{job_id}/workflow"),
        ("/api/v2/jobs", "/api/v2/jobs"),
        ("/api/v2/assets/{asset_id}", asset),
        ("/result/{request_id}", f"/result/{job_id}"),
        ("/task/{task_id}", f"/task/{job_id}"),
        ("/queue-info", "/queue-info"),
        ("/workflows", "/workflows"),
        ("/workflows/{name}", "/workflows/sd3"),
        ("/health", "/health"),
        ("/openapi.json", "/openapi.json"),
    ]:
        answer = api.get(url)
        assert answer.status_code == 200, url
        check(document, answer_schema(document, path, "get", 200), answer.json())
    ready = api.get("/ready")
    check(document, answer_schema(document, "/ready", "get", ready.status_code), ready.json())
    cancelled = api.post(f"/cancel/{job_id}")
    check(document, answer_schema(document, "/cancel/{request_id}", "post", 200), cancelled.json())


@pytest.mark.parametrize(
    ("method", "url", "path", "status"),
    [
        ("get", "/api/v2/jobs/none", "/api/v2/jobs/{job_id}", 404),
        ("get", "/result/none", "/result/{request_id}", 404),
        ("get", "/task/none", "/task/{task_id}", 404),
        ("get", "/download", "/download", 400),
        ("post", "/api/v2/jobs", "/api/v2/jobs", 422),
        ("post", "/generate", "/generate", 422),
    ],
)
def test_refusals_are_what_is_described(
    api: Api, document: dict[str, Any], method: str, url: str, path: str, status: int
) -> None:
    answer = api.get(url) if method == "get" else api.post(url, {})

    assert answer.status_code == status
    check(document, answer_schema(document, path, method, status), answer.json())


def test_the_page_shows_every_route_and_needs_nothing_from_outside(api: Api, document: dict[str, Any]) -> None:
    answer = api.get("/docs")
    text = answer.text

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for path, _, operation in operations(document):
        assert f'<code class="path">{path}</code>' in text
        assert operation["summary"].replace("'", "&#39;") in text
    assert not re.search(r"\bsrc=|<link|@import|url\(|<iframe", text)
    assert {link for link in re.findall(r'href="([^"]*)"', text) if not link.startswith("#")} == {"/openapi.json"}
    assert f"curl &#34;{api.url}/api/v2/jobs&#34;" in text


def test_the_pages_policy_names_its_own_style_and_script(api: Api) -> None:
    answer = api.get("/docs")
    policy = answer.headers["Content-Security-Policy"]

    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert len(blocks) == 1
        digest = base64.b64encode(hashlib.sha256(blocks[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r" (?:style|on\w+)=", answer.text), "the policy allows no inline style and no handler"


def test_with_keys_it_stays_readable_and_says_that_a_key_is_needed(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_for(tmp_path_factory.mktemp("guarded"), api_keys=("a-key",))
    with running_api(settings) as guarded:
        document = guarded.get("/openapi.json").json()
        page = guarded.get("/docs").text

    assert document["security"] == [{"bearer": []}, {"api_key": []}]
    assert document["paths"]["/api/v2/jobs"]["get"]["security"] == [{"bearer": ["read"]}, {"api_key": ["read"]}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "401" not in document["paths"]["/health"]["get"]["responses"]
    assert "401" in document["paths"]["/api/v2/jobs"]["get"]["responses"]
    assert "Authorization: Bearer $COMFY_API_KEY" in page
    assert "a-key" not in page


def test_who_asks_for_nothing_has_the_console(api: Api) -> None:
    answer = api.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
