"""Files that a submission brings: by URL, as a data URI, as an upload, from a template, from another job."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from core.records.job import QUEUED
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.unit.core.storage.test_media import png_of

SECRET = png(200)


class Files(http.server.BaseHTTPRequestHandler):
    """A server of pictures, and of what is none."""

    def do_GET(self) -> None:
        content = {"/a.png": png(1), "/b": png(1), "/page.png": b"<html></html>"}.get(self.path)
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def loading(*images: Any) -> dict[str, Any]:
    nodes = {f"1{n}": {"class_type": "LoadImage", "inputs": {"image": image}} for n, image in enumerate(images)}
    return {"1": {"class_type": "LoadImage", "inputs": {"image": images[0]}}, "2": GRAPH["2"], **nodes}


def staged(api: Api, job_id: str) -> dict[str, bytes]:
    """What the job will find in its input folder; the graph in the ledger names nothing else."""
    inputs = api.ledger.jobs.get(job_id).inputs
    found = {file.name: (api.settings.inputs_dir / file.key).read_bytes() for file in inputs}
    graph = api.get(f"/api/v2/jobs/{job_id}/workflow").json()["workflow"]
    named = {node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"}
    assert named == set(found)
    assert all(name.startswith(f"{job_id}/") for name in found)
    return found


def test_a_picture_may_be_named_by_its_hash(api: Api) -> None:
    content = png(77)
    answer = api.post("/api/v2/assets", files={"file": ("x.png", content)}, data={"file_path": "x.png"})
    assert answer.status_code == 201, answer.text
    job_id = api.submit(workflow=loading(answer.json()["hash"]))
    assert set(staged(api, job_id).values()) == {content}


@pytest.mark.parametrize(
    "name",
    [
        f"blake3:{'0' * 64}",
        "11111111-2222-4333-8444-555555555555",
        "11111111-2222-4333-8444-555555555555/room.png",
        "11111111-2222-4333-8444-555555555555/11111111-2222-4333-8444-555555555555/a_00001_.png",
    ],
)
def test_an_asset_that_does_not_exist_is_refused_before_it_waits_for_a_gpu(api: Api, name: str) -> None:
    for path, body in (
        ("/api/v2/jobs", {"workflow": loading(name)}),
        ("/generate", {"input": {"workflow_json": loading(name)}}),
        ("/api/v2/batches", {"workflow": {**loading(name), "3": GRAPH["1"]}, "over": {"3.color": [1, 2]}}),
    ):
        before = api.ledger.jobs.count(QUEUED)
        answer = api.post(path, body)
        assert answer.status_code == 422, answer.text
        assert f"there is no asset '{name[:80]}'" in answer.text
        assert api.ledger.jobs.count(QUEUED) == before


def test_a_picture_may_be_named_as_its_upload_was_answered(api: Api) -> None:
    def sent(name: str, content: bytes) -> str:
        answer = api.post("/upload/image", files={"file": (name, content)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["filename"])

    first, again, other = (sent("sofa.png", png(n)) for n in (20, 20, 21))
    # An instance lists a file of this name: its own.
    cat = sent("cat.png", png(22))

    assert (first, again, other, cat) == ("sofa.png", "sofa.png", "sofa_1.png", "cat_1.png")
    for contract in ("v2", "generate"):
        graph = loading(first, other, cat)
        if contract == "v2":
            job_id = api.submit(workflow=graph)
        else:
            answer = api.post("/generate", {"input": {"workflow_json": graph}})
            assert answer.status_code == 202, answer.text
            job_id = answer.json()["id"]
        assert set(staged(api, job_id).values()) == {png(20), png(21), png(22)}
    plain = api.submit(workflow={"1": loading("cat.png")["1"], "2": GRAPH["2"]})
    assert api.ledger.jobs.get(plain).inputs == (), "a name that an instance lists means the instance's file"
    unknown = api.post("/api/v2/jobs", {"workflow": loading("nobody.png")})
    assert unknown.status_code == 422


def test_every_kind_of_source_becomes_a_file_of_the_job(api: Api, files: str) -> None:
    other = api.submit()
    api.worker.run(other, png(3))
    (output,) = api.ledger.jobs.get(other).outputs
    image = api.post("/upload/image", files={"file": ("room.png", png(4))}).json()
    job_id = api.submit(
        workflow=loading(
            f"{files}/a.png",
            f"{files}/b",
            data_uri(png(2)),
            {"__type": "core/ASSET", "info": {"id": output.id}},
            image["path"],
        )
    )

    found = staged(api, job_id)
    # Equal files are one file.
    assert list(found.values()) == [png(1), png(2), png(3), png(4)]
    names = [name.removeprefix(f"{job_id}/") for name in found]
    assert names == ["0-a.png", "1-file.png", "2-a_00000.png", "3-room.png"]


def test_an_output_is_named_by_its_path(api: Api) -> None:
    other = api.submit()
    api.worker.run(other, png(5))
    (output,) = api.ledger.jobs.get(other).outputs
    assert list(staged(api, api.submit(workflow=loading(output.storage_key))).values()) == [png(5)]


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        ("URL/missing.png", 422, "node 1, input image"),
        ("URL/page.png", 422, "node 1, input image is not a picture"),
        ("http://127.0.0.1:1/x.png", 422, ""),
        ("http://169.254.169.254/latest/meta-data/", 422, "node 1, input image: 169.254"),
        ("http://user:secret@127.0.0.1/x.png", 422, "user name"),
        (data_uri(b"<html>"), 422, "not a picture"),
        (data_uri(png_of(9000, 9000)), 422, "9000 x 9000"),
        (data_uri(b""), 422, "empty"),
        ("data:image/png;base64,@@@@", 422, "base64"),
        ("data:image/png,abc", 422, "base64"),
        ("0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9", 422, ""),
        ("0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9/../../x", 422, ""),
        ({"__type": "core/ASSET", "info": {"id": "no-such"}}, 422, "no-such"),
        ({"__type": "core/ASSET", "info": {"id": "a\0b"}}, 422, ""),
    ],
)
def test_what_cannot_be_had_is_refused_and_no_job_made(
    api: Api, files: str, image: Any, status: int, words: str
) -> None:
    before = [job["id"] for job in api.get("/api/v2/jobs").json()["jobs"]]
    value = image.replace("URL", files) if isinstance(image, str) else image
    answer = api.post("/api/v2/jobs", {"workflow": loading(value)})
    assert answer.status_code == status, answer.text
    assert words.lower() in answer.json()["error"]["message"].lower()
    assert "secret" not in answer.text
    assert [job["id"] for job in api.get("/api/v2/jobs").json()["jobs"]] == before


def test_nothing_is_fetched_for_a_graph_that_cannot_run(api: Api, files: str) -> None:
    before = list(api.settings.inputs_dir.glob("??/*"))
    graph = loading(data_uri(png(77))) | {"3": {"class_type": "NoSuchNode", "inputs": {}}}
    answer = api.post("/api/v2/jobs", {"workflow": graph})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_workflow")
    assert list(api.settings.inputs_dir.glob("??/*")) == before


def test_a_url_in_a_text_is_a_text(api: Api) -> None:
    graph = {"1": GRAPH["1"], "2": {**GRAPH["2"], "inputs": {"images": ["1", 0], "filename_prefix": "http://x/y"}}}
    assert api.ledger.jobs.get(api.submit(workflow=graph)).inputs == ()


def test_values_of_templates_bring_files_too(api: Api) -> None:
    parameters = {"user_img": data_uri(png(6)), "style": "1", "room": "bedroom", "prefix": "BED"}
    answer = api.post("/workflows/interior_design", {"parameters": parameters})
    assert answer.status_code == 422, "the test's catalogue has no loaders"
    assert answer.json()["error"]["code"] == "invalid_workflow"


class TestUploadImage:
    def upload(self, api: Api, **form: Any) -> requests.Response:
        return requests.post(f"{api.url}/upload/image", timeout=10, **form)

    def test_a_picture(self, api: Api) -> None:
        answer = self.upload(api, files={"file": ("x.png", png(7))}, data={"name": "my room.png"})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["success"], body["filename"]) == (True, "my_room.png")
        assert list(staged(api, api.submit(workflow=loading(body["path"]))).values()) == [png(7)]

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            ({"data": {"name": "a.png"}, "files": {"other": ("a", b"x")}}, "No file data received"),
            ({"files": {"file": ("a.png", b"")}}, "No file data received"),
            ({"files": {"file": ("", b"x")}, "data": {"other": "x"}}, "No filename provided"),
            ({"files": {"file": ("../a.png", png(8))}}, "Invalid path"),
            ({"files": {"file": ("a.png", png(8))}, "data": {"name": "..%2fa.png"}}, "Invalid path"),
        ],
    )
    def test_bad_forms(self, api: Api, form: dict[str, Any], words: str) -> None:
        answer = self.upload(api, **form)
        assert (answer.status_code, answer.json()) == (400, {"error": words})

    def test_what_is_no_picture(self, api: Api) -> None:
        answer = self.upload(api, files={"file": ("a.png", b"<html>")})
        assert answer.status_code == 422
        assert "not a picture" in answer.json()["error"]["message"]
