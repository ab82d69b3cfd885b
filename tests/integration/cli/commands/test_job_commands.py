"""The job commands against a real API server: run, upload, beginnings of ids, several ids, filters of the list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cli.remote.client
import cli.remote.job_ids
from cli.main import run
from core.records.requirements import Requirements
from tests.integration.api_fixtures import INSTANCE, Api, running_api, settings_for
from tests.makers import GRAPH
from workflows.templates.template_files import SIDECAR_SUFFIX

TILE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{PICTURE}}"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "{{NAME}}"}},
}
SIDECAR = {"parameters": {"picture": {"type": "image"}, "name": {"type": "string", "default": "tile"}}}


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    templates = tmp_path_factory.mktemp("templates")
    (templates / "tile.json").write_text(json.dumps(TILE))
    (templates / f"tile{SIDECAR_SUFFIX}").write_text(json.dumps(SIDECAR))
    with running_api(settings_for(tmp_path_factory.mktemp("api"), workflows_dir=templates)) as api:
        api.worker.come_up()
        yield api


@pytest.fixture
def api(shared_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server that the commands find, and a working directory with a picture and a graph."""
    monkeypatch.setenv("COMFY_BASE_URL", shared_api.url)
    monkeypatch.setattr(cli.remote.client, "POLL_S", 0.05)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "photo.png")
    return shared_api


