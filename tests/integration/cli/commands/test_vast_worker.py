"""`comfyline vast-worker` as a process, between a stand-in for the platform and a Comfyline server."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.api_fixtures import INSTANCE, Api, running_api, settings_for
from tests.makers import GRAPH
from tests.paths import ROOT
from tests.ports import free_port
from tests.waiting import until

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TOKEN = "secret-master-token"
API_KEY = "the-key"
BODY = {"input": {"workflow_json": GRAPH}, "expected_time": 23.0}


class Platform(http.server.ThreadingHTTPServer):
    """Serves the public key, and keeps what is reported."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.reports: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.is_away = False


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Platform

    def do_GET(self) -> None:
        public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._answer(200 if self.path == "/pubkey/" else 404, public)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.is_away:
            self._answer(503)
            return
        {"/worker_status/": self.server.reports, "/delete_requests/": self.server.ended}[self.path].append(body)
        self._answer(200)

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


def signed(url: str, number: int, **fields: Any) -> dict[str, Any]:
    """What the platform's router says of a request to a worker."""
    said = {"cost": "200", "endpoint": "e", "reqnum": number, "request_idx": 100 + number, "url": url, **fields}
    text = json.dumps(said, indent=4, sort_keys=True)
    signature = KEY.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return {**said, "signature": base64.b64encode(signature).decode()}


