"""The PyWorker routes over HTTP; no path names anything but an output of a job."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


def raw_get(api: Api, target: str) -> tuple[int, dict[str, str], bytes]:
    """A request whose path no client library has tidied up."""
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=10)
    connection.putrequest("GET", target, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_ping(api: Api) -> None:
    assert api.get("/ping").text == "pong"


@pytest.mark.parametrize("route", ["/custom_workflow", "/custom-workflow"])
def test_a_graph_of_the_clients_own_becomes_a_task_with_files(api: Api, route: str) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["1"]["inputs"]["width"] = "{{WIDTH}}"
    fields = {"steps": 20, "width": 32, "height": 32}

    answer = api.post(route, {"custom_fields": fields, "workflow": graph})

    assert answer.status_code == 202, answer.text
    task_id = answer.json()["id"]
    assert api.get(f"/task/{task_id}").json()["status"] == "pending"
    assert json.loads(api.ledger.jobs.graph(task_id))["1"]["inputs"]["width"] == 32
    api.worker.run(task_id, b"the bytes")
    task = api.get(f"/task/{task_id}").json()
    assert set(task) == {"id", "message", "status", "output"}
    assert task["status"] == "completed"
    path = task["output"][0]["local_path"]
    assert path.startswith(f"{task_id}/")
    status, headers, content = raw_get(api, f"/download/{path}")
    assert (status, content) == (200, b"the bytes")
    assert headers["Content-Disposition"].startswith("attachment; filename=")


def test_an_unknown_task(api: Api) -> None:
    answer = api.get("/task/nothing")
    assert answer.status_code == 404
    assert answer.json()["message"] == "Request ID not found"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "workflow is missing: it must be an object."),
        ({"workflow": [GRAPH]}, 422, "workflow must be an object, not a list."),
        ({"workflow": GRAPH, "custom_fields": [1]}, 422, "custom_fields must be an object"),
        ({"workflow": {"1": {"class_type": "Nope", "inputs": {}}}}, 422, "Nope"),
        ({"workflow": {**GRAPH, "1": {**GRAPH["1"], "inputs": {"width": "{{WIDTH}}"}}}}, 422, "width"),
    ],
)
def test_a_wrong_body_is_refused(api: Api, body: dict[str, Any], status: int, words: str) -> None:
    answer = api.post("/custom_workflow", body)
    assert answer.status_code == status
    assert words in answer.text


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("/download", 400, "No path provided"),
        ("/download/", 400, "No path provided"),
        ("/download/JOB", 400, "Path is not a file: JOB"),
        ("/download/JOB/", 400, "Invalid path"),
        ("/download/JOB/other.png", 404, "File not found"),
        ("/download/JOB/.lock", 404, "File not found"),
        ("/download/nothing/a.png", 404, "File not found"),
        ("/download/JOB/../JOB/a_00000_.png", 400, "Invalid path"),
        ("/download/JOB/%2e%2e/%2e%2e/ledger.db", 400, "Invalid path"),
        ("/download/JOB/..%2f..%2fledger.db", 400, "Invalid path"),
        ("/download/JOB/%252e%252e%252fledger.db", 404, "File not found"),
        ("/download/JOB/..%5c..%5cledger.db", 400, "Invalid path"),
        ("/download/JOB/a_00000_.png%00", 400, "Invalid path"),
        ("/download//etc/passwd", 400, "Invalid path"),
        ("/download/%2fetc/passwd", 400, "Invalid path"),
        ("/download/JOB/%c0%ae%c0%ae/ledger.db", 404, "File not found"),
    ],
)
def test_nothing_but_outputs_can_be_named(api: Api, target: str, status: int, words: str) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"x")

    found, _, content = raw_get(api, target.replace("JOB", job_id))

    assert found == status, content
    assert words.replace("JOB", job_id) in json.loads(content)["error"]
