"""Prompts, queue, history and jobs in ComfyUI's shapes, over a real server and a real ledger."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from core.records.job_error import JobError
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH

GOOD = {"9": {"class_type": "EmptyImage", "inputs": GRAPH["1"]["inputs"]}}


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


def posted(api: Api, **fields: Any) -> str:
    answer = api.post("/comfyui/prompt", {"prompt": GRAPH, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def remaining(api: Api) -> int:
    return int(api.get("/comfyui/prompt").json()["exec_info"]["queue_remaining"])


class TestSubmit:
    def test_a_prompt_is_a_job(self, api: Api) -> None:
        workflow = {"id": "w-1", "nodes": []}
        prompt_id = posted(api, client_id="c", extra_data={"extra_pnginfo": {"workflow": workflow}})
        job = api.get(f"/api/v2/jobs/{prompt_id}").json()
        assert (job["status"], job["metadata"]) == ("queued", {"client_id": "c", "workflow_id": "w-1"})
        assert api.publisher.turns == [prompt_id]
        [item] = api.get("/comfyui/queue").json()["queue_pending"]
        assert item[1:3] == [prompt_id, GRAPH]
        assert (item[3]["client_id"], item[3]["extra_pnginfo"]["workflow"]) == ("c", workflow)
        assert item[4] == ["2"]

    def test_whatever_type_the_body_is_declared_as(self, api: Api) -> None:
        body = json.dumps({"prompt": GRAPH})
        for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
            headers = {"Content-Type": kind}
            answer = requests.post(f"{api.url}/comfyui/api/prompt", data=body, headers=headers, timeout=9)
            assert answer.status_code == 200, answer.text

    def test_a_client_names_its_prompt(self, api: Api) -> None:
        name = str(uuid.uuid4())
        assert posted(api, prompt_id=name) == name
        assert api.get(f"/comfyui/api/jobs/{name}").json()["status"] == "pending"
        again = api.post("/comfyui/prompt", {"prompt": GRAPH, "prompt_id": name})
        assert (again.status_code, again.json()["error"]["type"]) == (409, "request_id_reuse")
        bad = api.post("/comfyui/prompt", {"prompt": GRAPH, "prompt_id": name.upper()})
        assert (bad.status_code, bad.json()["error"]["type"]) == (400, "invalid_prompt_id")

    def test_who_goes_first_runs_first(self, api: Api) -> None:
        later = posted(api)
        first, second = posted(api, front=True), posted(api, number=-1)
        queued = [item[1] for item in api.get("/comfyui/queue").json()["queue_pending"]]
        assert queued == [second, first, later]
        claim = api.ledger.claims.claim("gpu0@test")
        assert claim is not None
        assert claim.job_id in (first, second)

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ({}, "no_prompt"),
            ({"prompt": {}}, "prompt_no_outputs"),
            ({"prompt": GOOD}, "prompt_no_outputs"),
            ({"prompt": GRAPH, "partial_execution_targets": ["nope"]}, "prompt_no_outputs"),
            ({"prompt": {"1": {"class_type": "Nope", "inputs": {}}}}, "missing_node_type"),
            ({"prompt": {"1": {"inputs": {}}}}, "missing_node_type"),
            ({"prompt": {"nodes": [], "links": []}}, "invalid_prompt"),
            ({"prompt": {"2": GRAPH["2"]}}, "prompt_outputs_failed_validation"),
        ],
    )
    def test_what_cannot_run_is_refused_in_comfyuis_words(self, api: Api, body: Any, kind: str) -> None:
        answer = api.post("/comfyui/prompt", body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, kind)
        assert set(answer.json()) == {"error", "node_errors"}
        assert set(answer.json()["error"]) == {"type", "message", "details", "extra_info"}
        assert remaining(api) == 0

    def test_what_can_run_of_a_prompt_does(self, api: Api) -> None:
        bad = {"7": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
        answer = api.post("/comfyui/prompt", {"prompt": GRAPH | GOOD | bad})
        assert answer.status_code == 200
        assert answer.json()["node_errors"]["7"]["errors"][0]["type"] == "required_input_missing"
        [item] = api.get("/comfyui/queue").json()["queue_pending"]
        assert list(item[2]) == ["1", "2"]

    def test_only_the_targets_run(self, api: Api) -> None:
        other = {"7": {**GRAPH["2"]}}
        posted(api, prompt=GRAPH | other, partial_execution_targets=["7"])
        [item] = api.get("/comfyui/queue").json()["queue_pending"]
        assert list(item[2]) == ["1", "7"]

    def test_a_body_that_is_no_object_is_refused(self, api: Api) -> None:
        for body in (b"", b"[]", b"{", b'{"prompt": 1, "prompt": 2}'):
            answer = requests.post(f"{api.url}/comfyui/prompt", data=body, timeout=9)
            assert answer.status_code == 400, body
            assert set(answer.json()) == {"error", "node_errors"}


class TestQueue:
    def test_what_waits_can_be_taken_back(self, api: Api) -> None:
        running, waiting, other = posted(api), posted(api), posted(api)
        api.worker.claim(running)
        assert remaining(api) == 3
        queue = api.get("/comfyui/queue").json()
        assert [item[1] for item in queue["queue_running"]] == [running]
        assert [item[1] for item in queue["queue_pending"]] == [waiting, other]
        answer = api.post("/comfyui/queue", {"delete": [waiting, running, "nope", 7]})
        assert (answer.status_code, answer.content) == (200, b"")
        assert remaining(api) == 2
        api.post("/comfyui/queue", {"clear": True})
        queue = api.get("/comfyui/queue").json()
        assert ([item[1] for item in queue["queue_running"]], queue["queue_pending"]) == ([running], [])

    def test_what_runs_is_interrupted_alone_or_with_all(self, api: Api) -> None:
        first, second, waiting = posted(api), posted(api), posted(api)
        api.worker.claim(first)
        api.worker.come_up("gpu1@test")
        assert api.ledger.claims.claim("gpu1@test", named=second) is not None
        assert api.post("/comfyui/interrupt", {"prompt_id": waiting}).status_code == 200
        assert api.post("/comfyui/interrupt", {"prompt_id": second}).status_code == 200
        states = api.ledger.jobs.states([first, second, waiting])
        assert [states[each][0] for each in (first, second, waiting)] == ["running", "canceling", "queued"]
        assert requests.post(f"{api.url}/comfyui/interrupt", timeout=9).status_code == 200
        states = api.ledger.jobs.states([first, waiting])
        assert (states[first][0], states[waiting][0]) == ("canceling", "queued")

    def test_a_job_is_cancelled_whatever_it_does(self, api: Api) -> None:
        waiting, running = posted(api), posted(api)
        api.worker.claim(running)
        for name, done in ((waiting, True), (waiting, False), (running, True), (str(uuid.uuid4()), False)):
            assert api.post(f"/comfyui/api/jobs/{name}/cancel").json() == {"cancelled": done}
        other = posted(api)
        assert api.post("/comfyui/api/jobs/cancel", {"job_ids": [waiting, other]}).json() == {"cancelled": True}
        assert api.get(f"/comfyui/api/jobs/{other}").json()["status"] == "cancelled"
        for body, words in (({}, "must be a list"), ({"job_ids": ["../x", 7]}, "invalid id")):
            refused = api.post("/comfyui/api/jobs/cancel", body)
            assert (refused.status_code, words in refused.json()["error"]) == (400, True)

    @pytest.mark.parametrize(
        ("ids", "told"),
        [
            (None, {"error": "job_ids must be a list"}),
            ("x", {"error": "job_ids must be a list"}),
            (["x", 7], {"error": "job_ids contains invalid id(s)", "invalid_ids": ["x", "7"]}),
        ],
    )
    def test_of_ids_that_are_none_nothing_is_cancelled(self, api: Api, ids: Any, told: dict[str, Any]) -> None:
        waiting = posted(api)
        sent = [waiting, *ids] if isinstance(ids, list) else ids
        answer = api.post("/comfyui/api/jobs/cancel", {} if ids is None else {"job_ids": sent})
        assert (answer.status_code, answer.json()) == (400, told)
        assert api.get(f"/comfyui/api/jobs/{waiting}").json()["status"] == "pending"


class TestHistory:
    def test_of_a_prompt_that_went_well(self, api: Api) -> None:
        prompt_id = posted(api, client_id="c")
        assert api.get(f"/comfyui/history/{prompt_id}").json() == {}
        api.worker.run(prompt_id, b"picture")
        [(name, entry)] = api.get(f"/comfyui/history/{prompt_id}").json().items()
        assert name == prompt_id
        assert set(entry) == {"prompt", "outputs", "status", "meta"}
        assert [kind for kind, _ in entry["status"]["messages"]] == [
            *("execution_start", "execution_cached", "execution_success")
        ]
        assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("success", True)
        [item] = entry["outputs"]["2"]["images"]
        assert item == {"filename": "a_00000_.png", "subfolder": prompt_id, "type": "output"}
        view = api.get("/comfyui/view", params=item)
        assert (view.status_code, view.content) == (200, b"picture")
        assert view.headers["Content-Type"] == "image/png"
        part = api.get("/comfyui/view", params=item, headers={"Range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, b"ict")

    def test_of_one_that_failed_and_one_that_was_cancelled(self, api: Api) -> None:
        failed, canceled = posted(api), posted(api)
        error = JobError(
            code="node_execution_error", message="boom", node_id="1", class_type="EmptyImage", traceback="t"
        )
        assert api.ledger.claims.fail(api.worker.claim(failed), error)
        api.ledger.jobs.cancel(canceled)
        entry = api.get(f"/comfyui/history/{failed}").json()[failed]
        kind, data = entry["status"]["messages"][-1]
        assert (kind, data["exception_message"], data["node_id"], data["node_type"]) == (
            *("execution_error", "boom", "1", "EmptyImage"),
        )
        assert entry["status"]["completed"] is False
        entry = api.get(f"/comfyui/history/{canceled}").json()[canceled]
        assert [kind for kind, _ in entry["status"]["messages"]] == ["execution_interrupted"]
        statuses = {job["id"]: job["status"] for job in api.get("/comfyui/api/jobs").json()["jobs"]}
        assert statuses == {failed: "failed", canceled: "cancelled"}

    def test_some_of_it(self, api: Api) -> None:
        names = [posted(api) for _ in range(4)]
        for name in names:
            api.worker.run(name, b"x")

        def shown(**query: Any) -> list[int]:
            return [names.index(name) for name in api.get("/comfyui/history", params=query).json()]

        assert shown() == [0, 1, 2, 3]
        assert shown(max_items=2) == [2, 3]
        assert shown(max_items=2, offset=1) == [1, 2]
        assert shown(offset=3) == [3]
        assert shown(offset=9) == shown(max_items=0) == []
        assert api.get("/comfyui/history?max_items=x").status_code == 400

    def test_what_is_taken_out_of_it_stays_a_job(self, api: Api) -> None:
        names = [posted(api) for _ in range(3)]
        for name in names:
            api.worker.run(name, b"x")
        api.post("/comfyui/history", {"delete": [names[1], "nope"]})
        assert list(api.get("/comfyui/history").json()) == [names[0], names[2]]
        api.post("/comfyui/history", {"clear": True})
        assert api.get("/comfyui/history").json() == {}
        assert api.get(f"/api/v2/jobs/{names[0]}").json()["status"] == "succeeded"


class TestJobs:
    def test_pages_are_those_that_are_asked_for(self, api: Api) -> None:
        flow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
        names = [posted(api), posted(api, extra_data=flow), posted(api)]
        api.worker.run(names[0], b"x")

        def shown(query: str) -> tuple[list[int], int, bool]:
            found = api.get(f"/comfyui/api/jobs?{query}").json()
            pages = found["pagination"]
            return [names.index(job["id"]) for job in found["jobs"]], pages["total"], pages["has_more"]

        assert shown("") == ([2, 1, 0], 3, False)
        assert shown("limit=1&offset=1") == ([1], 3, True)
        assert shown("sort_order=asc&limit=2") == ([0, 1], 3, True)
        assert shown("status=completed,failed") == ([0], 1, False)
        assert shown("workflow_id=w") == ([1], 1, False)
        assert shown("sort_by=execution_duration&status=completed") == ([0], 1, False)

    @pytest.mark.parametrize("query", ["status=bogus", "sort_by=x", "sort_order=x", "limit=0", "limit=x"])
    def test_a_bad_query_is_refused(self, api: Api, query: str) -> None:
        answer = api.get(f"/comfyui/api/jobs?{query}")
        assert answer.status_code == 400
        assert "error" in answer.json()

    def test_one_of_them_has_all(self, api: Api) -> None:
        prompt_id = posted(api)
        api.worker.run(prompt_id, b"x")
        job = api.get(f"/comfyui/api/jobs/{prompt_id}").json()
        assert (job["status"], job["outputs_count"], job["workflow"]["prompt"]) == ("completed", 1, GRAPH)
        assert job["preview_output"]["mediaType"] == "images"
        assert job["execution_end_time"] >= job["execution_start_time"] >= job["create_time"]
        missing = api.get(f"/comfyui/api/jobs/{uuid.uuid4()}")
        assert (missing.status_code, missing.json()) == (404, {"error": "Job not found"})
        assert api.get("/comfyui/jobs").status_code == 404
