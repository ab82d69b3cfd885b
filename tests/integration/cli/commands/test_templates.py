"""`comfyline workflows` as it is run: a process of its own, on real files and against a real API server."""

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
from tests.integration.api_fixtures import ROOT, Api, running_api, settings_for
from workflows.templates.template_files import check_file

PLAIN: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "beach.png"}},
    "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0}},
    "3": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["2", 0], "blend_mode": "screen"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "a"}},
}
OPEN = {**PLAIN, "1": {"class_type": "LoadImage", "inputs": {"image": "{{PHOTO}}"}}}
RIGHT = {"title": "Postcard ☀", "parameters": {"photo": {"type": "image"}}}
WRONG = '{\n  "parameters": {\n    "photo": {"type": "image"},\n    "tint": {"type": "colour"}\n  }\n}\n'


def fleet(*arguments: object, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of `comfyline workflows ...`, run in the folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COMFYLINE_", "COMFY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "workflows", *map(str, arguments)],
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of templates: `postcard` is right, `broken` has a wrong sidecar, `plain` has none yet."""
    folder = tmp_path / "templates"
    folder.mkdir()
    for name, graph in {"postcard": OPEN, "broken": OPEN, "plain": PLAIN}.items():
        (folder / f"{name}.json").write_text(json.dumps(graph))
    (folder / "postcard.params.json").write_text(json.dumps(RIGHT))
    (folder / "broken.params.json").write_text(WRONG)
    return folder


@pytest.fixture
def api(tmp_path: Path, folder: Path) -> Iterator[Api]:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with running_api(settings_for(data_dir, workflows_dir=folder)) as api:
        yield api


def test_check_says_by_file_that_all_is_right(folder: Path) -> None:
    status, out, err = fleet("check", "postcard.json", "postcard.params.json", "plain.json", folder=folder)

    assert (status, err) == (0, "")
    assert out.splitlines() == ["postcard.json: right", "postcard.params.json: right", "plain.json: right"]


def test_check_says_what_is_wrong_once_and_by_line_and_exits_1(folder: Path) -> None:
    status, out, err = fleet("check", "broken.json", "broken.params.json", "postcard.json", folder=folder)

    lines = out.splitlines()
    assert (status, err) == (1, "")
    assert len(lines) == 2
    assert lines[0].startswith("broken.params.json:4: ")
    assert lines[1] == "postcard.json: right"


def test_check_prints_json(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert run(["workflows", "check", "broken.json", "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)
    assert problem.keys() == {"file", "line", "reason"}
    assert (problem["file"], problem["line"]) == ("broken.params.json", 4)
    assert "type" in problem["reason"]

    assert run(["workflows", "check", "postcard.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("arguments", [["nowhere.json"], ["."], []], ids=["missing", "folder", "nothing"])
def test_check_without_a_file_is_misuse(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(["workflows", "check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err


def test_import_prints_a_sidecar_in_any_locale(folder: Path) -> None:
    graph = {**PLAIN, "1": {"class_type": "LoadImage", "inputs": {"image": "海.png"}}}
    (folder / "plain.json").write_text(json.dumps(graph))
    status, out, err = fleet("import", "plain.json", folder=folder, PYTHONIOENCODING="ascii")

    assert (status, err) == (0, "")
    assert out.startswith('{\n  "title"')
    assert json.loads(out)["parameters"]["image"] == {"type": "image", "default": "海.png", "target": [["1", "image"]]}


def test_what_import_writes_is_right(folder: Path) -> None:
    target = folder / "plain.params.json"
    status, out, err = fleet("import", "plain.json", "--output", target, folder=folder)

    assert (status, out, err) == (0, f"Wrote {target}\n", "")
    assert {"width", "height", "image"} <= json.loads(target.read_text())["parameters"].keys()
    assert check_file(target) == []
    assert not list(folder.glob(".*"))


def test_import_replaces_a_file_only_with_force(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    target = folder / "plain.params.json"
    target.write_text("mine")
    command = ["workflows", "import", "plain.json", "--output", "plain.params.json"]
    assert run(command) == 2
    assert capsys.readouterr().err == "comfyline: plain.params.json exists already; --force replaces it.\n"
    assert target.read_text() == "mine"
    assert run([*command, "--force"]) == 0
    assert "width" in json.loads(target.read_text())["parameters"]


def test_import_does_not_write_over_the_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert run(["workflows", "import", "plain.json", "--output", "plain.json", "--force"]) == 2
    assert json.loads((folder / "plain.json").read_text()) == PLAIN


def test_import_says_which_placeholder_it_leaves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(["workflows", "import", "postcard.json"]) == 0
    out, err = capsys.readouterr()
    assert "width" in json.loads(out)["parameters"]
    assert "{{PHOTO}} has no parameter in the sidecar" in err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"1": ', "graph.json is not a workflow: "),
        ("[1, 2]", "The workflow must be an object"),
        ('{"nodes": [], "links": []}', "This is the editor's save format."),
        ('{"1": {"inputs": {}}}', "class_type"),
    ],
)
def test_import_of_what_is_no_exported_graph_is_misuse(folder: Path, text: str, reason: str) -> None:
    (folder / "graph.json").write_text(text)
    status, out, err = fleet("import", "graph.json", "--output", "graph.params.json", folder=folder)

    assert (status, out) == (2, "")
    assert err.startswith("comfyline: ")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert not (folder / "graph.params.json").exists()


def test_list_prints_names_and_titles_and_problems_on_stderr(folder: Path, api: Api) -> None:
    status, out, err = fleet("list", "-l", api.url, folder=folder)

    rows = dict(line.split("\t") for line in out.splitlines())
    assert status == 0
    assert rows["postcard"] == "Postcard ☀"
    assert rows["text2image"] == "Picture from text"
    assert "broken" not in rows
    assert err.startswith("comfyline: broken.params.json:4: ")


def test_list_prints_json(folder: Path, api: Api) -> None:
    status, out, _ = fleet("list", "--json", folder=folder, COMFY_BASE_URL=api.url)

    assert status == 0
    assert json.loads(out) == api.get("/workflows").json()["workflows"]


def test_show_prints_the_schema_of_the_parameters(folder: Path, api: Api) -> None:
    status, out, err = fleet("show", "postcard", "--server", api.url, folder=folder)

    assert (status, err) == (0, "")
    assert json.loads(out) == api.get("/workflows/postcard").json()["parameters"]
    assert json.loads(out)["required"] == ["photo"]


def test_show_of_an_unknown_template_exits_2_and_names_those_there_are(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["workflows", "show", "no/such thing", "-l", api.url]) == 2
    assert run(["workflows", "show", "nonesuch", "-l", api.url]) == 2
    assert "postcard" in capsys.readouterr().err.splitlines()[-1]


def test_no_server_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workflows", "list", "-l", "http://127.0.0.1:1"]) == 4
    assert capsys.readouterr().err.startswith("comfyline: http://127.0.0.1:1 does not answer (Connection refused)")


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (["show", "a"], {}),
        (["show", "a"], {"parameters": "none"}),
        (["list"], {"workflows": []}),
        (["list"], {"workflows": ["a"], "problems": []}),
        (["list"], {"workflows": [], "problems": [{"file": "a.json"}]}),
    ],
)
def test_a_server_of_another_kind_exits_4(
    command: list[str], body: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("COMFY_API_KEY", "open-sesame")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        status = run(["workflows", *command, "-l", f"http://127.0.0.1:{http.server_address[1]}"])
        http.shutdown()
        thread.join()
    assert status == 4
    assert "is it a Comfyline server?" in capsys.readouterr().err
    assert keys == ["Bearer open-sesame"]
