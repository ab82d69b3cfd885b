"""`comfyline check` as it is run, against a real API server: what it says, how it ends, and that nothing is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api.dry_runs.helpers import beating, kept
from tests.integration.api.test_editor_documents import document
from tests.integration.api_fixtures import ROOT, Api, running_api, settings_for
from tests.makers import GRAPH
from tests.unit.catalogue_literals import loading, with_checkpoints

PICTURE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "room.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Two pools, of which one has the checkpoint, and a template."""
    folder = tmp_path_factory.mktemp("workflows")
    sidecar = {"title": "Frame", "parameters": {"photo": {"type": "image"}, "width": {"type": "integer", "default": 8}}}
    open_graph = {**PICTURE, "1": {"class_type": "LoadImage", "inputs": {"image": "{{PHOTO}}"}}}
    open_graph["3"] = {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "width": "{{WIDTH}}"}}
    open_graph["4"] = {**GRAPH["2"], "inputs": {**GRAPH["2"]["inputs"], "images": ["3", 0]}}
    (folder / "frame.json").write_text(json.dumps(open_graph))
    (folder / "frame.params.json").write_text(json.dumps(sidecar))
    with running_api(settings_for(tmp_path_factory.mktemp("api"), workflows_dir=folder)) as running:
        running.worker.come_up(object_info=with_checkpoints("sdxl.safetensors"), pool="h100")
        running.worker.come_up("gpu1@test", object_info=with_checkpoints("other.sft"), pool="a10")
        # The first file that is kept marks the storage.
        running.post("/api/v2/assets", files={"file": ("a.png", png(1))}, data={"file_path": "a.png"})
        with beating(running):
            yield running


@pytest.fixture
def folder(tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Files to check, in the working directory; when the test is over, the server has what it had before."""
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    (tmp_path / "saved.json").write_text(json.dumps(document()))
    (tmp_path / "picture.json").write_text(json.dumps(PICTURE))
    (tmp_path / "model.json").write_text(json.dumps(loading("sdxl.safetensors")))
    (tmp_path / "typo.json").write_text(json.dumps(loading("sdx1.safetensors")))
    (tmp_path / "node.json").write_text(json.dumps({**GRAPH, "3": {"class_type": "EmptyImge", "inputs": {}}}))
    (tmp_path / "room.png").write_bytes(png(3))
    (tmp_path / "fake.png").write_bytes(b"<html>")
    monkeypatch.chdir(tmp_path)
    before = kept(api)
    yield tmp_path
    assert kept(api) == before


def test_as_a_process(folder: Path, api: Api) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COMFYLINE_", "COMFY_"))}
    for file, status, words in (("graph.json", 0, "It can run, 2 nodes."), ("node.json", 1, "EmptyImage")):
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "check", file],
            cwd=folder,
            env=env | {"PYTHONPATH": str(ROOT), "COMFY_BASE_URL": api.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert words in done.stdout
        assert "Traceback" not in done.stderr


def test_what_the_editor_saves(folder: Path, api: Api) -> None:
    assert run(["check", "saved.json", "-l", api.url]) == 0
    broken = document()
    broken["nodes"].append({"id": 9, "type": "SetNode", "mode": 0})
    (folder / "broken.json").write_text(json.dumps(broken))
    assert run(["check", "broken.json", "-l", api.url]) == 1


def test_which_pool_can_run_it(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "model.json", "-l", api.url]) == 0
    said = capsys.readouterr().out
    assert "Pool h100 (1 GPU) can run it." in said
    assert "Pool a10 (1 GPU) cannot run it. They lack the model sdxl.safetensors." in said
    assert "there in pool h100" in said
    assert "It would begin in about 10 s, of which models load about 10 s, and run about 46 s." in said
    assert run(["check", "model.json", "--requires", "pool=a10", "-l", api.url]) == 1
    assert "there in pool h100" in capsys.readouterr().out


def test_what_is_most_like_it(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "typo.json", "-l", api.url]) == 1
    assert "most like it: sdxl.safetensors" in capsys.readouterr().out


def test_files_of_this_machine_are_looked_at_and_not_kept(
    folder: Path, api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["check", "picture.json", "-l", api.url]) == 0
    (folder / "room.png").write_bytes(b"<html>")
    assert run(["check", "picture.json", "-l", api.url]) == 1
    assert "is not a picture" in capsys.readouterr().out
    (folder / "room.png").unlink()
    assert run(["check", "picture.json", "-l", api.url]) == 1
    assert "Missing: input file room.png for image, node 1" in capsys.readouterr().out
    (folder / "room.png").write_bytes(b"x" * 9_000_000)
    assert run(["check", "picture.json", "-l", api.url]) == 1
    assert "room.png was not looked at" in capsys.readouterr().err


def test_a_template(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "frame", "-p", "photo=room.png", "-l", api.url]) == 0
    assert run(["check", "frame", "-p", "photo=fake.png", "-l", api.url]) == 1
    assert run(["check", "frame", "-p", "width=9", "-l", api.url]) == 2, "photo is missing"
    assert run(["check", "frame", "-p", "photo=room.png", "-p", "width=1000000", "-l", api.url]) == 1
    capsys.readouterr()
    assert run(["check", "nothing", "-l", api.url]) == 2
    assert "no such workflow; there are: " in capsys.readouterr().err
    assert run(["check", "graph.json", "-p", "a=b", "-l", api.url]) == 2


def test_json(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "node.json", "--json", "-l", api.url]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["missing"][0]["nearest"] == ["EmptyImage"]
    (folder / "none.json").write_text("{}")
    assert run(["check", "none.json", "--json", "-l", api.url]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid_workflow"


def test_too_late(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "graph.json", "--start-within", "60", "-l", api.url]) == 0
    assert "too late" not in capsys.readouterr().out


def test_no_server(folder: Path) -> None:
    assert run(["check", "graph.json", "-l", "http://127.0.0.1:9"]) == 4


def test_a_server_that_takes_it_for_a_submission(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of before there were dry runs."""
    asked: list[str] = []

    class Old(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b'{"id": "a-job", "status": "queued"}'
            self.send_response(201)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert run(["check", "graph.json", "-l", f"http://127.0.0.1:{server.server_port}"]) == 2
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/api/v2/jobs?dry_run=true", "/api/v2/jobs/a-job/cancel"]
    assert "a-job, which was cancelled" in capsys.readouterr().err
