"""What the editor saves, sent where a graph is wanted: by each contract the same job as from the graph itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH

MUTED = 2


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


def document(prefix: str = "picture", **more: Any) -> dict[str, Any]:
    """`GRAPH` as the editor saves it, with a note and a reroute."""
    image = {"name": "IMAGE", "type": "IMAGE"}
    return {
        "last_node_id": 4,
        "last_link_id": 2,
        "nodes": [
            {"id": 3, "type": "Note", "mode": 0, "widgets_values": ["read me"]},
            {"id": 2, "type": "SaveImage", "inputs": [{**image, "name": "images", "link": 2}], "mode": 0}
            | {"widgets_values": [prefix]},
            {
                "id": 4,
                "type": "Reroute",
                "inputs": [{"name": "", "type": "*", "link": 1}],
                "outputs": [image],
                "mode": 0,
            },
            {"id": 1, "type": "EmptyImage", "outputs": [image], "mode": 0, "widgets_values": [64, 64, 1, 0]},
        ],
        "links": [[1, 1, 0, 4, 0, "IMAGE"], [2, 4, 0, 2, 0, "IMAGE"]],
        "groups": [],
        "version": 0.4,
        **more,
    }


def recorded(api: Api, job_id: str) -> tuple[dict[str, Any], Any]:
    """Class and inputs of a job's nodes, and what its files carry."""
    graph = json.loads(api.ledger.jobs.graph(job_id))
    nodes = {node_id: {part: node[part] for part in ("class_type", "inputs")} for node_id, node in graph.items()}
    return nodes, api.ledger.reruns.ingredients(job_id).extra_pnginfo


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/api/v2/jobs", lambda workflow: {"workflow": workflow}, "id"),
        ("/generate", lambda workflow: {"input": {"workflow_json": workflow}}, "id"),
    ],
)
def test_a_document_becomes_a_job_that_carries_it(api: Api, path: str, body: Any, says: str) -> None:
    answer = api.post(path, body(document()))

    assert answer.status_code in (201, 202), answer.text
    assert recorded(api, answer.json()[says]) == (GRAPH, {"workflow": document()})


def test_the_clients_own_workflow_is_the_one_that_is_carried(api: Api) -> None:
    extra = {"extra_pnginfo": {"workflow": {"mine": 1}, "more": 2}}
    job = api.post("/api/v2/jobs", {"workflow": document(), "extra_data": extra}).json()

    assert recorded(api, job["id"]) == (GRAPH, extra["extra_pnginfo"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/custom_workflow", {"workflow": document("{{PREFIX}}"), "custom_fields": {"prefix": "picture"}}),
        (
            "/generate",
            {
                "input": {
                    "modifier": "RawWorkflow",
                    "modifications": {"workflow_json": document("{{PREFIX}}"), "prefix": "picture"},
                }
            },
        ),
    ],
)
def test_placeholders_in_a_document_are_filled(api: Api, path: str, body: dict[str, Any]) -> None:
    answer = api.post(path, body)

    assert answer.status_code == 202, answer.text
    assert recorded(api, answer.json()["id"])[0] == GRAPH


def test_a_number_to_be_drawn_in_a_document(api: Api) -> None:
    workflow = document()
    workflow["nodes"][3]["widgets_values"] = [64, 64, 1, "__RANDOM_INT__"]
    answer = api.post("/generate", {"input": {"workflow_json": workflow}})

    # It may be above what the input takes: what matters is that a number was drawn.
    assert "__RANDOM_INT__" not in answer.text


def test_a_batch_varies_the_graph_of_a_document(api: Api) -> None:
    batch = api.post("/api/v2/batches", {"workflow": document(), "over": {"1.width": [8, 16]}})
    assert batch.status_code == 201, batch.text
    listed = api.post("/api/v2/batches", {"jobs": [{"workflow": document("one")}, {"workflow": GRAPH}]})
    assert listed.status_code == 201, listed.text

    newest = [recorded(api, job.id) for job in api.ledger.jobs.page(limit=4)]
    assert sorted(node["1"]["inputs"]["width"] for node, _pnginfo in newest) == [8, 16, 64, 64]
    assert [pnginfo for _node, pnginfo in newest] == [None] * 4


def test_a_document_is_converted_without_being_run(api: Api) -> None:
    before = len(api.ledger.jobs.page(limit=1000))
    answer = api.post("/convert", {"workflow": document()})

    assert answer.status_code == 200, answer.text
    assert list(answer.json()["workflow"]) == ["1", "2"]
    assert answer.json()["workflow"]["2"]["inputs"] == GRAPH["2"]["inputs"]
    assert api.post("/convert", {"workflow": GRAPH}).json() == {"workflow": GRAPH}
    assert len(api.ledger.jobs.page(limit=1000)) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v2/jobs", lambda workflow: {"workflow": workflow}),
        ("/generate", lambda workflow: {"input": {"workflow_json": workflow}}),
        ("/custom_workflow", lambda workflow: {"workflow": workflow}),
        ("/api/v2/batches", lambda workflow: {"workflow": workflow, "over": {"1.width": [8]}}),
        ("/convert", lambda workflow: {"workflow": workflow}),
    ],
)
def test_what_cannot_be_converted_names_the_node(api: Api, path: str, body: Any) -> None:
    workflow = document()
    workflow["nodes"].append({"id": 9, "type": "SetNode", "title": "mine", "mode": 0})
    answer = api.post(path, body(workflow))

    assert answer.status_code == 422
    assert "Node 9 (SetNode): 'mine': no GPU of this fleet has such a node" in answer.text
    assert "workflow_format_ui" in answer.text or path in ("/generate", "/custom_workflow")

    workflow["nodes"][-1]["mode"] = MUTED
    assert api.post(path, body(workflow)).status_code in (200, 201, 202)


def test_what_comes_of_it_is_checked_as_any_graph(api: Api) -> None:
    workflow = document()
    workflow["nodes"][3]["widgets_values"] = [0, 64, 1, 0]
    answer = api.post("/api/v2/jobs", {"workflow": workflow})

    assert answer.status_code == 422
    assert "Value 0 smaller than min" in answer.text
