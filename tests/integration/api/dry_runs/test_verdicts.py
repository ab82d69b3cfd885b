"""What a dry run accepts, a submission accepts; what it refuses, a submission refuses, with the same words."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import LedgerUnavailable
from core.records.job import QUEUED
from tests.field_graphs import field_graphs, simulated_catalogue
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api.dry_runs.helpers import beating, same_verdict
from tests.integration.api.test_bad_inputs import JSON, OTHER_SYSTEMS, RAW_BODIES, loading
from tests.integration.api.test_inputs import data_uri
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.unit.core.storage.test_media import png_of

LIMIT_BYTES = 1_000_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    settings = settings_for(
        tmp_path_factory.mktemp("api"), max_body_bytes=LIMIT_BYTES, max_priority=100, allow_networks=("loopback",)
    )
    with running_api(settings) as running, beating(running):
        running.worker.come_up()
        yield running


@pytest.fixture(autouse=True)
def nothing_waits(api: Api) -> Iterator[None]:
    yield
    for job in api.ledger.jobs.page(statuses=[QUEUED], limit=100):
        api.ledger.jobs.cancel(job.id)


@pytest.fixture(scope="module")
def in_the_field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server whose GPU has the nodes of the graphs from the field."""
    catalogue = simulated_catalogue(tmp_path_factory.mktemp("simulator"))
    with running_api(settings_for(tmp_path_factory.mktemp("field"))) as running, beating(running):
        running.worker.come_up(object_info=catalogue)
        yield running


def test_graphs_from_the_field(in_the_field: Api) -> None:
    accepted = refused = 0
    for each in field_graphs():
        report = same_verdict(in_the_field, {"workflow": each.graph})
        if report is not None and report["accepted"]:
            accepted += 1
            assert report["runnable"], each.name
            assert [gpu["can_run"] for gpu in report["gpus"]] == ["yes"], each.name
        else:
            refused += 1
    assert accepted > 10
    assert refused > 10


@pytest.mark.parametrize("path", ["/api/v2/jobs", "/workflows/text2image", "/api/v2/batches"])
@pytest.mark.parametrize("name", RAW_BODIES)
def test_bodies_that_cannot_be_read(api: Api, path: str, name: str) -> None:
    body, _ = RAW_BODIES[name]
    assert same_verdict(api, None, path, data=body, headers=JSON) is None


@pytest.mark.parametrize("system", OTHER_SYSTEMS)
def test_bodies_of_other_systems(api: Api, system: str) -> None:
    assert same_verdict(api, OTHER_SYSTEMS[system][0]) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"workflow": "x"},
        {"workflow": []},
        {"workflow": {}},
        {"workflow": {"1": {"inputs": {}}}},
        {"workflow": {"prompt": GRAPH}},
        {"webhook_url": "https://example.com"},
        {"priority": True},
        {"priority": 101},
        {"metadata": {"a b": ""}},
        {"extra_data": []},
        {"label": ""},
        {"timeout": -1},
        {"requires": {"gpus": 2}},
        {"start_within_s": 0},
        {"s3": {"bucket": "x"}},
        {"webhook": {"url": "ftp://x"}},
        {"convert_output": {"format": "bmp"}},
        {"retention": 1},
    ],
    ids=json.dumps,
)
def test_fields_that_are_wrong(api: Api, fields: dict[str, Any]) -> None:
    assert same_verdict(api, {"workflow": GRAPH, **fields}) is None


@pytest.mark.parametrize(
    "workflow",
    [
        loading("../../etc/passwd"),
        loading("/proc/self/environ"),
        loading("not-there.png"),
        loading(["1", 0]),
        loading("0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"),
        loading({"__type": "core/ASSET", "info": {"id": "no-such"}}),
        loading({"__type": "core/ASSET", "info": {}}),
        loading(data_uri(b"<html>")),
        loading(data_uri(png_of(9000, 9000))),
        loading(data_uri(b"")),
        loading("data:image/png,abc"),
        loading("http://127.0.0.1:1/x.png"),
        loading("http://169.254.169.254/latest/meta-data/"),
        {**GRAPH, "3": {"class_type": "CheckpointSave", "inputs": {}}},
        {**GRAPH, "3": {"class_type": "Unknown", "inputs": {}}},
        {str(n): {"class_type": "ImageInvert", "inputs": {"image": [str(n + 1), 0]}} for n in range(2001)},
        {"2": GRAPH["2"]},
        {"1": GRAPH["1"]},
        {"nodes": [], "links": []},
        {"nodes": [{"id": 1, "type": "Nobody", "mode": 0}], "links": []},
    ],
    ids=lambda _: "",
)
def test_graphs_that_are_wrong(api: Api, workflow: dict[str, Any]) -> None:
    report = same_verdict(api, {"workflow": workflow})
    assert report is None or not report["runnable"]


