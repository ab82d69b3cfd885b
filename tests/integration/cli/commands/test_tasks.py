"""The task commands against a real API server: what they send, print, write, and exit with."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cli.remote.task_client
from cli.main import run
from tests.integration.api_fixtures import ROOT, Api, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import until

OPEN = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": "{{SIZE}}", "height": 64, "batch_size": 1, "color": 0}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "{{PREFIX}}-{{STYLE}}-{{ROOM}}"},
    },
}


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    templates = tmp_path_factory.mktemp("templates")
    (templates / "swatch.json").write_text(json.dumps(OPEN))
    with running_api(settings_for(tmp_path_factory.mktemp("api"), workflows_dir=templates)) as api:
        api.worker.come_up()
        yield api


@pytest.fixture
def api(shared_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server that the commands find, and a working directory of the test's own."""
    monkeypatch.setenv("COMFY_BASE_URL", shared_api.url)
    monkeypatch.setattr(cli.remote.task_client, "POLL_S", 0.05)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    (tmp_path / "open.json").write_text(json.dumps({"input": {"handler": "RawWorkflow", "workflow_json": OPEN}}))
    return shared_api


@pytest.fixture
def done(api: Api) -> str:
    """A task that has made two files."""
    task_id = api.submit()
    api.worker.run(task_id, b"first", b"second")
    return task_id


