"""A ComfyUI checkout of one small `main.py` that starts fast and misbehaves on request, for tests of supervision."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import requests

from comfy.liveness.procfs import ProcessIdentity
from comfy.process.instance import InstanceSpec

MAIN = """
import argparse, ctypes, http.server, json, os, signal, subprocess, sys, time, uuid

options = argparse.ArgumentParser()
options.add_argument("--listen")
options.add_argument("--port", type=int)
options.add_argument("--output-directory")
options.add_argument("--starts")                            # append the time of this start to a file
options.add_argument("--crash", action="store_true")        # say something and exit 3
options.add_argument("--silent", action="store_true")       # live, but never listen
options.add_argument("--deaf", action="store_true")         # ignore SIGTERM
options.add_argument("--outlive", action="store_true")      # refuse to die with the parent
options.add_argument("--child", action="store_true")        # start a process in a session of its own
options.add_argument("--squatter")                          # the first start loses its port to another program
options = options.parse_known_args()[0]

state = {"boot": uuid.uuid4().hex, "pid": os.getpid(), "argv": sys.argv, "cwd": os.getcwd()}
state["environ"] = dict(os.environ)
answers = {"/prompt": {"exec_info": {"queue_remaining": 0}}, "/whoami": state}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/close":                           # the process lives, and listens no more
            self.server.socket.close()
        body = json.dumps(answers.get(self.path, {})).encode()
        self.send_response(200 if self.path in answers else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

if options.starts:
    with open(options.starts, "a") as starts:
        starts.write(f"{time.time()}\\n")
if options.crash:
    print("CUDA error: device-side assert triggered")
    sys.exit(3)
if options.outlive:
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
if options.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.child:
    state["child"] = subprocess.Popen(["sleep", "60"], start_new_session=True).pid
if options.silent:
    print("Loading a very large model")
    time.sleep(300)
if options.squatter and not os.path.exists(options.squatter):
    command = [sys.executable, __file__, "--port", str(options.port)]
    stranger = subprocess.Popen(command, env={}, start_new_session=True, stdout=subprocess.DEVNULL)
    with open(options.squatter, "w") as note:
        note.write(str(stranger.pid))
    time.sleep(0.7)   # meanwhile the stranger answers on the port that was meant for this process
http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
"""


def make_spec(
    directory: Path, *extra_args: str, kind: Literal["comfyui", "attached"] = "comfyui", **fields: Any
) -> InstanceSpec:
    """A spec whose checkout and data directory lie in `directory`."""
    checkout = directory / "ComfyUI"
    checkout.mkdir(exist_ok=True)
    (checkout / "main.py").write_text(MAIN)
    values: dict[str, Any] = {
        "name": "gpu0",
        "gpu": None,
        "data_dir": directory / "gpu0",
        "comfyui_dir": checkout,
        "comfyui_python": Path(sys.executable),
        "start_timeout_s": 20.0,
    }
    return InstanceSpec(kind=kind, extra_args=extra_args, **{**values, **fields})


def whoami(base_url: str | None) -> dict[str, Any]:
    """The fake's own account: boot (new at each start), pid, argv, cwd, environ, child (pid)."""
    answer: dict[str, Any] = requests.get(f"{base_url}/whoami", timeout=5).json()
    return answer


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that only waits to be noticed."""
    process = ProcessIdentity.of(pid)
    return process is not None and process.is_alive()


def kill(pid: int) -> None:
    """SIGKILL one process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def load_pid_file(data_dir: Path) -> dict[str, Any]:
    """What the worker noted about the running instance."""
    record: dict[str, Any] = json.loads((data_dir / "instance.pid").read_text())
    return record