@pytest.mark.parametrize("requires", [{"pool": "none"}, {"vram_gb": 1000}, None])
def test_requirements(api: Api, requires: dict[str, Any] | None) -> None:
    assert same_verdict(api, {"workflow": GRAPH, "requires": requires, "start_within_s": 60})


def test_files_that_are_there(api: Api) -> None:
    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png(9))

        def log_message(self, *_args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        asset = api.post("/api/v2/assets", files={"file": ("x.png", png(1))}, data={"file_path": "x.png"}).json()
        named = api.post("/upload/image", files={"file": ("sofa.png", png(2))}).json()["filename"]
        job_id = api.submit()
        api.worker.run(job_id, png(3))
        (output,) = api.ledger.jobs.get(job_id).outputs
        for image in (
            asset["id"],
            asset["hash"],
            named,
            output.id,
            data_uri(png(4)),
            f"http://127.0.0.1:{server.server_port}/a.png",
        ):
            report = same_verdict(api, {"workflow": loading(image)})
            assert report is not None
            assert report["runnable"], image
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_whose_bytes_are_gone(api: Api) -> None:
    asset = api.post("/api/v2/assets", files={"file": ("y.png", png(50))}, data={"file_path": "y.png"}).json()
    key = api.ledger.input_files.get(asset["id"]).storage_key
    (api.settings.inputs_dir / key).unlink()
    same_verdict(api, {"workflow": loading(asset["id"])})


def test_a_template(api: Api, in_the_field: Api) -> None:
    path = "/workflows/text2image"
    assert same_verdict(in_the_field, {"parameters": {"prompt": "a"}}, path)
    assert same_verdict(api, {"parameters": {"prompt": "a"}}, path), "it has none of its nodes"
    bodies: list[Any] = [{"parameters": each} for each in ({}, {"steps": "x", "prompt": "a"}, {"no": 1})]
    for wrong in (*bodies, {}):
        assert same_verdict(in_the_field, wrong, path) is None
    assert same_verdict(in_the_field, {"parameters": {}}, "/workflows/nothing") is None


def test_a_form(in_the_field: Api) -> None:
    """Its picture is there for the dry run alone."""
    path, fields = "/workflows/interior_design", {"style": "style_jp1", "room": "bedroom"}
    report = same_verdict(in_the_field, None, path, files={"user_img": ("room.png", png(30))}, data=fields)
    assert report is not None
    assert report["runnable"]
    no_picture = {"user_img": ("room.png", b"<html>")}
    assert same_verdict(in_the_field, None, path, files=no_picture, data=fields) is None


def test_batches(api: Api) -> None:
    path = "/api/v2/batches"
    report = same_verdict(api, {"workflow": GRAPH, "over": {"1.color": "1..20"}, "max_running": 2}, path)
    assert report is not None
    assert report["jobs"] == 20
    assert report["estimate"]["ends_in_s"] >= report["estimate"]["run_s"] / 2 > 0
    wrong = same_verdict(api, {"workflow": GRAPH, "over": {"1.width": [8, 10**6]}}, path)
    assert wrong is not None
    assert "Job 1" in wrong["problems"][0]["error"]["message"]
    assert wrong["gpus"][0]["can_run"] == "no", "what is told is of the job that is refused"
    for body in ({"workflow": GRAPH, "over": {"9.color": [1]}}, {"workflow": GRAPH}, {"template": "no", "over": {}}):
        assert same_verdict(api, body, path) is None


def test_a_batch_that_is_there_already(api: Api) -> None:
    body, key = {"workflow": GRAPH, "over": {"1.color": [1, 2]}}, {"Idempotency-Key": "a-batch"}
    batch = api.post("/api/v2/batches", body, headers=key).json()["id"]
    report = api.post("/api/v2/batches?dry_run=true", body, headers=key).json()
    assert (report["accepted"], report["batch_id"]) == (True, batch)
    other = {"workflow": GRAPH, "over": {"1.color": [3]}}
    assert same_verdict(api, None, "/api/v2/batches", json=other, headers=key)


def test_a_key_that_was_used(api: Api) -> None:
    key = {"Idempotency-Key": "only-once"}
    for _ in range(2):
        same_verdict(api, None, json={"workflow": GRAPH}, headers=key)
    report = api.post("/api/v2/jobs?dry_run=true", {"workflow": GRAPH}, headers=key).json()
    assert report["problems"][0]["error"]["code"] == "idempotency_key_reuse"
    assert report["runnable"], "that some GPU can run it has nothing to do with the key"
    assert report["estimate"] is not None


@pytest.mark.parametrize("value", ["maybe", "", "TRUE", "yes", "2", "true&dry_run=false"])
def test_a_word_that_is_no_answer_submits_nothing(api: Api, value: str) -> None:
    before = api.ledger.jobs.count(QUEUED)
    for path, body in (
        ("/api/v2/jobs", {"workflow": GRAPH}),
        ("/workflows/text2image", {"parameters": {"prompt": "a"}}),
        ("/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": [1]}}),
    ):
        answer = api.post(f"{path}?dry_run={value}", body)
        assert answer.status_code == 400
        assert "dry_run must be true or false" in answer.json()["error"]["message"]
    assert api.ledger.jobs.count(QUEUED) == before