def graph_of(api: Api, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(api.ledger.jobs.graph(task_id))
    return found


class TestSubmit:
    def test_a_file_is_filled_and_queued(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--style", "1", "--room", "office", "--prefix", 'a "b"', "-p", "size=128"]
        assert run(["submit", "--workflow", "open.json", *flags, "--output", "result.json"]) == 0

        out, err = capsys.readouterr()
        answer = json.loads(Path("result.json").read_text())
        assert out == answer["id"] + "\n"
        assert err == ""
        assert answer["status"] == "pending"
        graph = graph_of(api, answer["id"])
        assert graph["1"]["inputs"]["width"] == 128
        assert graph["2"]["inputs"]["filename_prefix"] == 'a "b"-style_jp1-office'
        assert sorted(path.name for path in Path().iterdir()) == ["graph.json", "open.json", "result.json"]

    @pytest.mark.parametrize("name", ["swatch", "workers/misc/swatch.json", "misc/swatch_v0.03_linux.json"])
    def test_a_workflow_of_the_server_is_found_by_its_name(
        self, api: Api, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ["--style", "any", "--room", "any", "--prefix", "x", "-p", "SIZE=32"]
        assert run(["submit", "--workflow", name, *flags, "--output", "result.json"]) == 0

        out, err = capsys.readouterr()
        assert err == (
            "" if name == "swatch" else f"There is no file {name} here: the server's workflow swatch is run.\n"
        )
        assert json.loads(Path("result.json").read_text())["id"] == out.strip()
        assert graph_of(api, out.strip())["2"]["inputs"]["filename_prefix"] == "x-any-any"

    @pytest.mark.parametrize("name", ["room.png", "~ Küche [input].png"])
    def test_an_image_of_this_machine_is_uploaded_first(
        self, api: Api, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Image.new("RGB", (8, 8)).save(name)
        load = {"class_type": "LoadImage", "inputs": {"image": "{{USER_IMG}}"}}
        save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}
        Path("photo.json").write_text(json.dumps({"1": load, "2": save}))
        assert run(["submit", "--workflow", "photo.json", "--user-img", name, "--output", "result.json"]) == 0
        out, err = capsys.readouterr()
        assert err == f"Uploaded {name}\n"
        assert graph_of(api, out.strip())["1"]["inputs"]["image"].endswith(".png")

    def test_a_flag_without_a_place_in_the_file_is_told_of(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["submit", "--workflow", "graph.json", "--style", "0", "--output", "result.json"]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1
        assert err == "--style is not used: {{STYLE}} stands nowhere in graph.json.\n"

    def test_json_is_the_answer_alone(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["submit", "--workflow", "graph.json", "--output", "result.json", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(Path("result.json").read_text())

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--workflow", "misc/nothing_v1.json"], "no file misc/nothing_v1.json, and the server has no workflow"),
            (["--workflow", "{" * 5000], "and the server has no workflow of that name"),
            (["--workflow", "graph.json", "--user_img", "no.jpg"], "--user_img no.jpg: there is no such file"),
            (["--workflow", "graph.json", "--style", "3"], "--style 3 is unknown; there are: style_eu1 (0)"),
            (["--workflow", "graph.json", "--room", "cellar"], "--room cellar is unknown; there are: living_room"),
            (["--workflow", "graph.json", "-p", "stepz=3"], "-p stepz: {{STEPZ}} stands nowhere"),
            (["--workflow", "open.json", "-p", "size"], "-p size: a parameter is NAME=VALUE"),
            (["--workflow", "open.json", "--room", "office", "-p", "room=x"], "room is given twice"),
            (["--workflow", "open.json", "--prefix", "x"], "size"),
            (["--workflow", "swatch", "-p", "color=3"], "color"),
            (["--workflow", "graph.json", "--wait"], "comfyline watch ID"),
            (["--workflow", "graph.json", "open.json"], "not both"),
            (["graph.json", "--style", "0"], "--style belongs to a task"),
            (["graph.json", "-p", "a=b"], "--parameter belongs to a task"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_nothing_is_queued(
        self, api: Api, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = api.ledger.jobs.count("queued")
        assert run(["submit", *arguments, "--output", "result.json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert api.ledger.jobs.count("queued") == before
        assert sorted(path.name for path in Path().iterdir()) == ["graph.json", "open.json"]

    @pytest.mark.parametrize(
        ("output", "words"),
        [
            ([], "A task needs --output RESULT.json"),
            (["--output", "."], "--output . is a folder"),
            (["--output", "x" * 300], "File name too long"),
        ],
    )
    def test_the_answer_needs_a_file(
        self, api: Api, output: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["submit", "--workflow", "graph.json", *output]) == 2
        assert words in capsys.readouterr().err

    def test_nothing_is_queued_whose_answer_cannot_be_kept(self, api: Api) -> None:
        before = api.ledger.jobs.count("queued")
        assert run(["submit", "--workflow", "graph.json", "--output", "graph.json/result.json"]) == 2
        assert api.ledger.jobs.count("queued") == before

    def test_a_refused_graph_is_explained(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        Path("bad.json").write_text(json.dumps({**GRAPH, "3": {"class_type": "SaveImage", "inputs": {}}}))
        assert run(["submit", "--workflow", "bad.json", "--output", "result.json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "node 3 SaveImage" in err
        assert not Path("result.json").exists()


class TestQuery:
    def test_the_answer_goes_to_the_file_and_a_summary_to_people(
        self, done: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["query", "--task_id", done, "--output", "query.json"]) == 0
        answer = json.loads(Path("query.json").read_text())
        assert answer.keys() == {"id", "message", "status", "output"}
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{done}  completed"
        assert [line.split()[1] for line in lines[2:]] == [output["local_path"] for output in answer["output"]]

    def test_json_stands_alone_on_stdout(self, done: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["query", "--task-id", done, "--output", "query.json", "--json"]) == 0
        out, err = capsys.readouterr()
        found = json.loads(out)
        assert err == ""
        assert list(found) == ["task_id", "status", "file_paths"]
        assert (found["task_id"], found["status"]) == (done, "completed")
        assert all(path.startswith(f"{done}/") for path in found["file_paths"])
        assert len(found["file_paths"]) == 2

    def test_the_outcome_is_the_exit_status(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        task_id = api.submit()
        assert run(["query", "--task_id", task_id, "--output", "query.json"]) == 0
        api.post(f"/cancel/{task_id}")
        assert run(["query", "--task_id", task_id, "--output", "query.json", "--json"]) == 1
        assert json.loads(Path("query.json").read_text())["status"] == "cancelled"

    def test_an_unknown_task_leaves_the_file_alone(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        Path("query.json").write_text("of yesterday")
        assert run(["query", "--task_id", "nothing", "--output", "query.json", "--json"]) == 2
        assert capsys.readouterr() == ("", "comfyline: Request ID not found\n")
        assert Path("query.json").read_text() == "of yesterday"

    def test_no_server(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["-l", "http://127.0.0.1:1", "query", "--task_id", "x", "--output", "query.json"]) == 4
        assert "http://127.0.0.1:1 does not answer" in capsys.readouterr().err

    def test_a_device_is_written_to_and_not_replaced(self, done: str, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
        reader.start()
        assert run(["query", "--task_id", done, "--output", str(pipe)]) == 0
        reader.join(10)
        assert json.loads(read[0])["id"] == done
        assert pipe.is_fifo()


class TestDownload:
    def path_of(self, api: Api, task_id: str, number: int = 0) -> str:
        return str(api.get(f"/task/{task_id}").json()["output"][number]["local_path"])

    def test_one_file_and_never_over_another(self, api: Api, done: str, capsys: pytest.CaptureFixture[str]) -> None:
        path = self.path_of(api, done)
        for _ in range(3):
            assert run(["download", "--path", path]) == 0
        names = ["a_00000_.png", "a_00000_ (2).png", "a_00000_ (3).png"]
        assert capsys.readouterr().out.splitlines() == [f"downloads/{name}" for name in names]
        assert sorted(path.name for path in Path("downloads").iterdir()) == sorted(names)
        assert {path.read_bytes() for path in Path("downloads").iterdir()} == {b"first"}

    @pytest.mark.parametrize("path", ["TASK/none.png", "TASK", "nothing/a.png"])
    def test_what_is_not_there_exits_2_and_leaves_nothing(
        self, done: str, path: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["download", "--path", path.replace("TASK", done)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("comfyline: ")
        assert list(Path("downloads").iterdir()) == []

    @pytest.mark.parametrize("path", ["../api/v2/jobs", "TASK/../../api/v2/jobs", "/etc/passwd", "TASK/", ""])
    def test_a_path_that_would_mean_something_else_is_not_asked_for(
        self, done: str, path: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["download", "--path", path.replace("TASK", done)]) == 2
        assert "is no path of a task's file" in capsys.readouterr().err
        assert not Path("downloads").exists()

    def test_all_files_of_a_task(self, done: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["download-all", "--task_id", done, "--output", "results"]) == 0
        assert capsys.readouterr().out.splitlines() == ["results/a_00000_.png", "results/a_00001_.png"]
        assert [Path(f"results/a_0000{n}_.png").read_bytes() for n in (0, 1)] == [b"first", b"second"]

    def test_a_task_that_has_not_ended_is_waited_for(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        task_id = api.submit()
        assert run(["download-all", "--task_id", task_id, "--no-wait"]) == 1
        assert f"Task {task_id} has not ended" in capsys.readouterr().err
        claim = api.worker.claim(task_id)
        worker = threading.Timer(0.3, api.worker.finish, (claim, b"late"))
        worker.start()
        assert run(["download-all", "--task_id", task_id]) == 0
        worker.join()
        out, err = capsys.readouterr()
        assert out == "downloads/a_00001_.png\n"
        # Between two questions a task may have come through a state, or not.
        assert [line for line in err.splitlines() if line != "generated"] == ["generating", "completed"]

    def test_a_task_that_failed_exits_1(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        task_id = api.submit()
        api.post(f"/cancel/{task_id}")
        assert run(["download-all", "--task_id", task_id]) == 1
        assert capsys.readouterr() == ("", f"comfyline: Task {task_id} is cancelled: Request was cancelled\n")


class TestDownloadFromJson:
    def test_a_file_that_is_gone_does_not_keep_the_others_away(
        self, api: Api, done: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [f"{done}/gone.png", *(output["local_path"] for output in api.get(f"/task/{done}").json()["output"])]
        assert run(["download-from-json", "--json", json.dumps({"file_paths": paths}), "--output", "there"]) == 1
        out, err = capsys.readouterr()
        assert out.splitlines() == ["there/a_00000_.png", "there/a_00001_.png"]
        assert "File not found" in err

    def test_a_task_without_files_yet_exits_1(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        text = json.dumps({"task_id": "t", "status": "pending", "file_paths": []})
        assert run(["download-from-json", "--json", text]) == 1
        assert capsys.readouterr() == ("", "comfyline: Task t has no files: pending.\n")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"file_paths": [1]}', '{"file_paths": "a/b"}'])
    def test_anything_else_on_stdin_exits_2(
        self, api: Api, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run(["download-from-json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("comfyline: What came in is not what comfyline query --json prints")


class TestWatch:
    def test_it_ends_with_the_job(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        shown = io.StringIO()
        monkeypatch.setattr(sys, "stdout", shown)
        job_id = api.submit()

        def run_what_is_shown() -> None:
            until(lambda: "queued" in shown.getvalue(), what="its first line")
            api.worker.run(job_id, b"x")

        worker = threading.Thread(target=run_what_is_shown)
        worker.start()
        assert run(["watch", job_id]) == 0
        worker.join()
        lines = shown.getvalue().splitlines()
        assert lines[0].startswith("queued")
        assert f"{job_id}  succeeded" in lines

    def test_the_outcome_is_the_exit_status_and_json_stands_alone(
        self, api: Api, capsys: pytest.CaptureFixture[str]
    ) -> None:
        job_id = api.submit()
        api.post(f"/cancel/{job_id}")
        assert run(["watch", job_id, "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["status"] == "canceled"
        assert run(["watch", "nothing"]) == 2


@pytest.mark.parametrize(
    "command", [["list", "--limit", "1000"], ["cancel", "JOB"], ["workflows", "list"], ["status", "JOB"]]
)
def test_json_is_all_that_other_commands_print(
    done: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.replace("JOB", done) for word in command] + ["--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert err == ""


def test_flags_before_the_command_win_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_API_KEY", "wrong")
    monkeypatch.setenv("COMFY_BASE_URL", "http://127.0.0.1:1")
    (tmp_path / "data").mkdir()
    with running_api(settings_for(tmp_path / "data", api_keys="right,other")) as api:
        flags = ["-l", api.url, "-e", "comfyui-test", "-i", "prod"]
        assert run([*flags, "-k", "right", "list", "--json"]) == 0
        assert capsys.readouterr() == ("[]\n", "")
        assert run([*flags, "list"]) == 2
        assert "--api-key" in capsys.readouterr().err
        assert run(["-k", "right", "list", "--server", api.url]) == 0


def test_a_download_has_a_bar_on_a_terminal(done: str) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "cli.main", "download-all", "--task_id", done]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    finished = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=slave, timeout=30, check=False)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert finished.returncode == 0
    assert "\x1b[" in shown
    assert "bytes" in shown
    assert finished.stdout == b"downloads/a_00000_.png\ndownloads/a_00001_.png\n"
