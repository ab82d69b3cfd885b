"""The client's commands against a scripted server: what they send, print, save, and exit with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from blake3 import blake3

import cli.remote.client
import cli.remote.download
import cli.remote.task_client
from cli.main import run
from comfy.process.spec import REPOSITORY_ROOT

GRAPH = {"9": {"class_type": "SaveImage", "inputs": {}}}
PICTURE = b"\x89PNG not really"

Reply = tuple[int, dict[str, str], bytes]


def _json(value: object, status: int = 200, **headers: str) -> Reply:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


def _error(status: int, code: str, message: str, details: object = None, **headers: str) -> Reply:
    return _json({"error": {"code": code, "message": message, "details": details}}, status, **headers)


def _job(status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    output = {"node_id": "9", "name": "demo_1.png", "id": "asset-1", "content_type": "image/png", "url": "http://x/1"}
    outputs = [output] if status == "succeeded" else []
    return {"id": "job-12345678", "status": status, "created_at": "2026-01-01T00:00:00Z", "outputs": outputs, **fields}


def _stream(*events: tuple[str, dict[str, Any]]) -> Reply:
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return 200, {"Content-Type": "text/event-stream"}, body.encode()


class Script:
    """A server that answers `METHOD /path` from lists; the last entry of a list is given again and again."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.base_url = ""

    def on(self, what: str, *replies: Reply) -> None:
        self.replies[what] = list(replies)

    def answer(self, what: str, headers: dict[str, str], body: bytes) -> Reply:
        # Whether there is a GPU may be asked before what matters, any number of times.
        if what != "GET /api/v2/gpus":
            self.requests.append((what, headers, body))
        replies = self.replies.get(what.partition("?")[0], [_error(404, "not_found", "No such thing.")])
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def asked(self, what: str) -> int:
        return sum(request[0] == what for request in self.requests)


def _handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer_headers, answer = script.answer(f"{self.command} {self.path}", headers, body)
            self.send_response(status)
            for name, value in answer_headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Script]:
    """A server that accepts a job which succeeds at once, and is the one that commands talk to."""
    script = Script()
    script.on("POST /api/v2/jobs", _json(_job("queued", queue_position=1), 201))
    script.on("GET /api/v2/jobs/job-12345678", _json(_job()))
    script.on("GET /api/v2/jobs/job-12345678/events", _stream(("status", {"status": "succeeded"})))
    script.on("GET /api/v2/assets/asset-1/content", (200, {"Content-Type": "image/png"}, PICTURE))
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(script)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        script.base_url = f"http://127.0.0.1:{http.server_address[1]}"
        monkeypatch.setenv("COMFY_BASE_URL", script.base_url)
        monkeypatch.setattr(cli.remote.client, "POLL_S", 0.05)
        monkeypatch.setattr(cli.remote.download, "PAUSE_S", 0.02)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
        yield script
        http.shutdown()
        thread.join()