def test_one_that_is_asked_for_within_the_body_submits_nothing(api: Api) -> None:
    before = api.ledger.jobs.count(QUEUED)
    for path, body in (
        ("/api/v2/jobs", {"workflow": GRAPH}),
        ("/workflows/text2image", {"parameters": {"prompt": "a"}}),
        ("/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": [1]}}),
    ):
        answer = api.post(path, {**body, "dry_run": True})
        assert answer.status_code == 422
        assert "'dry_run'" in answer.json()["error"]["message"]
    assert api.ledger.jobs.count(QUEUED) == before


@pytest.mark.parametrize("value", ["false", "0"])
def test_false_is_a_submission(api: Api, value: str) -> None:
    assert api.post(f"/api/v2/jobs?dry_run={value}", {"workflow": GRAPH}).status_code == 201


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"input": {"workflow_json": GRAPH}}),
        ("/custom_workflow", {"workflow": GRAPH}),
        ("/v2/models/fleet/text2image/requests", {"prompt": "a"}),
        ("/comfyui/prompt", {"prompt": GRAPH}),
    ],
)
def test_a_route_that_knows_no_dry_run_does_nothing(api: Api, path: str, body: dict[str, Any]) -> None:
    before = api.ledger.jobs.count(QUEUED)
    answer = api.post(f"{path}?dry_run=true", body)
    assert answer.status_code == 400, answer.text
    assert "knows no dry_run" in answer.text
    assert api.ledger.jobs.count(QUEUED) == before


def test_a_full_queue_and_no_gpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("full"), max_queued=1)) as full:
        assert same_verdict(full, {"workflow": GRAPH}), "no GPU has said what it has"
        full.worker.come_up()
        # Whoever asked a moment ago goes by that.
        full.post("/api/v2/jobs?dry_run=true", {"workflow": GRAPH})
        full.submit()
        report = same_verdict(full, {"workflow": GRAPH})
        assert report is not None
        assert report["problems"][0]["error"]["code"] == "queue_full"
        assert report["problems"][0]["retry_after_s"] > 0
        assert report["runnable"]
        both = same_verdict(full, {"workflow": {**GRAPH, "3": {"class_type": "Unknown", "inputs": {}}}})
        assert both is not None
        assert [each["error"]["code"] for each in both["problems"]] == ["queue_full", "invalid_workflow"]


def test_no_ledger_is_no_verdict(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("away"))) as away:
        away.worker.come_up()

        def gone(*_newcomers: object) -> None:
            raise LedgerUnavailable("The ledger does not answer.")

        monkeypatch.setattr(away.ledger.outlook, "read", gone)
        answer = away.post("/api/v2/jobs?dry_run=true", {"workflow": GRAPH})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