class Worker:
    """The process, and what a client of the platform does with it."""

    def __init__(
        self, api: Api, gpu: Gpu, platform: Platform, url: str, process: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.api = api
        self.gpu = gpu
        self.platform = platform
        self.url = url
        self.process = process
        self._log = log
        self._number = 0

    def auth_data(self, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return signed(self.url, self._number, **fields)

    def post(self, auth_data: dict[str, Any] | None = None, path: str = "/generate/sync", **kwargs: Any) -> Any:
        body = {"auth_data": auth_data or self.auth_data(), "payload": BODY}
        return requests.post(self.url + path, json=body, timeout=kwargs.pop("timeout", 20), **kwargs)

    def last(self) -> dict[str, Any]:
        return self.platform.reports[-1]

    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that has measured itself, with a GPU that does one job after the other, each in some 50 ms."""
    (tmp_path / "api").mkdir()
    (tmp_path / "benchmark.json").write_text(json.dumps(BODY))
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(running_api(settings_for(tmp_path / "api", api_keys=(API_KEY,))))
        api.session.headers["Authorization"] = f"Bearer {API_KEY}"
        api.worker.come_up()
        gpu = Gpu(api)
        stack.callback(gpu.close)
        platform = stack.enter_context(_platform())
        command = ("--benchmark", str(tmp_path / "benchmark.json"), "--max-wait", "2")
        process, url = _start(stack, tmp_path, api.url, platform, *command)
        found = Worker(api, gpu, platform, url, process, tmp_path / "worker.log")
        until(lambda: any(report["max_perf"] for report in platform.reports), what="a report with what it can do")
        yield found


@contextlib.contextmanager
def _platform() -> Iterator[Platform]:
    platform = Platform()
    threading.Thread(target=platform.serve_forever, daemon=True).start()
    try:
        yield platform
    finally:
        platform.shutdown()
        platform.server_close()


def _start(
    stack: contextlib.ExitStack, folder: Path, api_url: str, platform: Platform, *command: str
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a worker; returns its process, and where it is reached."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMFYLINE_")}
    environment |= {
        "COMFYLINE_DATA_DIR": str(folder / "worker"),
        "COMFY_BASE_URL": api_url,
        "COMFY_API_KEY": API_KEY,
        "CONTAINER_ID": "17",
        "MASTER_TOKEN": TOKEN,
        "REPORT_ADDR": platform.url,
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": str(port),
        f"VAST_TCP_PORT_{port}": str(port),
    }
    with (folder / "worker.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "vast-worker", *command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )
    stack.callback(_end, process)
    return process, f"http://127.0.0.1:{port}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0


class Gpu:
    """Does every job that waits, until it is told to rest."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def rest(self) -> None:
        """Be out of order, as its worker says."""
        self.close()
        self._api.ledger.instances.down(INSTANCE, worker="w", state="unhealthy", reason="x")

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self._api.worker.beat()
            claim = self._api.ledger.claims.claim(INSTANCE)
            if claim is not None:
                time.sleep(0.05)
                self._api.worker.finish(claim, b"picture")


def test_it_measures_itself_and_reports(worker: Worker) -> None:
    report = worker.last()
    # A job of 200 units takes more than 50 ms.
    assert 0 < report["max_perf"] < 4_000
    assert report["loadtime"] > 0
    assert (report["id"], report["mtoken"], report["url"]) == (17, TOKEN, worker.url)
    assert report["error_msg"] == ""
    assert requests.get(f"{worker.url}/ping", timeout=5).text == "pong"
    assert TOKEN not in worker.log()


def test_a_signed_request_is_run_and_accounted_for(worker: Worker) -> None:
    auth_data = worker.auth_data()
    answer = worker.post(auth_data)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed"

    until(lambda: worker.platform.ended, what="the end of the request")
    assert worker.platform.ended[0] == {
        "worker_id": 17, "mtoken": TOKEN, "request_idxs": [auth_data["request_idx"]], "success": True,
    }  # fmt: skip
    until(lambda: sum(each["cur_perf"] for each in worker.platform.reports) == pytest.approx(200.0), what="its work")
    assert sum(each["new_load"] for each in worker.platform.reports) == pytest.approx(200.0)

    again = worker.post(auth_data)
    assert again.status_code == 401, "it was let in before"


def test_what_is_not_the_platforms_is_refused(worker: Worker) -> None:
    before = worker.api.get("/queue-info").json()
    forged = {**worker.auth_data(), "cost": "0"}
    assert worker.post(forged).status_code == 401
    assert worker.post({"signature": "x"}).status_code == 422
    assert requests.post(f"{worker.url}/generate/sync", json={"payload": BODY}, timeout=5).status_code == 422
    assert requests.post(f"{worker.url}/generate/sync", data=b"{", timeout=5).status_code == 422
    # Nothing else of the server is to be had through it.
    assert worker.post(path="/api/v2/gpus").status_code == 404
    assert requests.get(f"{worker.url}/api/v2/gpus", timeout=5).status_code in (404, 405)
    assert worker.api.get("/queue-info").json() == before


def test_a_request_that_would_wait_too_long_is_refused(worker: Worker) -> None:
    worker.gpu.rest()
    # Its work is counted as long as it is under way; two seconds of it may wait.
    body = {"auth_data": worker.auth_data(), "payload": {**BODY, "expected_time": 100_000.0}}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(requests.post, f"{worker.url}/generate/sync", json=body, timeout=30)
        until(lambda: worker.last()["num_requests_working"] == 1, what="the first one under way")
        assert worker.post().status_code == 429
        until(lambda: sum(each["rej_load"] for each in worker.platform.reports), what="a report of the refusal")
        until(lambda: worker.last()["error_msg"] == "The server has no healthy GPU.", what="what is wrong")
        worker.api.worker.come_up()
        worker.api.worker.run_next(b"picture")
        assert first.result().status_code == 200


def test_a_client_that_hangs_up_cancels_its_job(worker: Worker) -> None:
    worker.gpu.rest()
    with pytest.raises(requests.RequestException):
        worker.post(timeout=1.0)

    def last_status() -> bool:
        [job, *_] = worker.api.get("/api/v2/jobs?limit=1").json()["jobs"]
        return bool(job["status"] == "canceled")

    until(last_status, what="the job's end")
    until(lambda: worker.last()["num_requests_working"] == 0, what="nothing under way")


class _CutOff(http.server.BaseHTTPRequestHandler):
    """A server that is lost while it answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = json.dumps({"instances": [{"state": "healthy"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nhello\r\n")
        self.close_connection = True

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


def test_an_answer_that_is_cut_off_does_not_look_whole(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _CutOff)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        platform = stack.enter_context(_platform())
        process, url = _start(
            stack, tmp_path, f"http://127.0.0.1:{server.server_address[1]}", platform, "--max-perf", "100"
        )
        until(lambda: any(report["max_perf"] for report in platform.reports), what="a worker that serves")
        body = {"auth_data": signed(url, 1), "payload": BODY}

        with pytest.raises(requests.RequestException):
            requests.post(f"{url}/generate/sync", json=body, timeout=20)

        until(lambda: platform.ended, what="the end of the request")
        assert platform.ended[0]["success"] is False
        assert requests.get(f"{url}/ping", timeout=5).text == "pong"
        assert process.poll() is None


def test_a_body_that_is_nested_too_deeply_is_no_json(worker: Worker) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert requests.post(f"{worker.url}/generate/sync", data=deep, timeout=20).status_code == 422


def test_reports_go_on_when_the_platform_is_back(worker: Worker) -> None:
    worker.platform.is_away = True
    assert worker.post().status_code == 200
    time.sleep(1.5)
    assert worker.platform.ended == []
    worker.platform.is_away = False
    until(lambda: worker.platform.ended, what="what was not told")