def test_submit_shows_progress_saves_the_picture_and_exits_0(
    server: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = {"value": 0.5, "current_node": "3", "current_node_class": "KSampler", "step": 9, "steps": 20}
    running, succeeded = ({"status": status} for status in ("running", "succeeded"))
    stream = _stream(("status", running), ("progress", progress), ("status", succeeded))
    server.on("GET /api/v2/jobs/job-12345678/events", stream)
    assert run(["submit", "graph.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Job job-12345678",
        "running",
        " 50%  KSampler (node 3), step 9/20",
        "succeeded",
        "Saved comfyline-output/job-12345678/demo_1.png",
    ]
    assert (tmp_path / "comfyline-output" / "job-12345678" / "demo_1.png").read_bytes() == PICTURE
    assert json.loads(server.requests[0][2]) == {"workflow": GRAPH}


def test_json_stands_alone_on_stdout(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "graph.json", "--json", "--output", "there"]) == 0
    out, err = capsys.readouterr()
    job = json.loads(out)
    assert job["status"] == "succeeded"
    assert job["saved"] == ["there/job-12345678/demo_1.png"]
    assert "Saved there/job-12345678/demo_1.png" in err


@pytest.mark.parametrize(
    "gpus",
    [
        _error(404, "not_found", "No such thing."),
        (200, {}, b"ok"),
        _json([]),
        _json({"gpus": {"a": 1}}),
        _json({"gpus": [7]}),
        _json({"gpus": []}, 503),
        _json({"gpus": [{"name": "a", "state": "lost"}, {"name": "b", "state": "healthy"}]}, 503),
    ],
)
def test_a_server_that_names_no_gpu_that_is_not_ready_is_just_asked(server: Script, gpus: Reply) -> None:
    server.on("GET /api/v2/gpus", gpus)
    assert run(["submit", "graph.json"]) == 0


def test_no_wait_returns_when_queued(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "graph.json", "--no-wait"]) == 0
    assert capsys.readouterr().out == "job-12345678  queued\n"
    assert len(server.requests) == 1


def test_a_failed_job_exits_1_and_says_where_and_why(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"code": "node_execution_error", "message": "no \x1b[2Jluck", "node_id": "3", "class_type": "KSampler"}
    server.on("GET /api/v2/jobs/job-12345678", _json(_job("failed", error={**error, "traceback": "File x.py, line 1"})))
    assert run(["submit", "graph.json"]) == 1
    out = capsys.readouterr().out
    assert "node_execution_error in KSampler (node 3): no �[2Jluck" in out
    assert "File x.py, line 1" in out


def test_a_canceled_job_exits_3(server: Script) -> None:
    server.on("GET /api/v2/jobs/job-12345678", _json(_job("canceled")))
    assert run(["submit", "graph.json"]) == 3