def graph_of(api: Api, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(api.ledger.jobs.graph(job_id))
    return found


def answered(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_run_uploads_the_picture_and_fills_the_template(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "tile", "-p", "picture=photo.png", "-p", "name=mine", "--no-wait", "--json"]) == 0

    out, err = capsys.readouterr()
    job = json.loads(out)
    assert "Uploaded photo.png" in err
    assert job["template"] == "tile"
    assert job["parameters"]["name"] == "mine"
    graph = graph_of(api, job["id"])
    assert graph["1"]["inputs"]["image"].startswith(job["id"]), "its own copy, staged for the job"


PLACED = ["--requires", "pool=big, vram_gb=24", "--start-within", "60", "--priority", "3"]


@pytest.mark.parametrize(
    "command",
    [
        ["submit", "graph.json", "--no-wait", "--json"],
        ["submit", "--workflow", "graph.json", "--output", "task.json", "--json"],
        ["submit", "--workflow", "tile", "-p", "picture=http://127.0.0.1:1/", "--output", "task.json", "--json"],
        ["run", "tile", "-p", "picture=photo.png", "--no-wait", "--json"],
    ],
)
def test_what_a_job_requires_goes_with_it(api: Api, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    if "picture=http://127.0.0.1:1/" in command:
        assert run(["upload", "photo.png"]) == 0
        command[command.index("picture=http://127.0.0.1:1/")] = f"picture={capsys.readouterr().out.strip()}"
    api.worker.come_up(pool="big")
    assert run([*command, *PLACED]) == 0
    job = api.ledger.jobs.get(answered(capsys)["id"])
    assert (job.priority, job.start_within_s) == (3, 60.0)
    assert job.requires == Requirements(pool="big", vram_gb=24.0)
    api.ledger.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("requires", "words"),
    [
        ("big", "it is NAME=VALUE,..., for instance pool=h100,vram_gb=24."),
        ("pool=big,pool=small", "pool is given twice."),
        ("vram_gb=much", "much is no number."),
        ("vram_gb=nan", "nan is no number."),
        ("vram_gb=inf", "inf is no number."),
        ("pool=nowhere", "No GPU of this fleet has pool nowhere."),
        ("vram=24", "it is called requires.vram_gb here"),
    ],
)
def test_what_is_wrong_with_it_is_said(api: Api, capsys: pytest.CaptureFixture[str], requires: str, words: str) -> None:
    assert run(["submit", "graph.json", "--no-wait", "--requires", requires]) == 2
    assert words in capsys.readouterr().err


def test_run_waits_and_saves(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"first", b"second")

    assert run(["status", job_id, "--wait", "--output", "there"]) == 0

    saved = sorted(path.relative_to(tmp_path) for path in (tmp_path / "there").rglob("*.*"))
    assert {path.parent for path in saved} == {Path("there") / job_id}, "under the whole id"
    assert {path.read_bytes() for path in saved} == {b"first", b"second"}


@pytest.mark.parametrize("arguments", [["nothing"], ["tile", "-p", "nothing=1"], ["graph.json"]])
def test_run_refuses_what_cannot_be_meant(api: Api, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", *arguments]) == 2
    assert capsys.readouterr().err.startswith("comfyline: ")


def test_run_of_a_file_says_what_to_use(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    run(["run", "graph.json"])
    assert "comfyline submit graph.json" in capsys.readouterr().err


def test_upload_prints_the_ids(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'b "q".png').write_bytes((tmp_path / "photo.png").read_bytes())
    assert run(["upload", "photo.png", 'b "q".png']) == 0

    ids = capsys.readouterr().out.split()
    assert len(ids) == 2
    for asset_id in ids:
        asset = api.get(f"/api/v2/assets/{asset_id}").json()
        assert asset["size_bytes"] == (tmp_path / "photo.png").stat().st_size
    names = [api.get(f"/api/v2/assets/{asset_id}").json()["file_path"] for asset_id in ids]
    assert names[0] == "photo.png"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_file_that_is_refused_keeps_no_other_from_its_turn(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in (("a.bin", 9), ("b.bin", 5000), ("c.bin", 7)):
        (tmp_path / name).write_bytes(b"x" * size)
    monkeypatch.chdir(tmp_path)
    with running_api(settings_for(tmp_path / "api", max_upload_bytes=2000)) as api:
        monkeypatch.setenv("COMFY_BASE_URL", api.url)
        assert run(["upload", "a.bin", "b.bin", "c.bin", *(["--json"] if as_json else [])]) == 2

        out, err = capsys.readouterr()
        ids = [asset["id"] for asset in json.loads(out)] if as_json else out.split()
        assert [api.get(f"/api/v2/assets/{asset_id}").json()["size_bytes"] for asset_id in ids] == [9, 7]
        assert "comfyline: b.bin: " in err


def test_submit_uploads_the_files_that_loaders_name_once_each(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "graphs"
    folder.mkdir()
    (tmp_path / "photo.png").rename(folder / "photo.png")
    (folder / "notes.txt").write_text("private")
    load: dict[str, Any] = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}
    text: dict[str, Any] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "photo.png"}}
    graph = {"1": load, "2": load, "3": text, "4": {**text, "inputs": {**text["inputs"], "images": ["2", 0]}}}
    (folder / "mine.json").write_text(json.dumps(graph))

    assert run(["submit", "graphs/mine.json", "--no-wait", "--json"]) == 0

    out, err = capsys.readouterr()
    assert err.count("Uploaded") == 1
    found = graph_of(api, json.loads(out)["id"])
    assert found["1"]["inputs"]["image"] == found["2"]["inputs"]["image"] != "photo.png"
    assert found["3"]["inputs"]["filename_prefix"] == "photo.png", "a text is no file"


@pytest.mark.parametrize(
    "name", ["loop.png", "~nobody-of-that-name/photo.png", "folder.png", "x" * 300 + ".png", "\0.png"]
)
def test_a_name_that_leads_to_no_file_is_left_to_the_server(
    api: Api, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("loop.png").symlink_to("loop.png")
    Path("folder.png").mkdir()
    Path("mine.json").write_text(json.dumps({**GRAPH, "9": {"class_type": "LoadImage", "inputs": {"image": name}}}))
    assert run(["submit", "mine.json", "--no-wait"]) in (0, 2)
    assert "Uploaded" not in "".join(capsys.readouterr())


def test_a_file_behind_a_link_has_the_name_in_the_graph(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo.png").rename("4f1c")
    Path("photo.png").symlink_to("4f1c")
    graph = {**GRAPH, "9": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    Path("mine.json").write_text(json.dumps(graph))
    assert run(["submit", "mine.json", "--no-wait", "--json"]) == 0
    assert graph_of(api, answered(capsys)["id"])["9"]["inputs"]["image"].endswith("photo.png")


def test_nothing_is_uploaded_when_told_so(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    graph = {**GRAPH, "9": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    Path("mine.json").write_text(json.dumps(graph))
    run(["submit", "mine.json", "--no-wait", "--no-upload"])
    assert "Uploaded" not in "".join(capsys.readouterr())


def test_a_beginning_of_an_id_will_do(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = api.submit()
    for command in (["status"], ["cancel"], ["watch"], ["delete"]):
        run([*command, job_id[:9], "--json"])
        answer = answered(capsys)
        assert job_id in (answer.get("id"), answer.get("deleted"))


def test_the_beginning_of_a_task_and_of_a_path(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"first")
    (output,) = api.get(f"/result/{job_id}").json()["output"]

    assert run(["query", "--task_id", job_id[:8], "--output", "task.json", "--json"]) == 0
    assert answered(capsys)["task_id"] == job_id
    assert run(["download", "--path", output["local_path"].replace(job_id, job_id[:13])]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == b"first"


def test_a_beginning_must_be_long_enough_and_of_one_job(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [api.submit() for _ in range(17)]
    # Of 17 ids two begin with the same digit.
    digit = next(job_id[0] for job_id in ids if sum(other[0] == job_id[0] for other in ids) > 1)

    assert run(["cancel", digit]) == 2
    assert "too short" in capsys.readouterr().err
    # However long it is: by chance no two ids would share four characters.
    monkeypatch.setattr(cli.remote.job_ids, "MIN_CHARS", 1)
    assert run(["cancel", digit]) == 2
    assert f"{digit} begins several ids" in capsys.readouterr().err
    statuses = [api.get(f"/api/v2/jobs/{job_id}").json()["status"] for job_id in ids]
    assert set(statuses) == {"queued"}


def test_several_ids_at_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = api.submit(), api.submit()
    missing = "00000000-0000-4000-8000-000000000000"

    assert run(["cancel", one, missing, other]) == 2

    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [[one, "canceled"], [other, "canceled"]]
    assert missing in err
    assert run(["delete", one, other, "--json"]) == 0
    assert answered(capsys) == [{"deleted": one}, {"deleted": other}]


def test_the_list_is_filtered_and_says_that_there_is_more(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [api.submit(metadata={"run": "list", "number": str(number)}) for number in range(3)]

    assert run(["list", "--label", "run=list", "--since", "1h", "--limit", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert {job["id"] for job in json.loads(out)} == set(ids[1:])
    assert "There are more" in err
    assert run(["list", "--label", "run=list", "--label", "number=0", "--limit", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.split("\t")[0] == ids[0]
    assert err == ""
    assert run(["list", "--label", "run=list", "--until", "1h"]) == 0
    assert run(["list", "--label", "run=list", "--since", "0s"]) == 0
    assert run(["list", "--template", "nothing"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "option",
    [["--since", "yesterday"], ["--until", "2026-02-30"], ["--label", "=a"], ["--label", "a=1", "--label", "a=2"]],
)
def test_filters_that_make_no_sense(api: Api, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", *option]) == 2
    assert capsys.readouterr().err.startswith("comfyline: ")


def test_without_a_gpu_it_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    monkeypatch.setattr(cli.remote.client, "GIVE_UP_AFTER_S", 0.0)
    with running_api(settings_for(tmp_path / "api")) as api:
        monkeypatch.setenv("COMFY_BASE_URL", api.url)
        assert run(["submit", str(tmp_path / "graph.json")]) == 4
    err = capsys.readouterr().err
    assert "no GPU that is ready" in err
    assert "comfyline gpus" in err


@pytest.mark.parametrize("state", ["drained", "starting", "quarantined", "lost", "unhealthy", "disk_full"])
def test_without_a_ready_gpu_nothing_is_queued_to_be_waited_for(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    with running_api(settings_for(tmp_path / "api")) as api:
        monkeypatch.setenv("COMFY_BASE_URL", api.url)
        api.worker.come_up()
        api.ledger.instances.heartbeat(
            INSTANCE, worker="w", state=state, reason="So it is.", is_drained=state == "drained", restarts=0
        )
        for command in (["submit", str(tmp_path / "graph.json")], ["run", "text2image", "-p", "prompt=a lighthouse"]):
            assert run(command) == 4
            err = capsys.readouterr().err
            assert f"no GPU that is ready: {INSTANCE} is {state}; comfyline gpus says why" in err
            assert "--no-wait" in err
        assert api.get("/api/v2/jobs").json()["jobs"] == []

        assert run(["submit", str(tmp_path / "graph.json"), "--no-wait", "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["status"] == "queued"
        assert f"{INSTANCE} is {state}" in err
