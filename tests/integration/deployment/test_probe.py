"""What says in a container whether it is well: comfyline-probe, run as the images run it."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.ports import free_port
from tests.waiting import until

#: A ComfyUI as far as the probe can tell.
COMFYUI = """
import http.server, sys
class Prompt(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/prompt" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Prompt).serve_forever()
"""


def probe(*arguments: str | Path | int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "deploy" / "docker" / "probe.py", *map(str, arguments)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


@contextmanager
def serving(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers with one status, its port, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("what", "status", "path", "expected"),
    [("api", 200, "/health", 0), ("api", 503, "/health", 1), ("flower", 401, "/healthcheck", 0),
     ("flower", 500, "/healthcheck", 1)],
)  # fmt: skip
def test_a_server_is_well_if_it_answers(what: str, status: int, path: str, expected: int) -> None:
    with serving(status) as (port, asked):
        found, words = probe(what, port)

    assert (found, asked) == (expected, [path])
    assert bool(words) == bool(expected)


def test_a_server_that_is_not_there_is_told() -> None:
    port = free_port()

    status, words = probe("api", port)

    assert status == 1
    assert words.startswith(f"comfyline-probe: port {port} does not answer /health: ")


def test_it_says_what_it_can_be_asked() -> None:
    assert probe()[0] == probe("io")[0] == 1
    assert "api [PORT], flower [PORT], gpu [DATA DIR]" in probe("io")[1]


@contextmanager
def comfyui(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers as ComfyUI does, noted in the folder of its GPU as the worker notes it."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", COMFYUI, "--port", str(port)], stderr=subprocess.DEVNULL)
    (folder / "instance.pid").write_text(json.dumps({"process": {"pid": process.pid}}))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A GPU worker, as far as its lock tells."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "worker.lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def test_gpus_are_well_when_each_comfyui_of_a_running_worker_answers(tmp_path: Path) -> None:
    first, second, old = (tmp_path / "gpus" / name for name in ("gpu0", "gpu1", "gpu2"))
    old.mkdir(parents=True)
    # What a worker of before has left.
    (old / "worker.lock").touch()
    assert probe("gpu", tmp_path) == (1, f"comfyline-probe: no GPU worker runs on {tmp_path}/gpus\n")

    with held(first), held(second), comfyui(first):
        until(lambda: "gpu0" not in probe("gpu", tmp_path)[1], what="the first ComfyUI")
        assert probe("gpu", tmp_path) == (1, "comfyline-probe: gpu1 has no ComfyUI that runs\n")
        with comfyui(second) as process:
            until(lambda: probe("gpu", tmp_path) == (0, ""), what="the second one")
            process.kill()
            process.wait()
            assert probe("gpu", tmp_path)[0] == 1


def test_it_takes_no_lock_while_it_looks(tmp_path: Path) -> None:
    folder = tmp_path / "gpus" / "gpu0"
    with held(folder):
        assert probe("gpu", tmp_path)[0] == 1
        # Were it taken and given back, the holder's would be gone, for both would be one process's.
        assert "no ComfyUI that runs" in probe("gpu", tmp_path)[1]