def test_a_refused_graph_exits_2_with_the_nodes(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    errors = {"3": {"class_type": "KSampler", "errors": [{"message": "Value too big", "details": "steps"}]}}
    refusal = _error(422, "invalid_workflow", "The graph cannot run.", {"node_errors": errors})
    server.on("POST /api/v2/jobs", refusal)
    assert run(["submit", "graph.json", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "invalid_workflow"
    assert "node 3 KSampler: Value too big steps" in err
    assert err.splitlines()[-1] == "comfyline: The graph cannot run."


def test_no_server_exits_4_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, server: Script
) -> None:
    assert run(["list", "--server", "http://127.0.0.1:1"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("comfyline: http://127.0.0.1:1 does not answer (Connection refused)")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("reply", [(200, {}, b"<html>"), _json([1]), _json({"id": 7}), _error(500, "internal", "oh")])
def test_a_server_that_makes_no_sense_exits_4(server: Script, reply: Reply, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("POST /api/v2/jobs", reply)
    assert run(["submit", "graph.json"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_streams_it_polls(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GET /api/v2/jobs/job-12345678/events", _error(501, "not_implemented", "No streams here."))
    running = _job("running", progress={"value": 0.25, "current_node": "3"})
    server.on("GET /api/v2/jobs/job-12345678", _json(_job("queued")), _json(running), _json(_job()))
    assert run(["submit", "graph.json"]) == 0
    assert [line[:7] for line in capsys.readouterr().out.splitlines()[1:-1]] == [
        "queued",
        " 25%  n",
        "running",
        "succeed",
    ]
    assert server.asked("GET /api/v2/jobs/job-12345678/events") == 1


def test_a_stream_that_breaks_off_is_taken_up_again(server: Script) -> None:
    broken = _stream(("status", {"status": "running"}))
    server.on("GET /api/v2/jobs/job-12345678/events", broken, _stream(("status", {"status": "succeeded"})))
    server.on("GET /api/v2/jobs/job-12345678", _json(_job("running")), _json(_job()))
    assert run(["submit", "graph.json"]) == 0
    assert server.asked("GET /api/v2/jobs/job-12345678/events") == 2


def test_a_server_that_restarts_while_a_job_runs_is_borne_with(server: Script) -> None:
    server.on("GET /api/v2/jobs/job-12345678/events", _error(503, "ledger_unavailable", "Not now."))
    away = _error(503, "ledger_unavailable", "Not now.")
    server.on("GET /api/v2/jobs/job-12345678", away, away, _json(_job()))
    assert run(["submit", "graph.json"]) == 0


def test_a_full_queue_is_asked_again_with_the_same_key(server: Script) -> None:
    full = _error(429, "queue_full", "No room.", **{"Retry-After": "1"})
    server.on("POST /api/v2/jobs", full, _json(_job("queued"), 201))
    assert run(["submit", "graph.json", "--no-wait"]) == 0
    keys = [headers["idempotency-key"] for _, headers, _ in server.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_server_without_a_ready_gpu_is_not_asked_again(server: Script) -> None:
    not_ready = _error(429, "deployment_not_ready", "No GPU.", **{"Retry-After": "1"})
    server.on("POST /api/v2/jobs", not_ready, _json(_job("queued"), 201))
    assert run(["submit", "graph.json", "--no-wait"]) == 4


def test_a_queue_that_stays_full_exits_2(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.remote.client, "GIVE_UP_AFTER_S", 0.5)
    server.on("POST /api/v2/jobs", _error(429, "queue_full", "No room.", **{"Retry-After": "1"}))
    assert run(["submit", "graph.json"]) == 2


def test_the_key_goes_out_as_bearer_and_is_never_shown(
    server: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_API_KEY", "very-secret")
    server.on("GET /api/v2/jobs", _error(401, "unauthorized", "Wrong key."))
    assert run(["list"]) == 2
    assert server.requests[0][1]["authorization"] == "Bearer very-secret"
    out, err = capsys.readouterr()
    assert "COMFY_API_KEY" in err
    assert "very-secret" not in out + err


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "..\\evil.png", ".evil.png"])
def test_a_file_name_cannot_leave_the_folder(server: Script, tmp_path: Path, name: str) -> None:
    job = _job()
    job["outputs"][0]["name"] = name
    server.on("GET /api/v2/jobs/job-12345678", _json(job))
    assert run(["submit", "graph.json"]) == 0
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*evil*")]
    assert written == [Path("comfyline-output/job-12345678/evil.png")]


def test_a_download_that_breaks_off_leaves_no_file(
    server: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GET /api/v2/assets/asset-1/content", (200, {"Content-Length": "1000"}, PICTURE))
    assert run(["status", "job-12345678", "--output", "out"]) == 4
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


HASH = f"blake3:{blake3(PICTURE).hexdigest()}"
ETAG = f'"{HASH}"'


def _asked_for(server: Script) -> list[tuple[str | None, str | None]]:
    """Range and If-Range of each request for the file."""
    asked = [headers for what, headers, _ in server.requests if what == "GET /api/v2/assets/asset-1/content"]
    return [(headers.get("range"), headers.get("if-range")) for headers in asked]


def test_a_download_that_breaks_off_goes_on_where_it_was(server: Script, tmp_path: Path) -> None:
    job = _job()
    job["outputs"][0]["hash"] = HASH
    size = len(PICTURE)
    server.on("GET /api/v2/jobs/job-12345678", _json(job))
    server.on(
        "GET /api/v2/assets/asset-1/content",
        (200, {"Content-Length": str(size), "ETag": ETAG}, PICTURE[:5]),
        _error(503, "ledger_unavailable", "Away."),
        (206, {"Content-Length": str(size - 5), "Content-Range": f"bytes 5-{size - 1}/{size}", "ETag": ETAG}, b"ot"),
        (206, {"Content-Length": str(size - 7), "Content-Range": f"bytes 7-{size - 1}/{size}", "ETag": ETAG}, b""),
        # Another server may not honour what was asked for.
        (206, {"Content-Length": str(size - 6), "Content-Range": f"bytes 6-{size - 1}/{size}", "ETag": ETAG}, b""),
        (200, {"Content-Length": str(size), "ETag": ETAG}, PICTURE),
    )

    assert run(["status", "job-12345678", "--output", "out"]) == 0

    assert (tmp_path / "out" / "job-12345678" / "demo_1.png").read_bytes() == PICTURE
    assert _asked_for(server) == [
        (None, None),
        ("bytes=5-", ETAG),
        ("bytes=5-", ETAG),
        ("bytes=7-", ETAG),
        ("bytes=7-", ETAG),
        (None, None),
    ]


def test_a_file_that_is_another_by_now_is_fetched_anew(server: Script, tmp_path: Path) -> None:
    server.on(
        "GET /api/v2/assets/asset-1/content",
        (200, {"Content-Length": "1000", "ETag": '"old"'}, b"x" * 500),
        (200, {"Content-Length": str(len(PICTURE)), "ETag": ETAG}, PICTURE),
    )
    assert run(["status", "job-12345678", "--output", "out"]) == 0
    assert (tmp_path / "out" / "job-12345678" / "demo_1.png").read_bytes() == PICTURE


@pytest.mark.parametrize("names_it", ["output", "etag"])
def test_a_damaged_download_leaves_no_file(
    server: Script, tmp_path: Path, names_it: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _job()
    if names_it == "output":
        job["outputs"][0]["hash"] = HASH
    server.on("GET /api/v2/jobs/job-12345678", _json(job))
    headers = {"Content-Length": str(len(PICTURE))} | ({"ETag": ETAG} if names_it == "etag" else {})
    server.on("GET /api/v2/assets/asset-1/content", (200, headers, PICTURE[::-1]))
    assert run(["status", "job-12345678", "--output", "out"]) == 4
    assert "damaged" in capsys.readouterr().err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_status_tells_everything(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    progress = {"value": 0.5, "current_node": "3", "nodes_done": 2, "nodes_total": 7}
    server.on("GET /api/v2/jobs/job-12345678", _json(_job("running", progress=progress)))
    assert run(["status", "job-12345678"]) == 0
    out = capsys.readouterr().out
    assert "job-12345678  running" in out
    assert "50%  node (node 3), 2 of 7 nodes done" in out


def test_status_of_an_unknown_job_exits_2(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "../secrets?x=1"]) == 2
    assert server.requests[0][0] == "GET /api/v2/jobs/..%2Fsecrets%3Fx%3D1"
    assert capsys.readouterr().err == "comfyline: No such thing.\n"


@pytest.mark.parametrize(
    ("status", "words"),
    [("canceled", "job-12345678  canceled\n"), ("succeeded", "job-12345678 has ended already: succeeded\n")],
)
def test_cancel_says_what_came_of_it(
    server: Script, status: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("POST /api/v2/jobs/job-12345678/cancel", _json(_job(status)))
    assert run(["cancel", "job-12345678"]) == 0
    assert capsys.readouterr().out == words


def test_delete_says_what_it_did_or_why_not(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = "DELETE /api/v2/jobs/job-12345678"
    server.on(path, (204, {}, b""))
    assert run(["delete", "job-12345678"]) == 0
    assert capsys.readouterr().out == "job-12345678  deleted\n"

    server.on(path, _error(409, "job_not_ended", "The job is running: cancel it."))
    assert run(["delete", "job-12345678"]) == 2
    assert "The job is running" in capsys.readouterr().err


def test_list_is_tab_separated_off_a_terminal(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GET /api/v2/jobs", _json({"jobs": [_job(), _job("queued", template="tile")]}))
    assert run(["list", "--status", "queued,succeeded", "--limit", "2"]) == 0
    assert server.requests[0][0] == "GET /api/v2/jobs?status=queued%2Csucceeded&limit=2"
    assert capsys.readouterr().out.splitlines() == [
        "job-12345678\tsucceeded\t2026-01-01T00:00:00Z\t100%\t1\t-\t-\t-",
        "job-12345678\tqueued\t2026-01-01T00:00:00Z\t-\t0\ttile\t-\t-",
    ]


def test_a_proxy_is_not_asked_for_this_machine(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.on("GET /api/v2/jobs", _json({"jobs": []}))
    assert run(["list"]) == 0


def test_ctrl_c_lets_go_of_the_job_and_says_how_to_come_back(server: Script, tmp_path: Path) -> None:
    server.on("GET /api/v2/jobs/job-12345678", _json(_job("running")))
    server.on("GET /api/v2/jobs/job-12345678/events", _stream(("status", {"status": "running"})))
    command = [sys.executable, "-m", "cli.main", "submit", str(tmp_path / "graph.json")]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY_ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["Job job-12345678\n", "running\n"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "comfyline status job-12345678" in out
    assert "Traceback" not in err
    assert server.asked("POST /api/v2/jobs/job-12345678/cancel") == 0


def test_a_full_queue_is_asked_again_for_a_task(server: Script, capsys: pytest.CaptureFixture[str]) -> None:
    full = _error(503, "queue_full", "No room.", **{"Retry-After": "1"})
    server.on("POST /custom_workflow", full, _json({"id": "task-1", "status": "pending"}, 202))
    assert run(["submit", "--workflow", "graph.json", "--output", "task.json"]) == 0
    assert capsys.readouterr().out == "task-1\n"


def test_a_task_that_may_be_recorded_is_not_sent_again(server: Script, tmp_path: Path) -> None:
    server.on("POST /custom_workflow", _error(503, "ledger_unavailable", "Not now.", **{"Retry-After": "1"}))
    assert run(["submit", "--workflow", "graph.json", "--output", "task.json"]) == 4
    assert server.asked("POST /custom_workflow") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]


def test_a_server_that_restarts_while_a_task_is_waited_for_is_borne_with(
    server: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.remote.task_client, "POLL_S", 0.05)
    task = {"id": "task-1", "status": "completed", "output": [{"local_path": "task-1/a.png"}]}
    away = _error(503, "ledger_unavailable", "Not now.")
    server.on("GET /task/task-1", _json(task | {"status": "generating"}), away, away, _json(task))
    server.on("GET /download/task-1/a.png", (200, {}, PICTURE))
    assert run(["download-all", "--task_id", "task-1", "--wait"]) == 0
    assert capsys.readouterr().out == "downloads/a.png\n"


def test_a_task_file_that_breaks_off_leaves_nothing(server: Script, tmp_path: Path) -> None:
    server.on("GET /download/task-1/a.png", (200, {"Content-Length": "1000"}, PICTURE))
    assert run(["download", "--path", "task-1/a.png"]) == 4
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("name", ["..\\evil.png", ".evil.png", "%2e%2e%2fevil.png"])
def test_a_task_file_cannot_leave_the_folder(server: Script, tmp_path: Path, name: str) -> None:
    server.on(f"GET /download/task-1/{quote(name)}", (200, {}, PICTURE))
    assert run(["download-from-json", "--json", json.dumps({"file_paths": [f"task-1/{name}"]})]) == 0
    (written,) = tmp_path.rglob("*evil*")
    assert written.parent == tmp_path / "downloads"
    assert not written.name.startswith(".")


@pytest.mark.parametrize("reply", [_json([1]), _json({"id": 7}), (200, {}, b"<html>"), _error(500, "internal", "oh")])
def test_a_task_that_makes_no_sense_exits_4(server: Script, tmp_path: Path, reply: Reply) -> None:
    server.on("GET /task/task-1", reply)
    assert run(["query", "--task_id", "task-1", "--output", "query.json"]) == 4
    assert not (tmp_path / "query.json").exists()
