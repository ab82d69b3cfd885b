"""Every command of `/docs`, copied into a shell: each does what its route is for."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from api.schema.model_bodies import ENTRY_EXAMPLE
from core.clock import now_ms
from core.ledger.webhooks.outbox import TryResult
from tests.integration.api_fixtures import INSTANCE, Api, running_api, settings_for
from tests.makers import GRAPH
from tests.simulator_process import simulator

pytestmark = pytest.mark.slow

KEY = "docs-key"
PICTURE = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00"
    b"\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\x00\x05\x00\x01\xff\x89\x99=\x1d\x00\x00\x00\x00IEND\xaeB`\x82"
)
#: Routes that wait for their job's end.
WAITING = ("/generate/sync", "/generate/stream", "/prompt", "/v2/models/{provider}/{model}")
RUN = "/v2/models/{provider}/{model}/requests/{request_id}"
#: What a command of these answers here, and should.
OTHERWISE = {
    # It exists to say so.
    "GET /download": 400,
    # The hash in its body is nobody's.
    "POST /api/v2/assets/from-hash": 404,
    # Its storage is no bucket.
    "POST /api/v2/assets/uploads": 422,
    "POST /api/v2/assets/uploads/{upload_id}/finish": 422,
    "GET /api/v2/assets/uploads/{upload_id}": 404,
    # The fleet has no key, the job no error, and no broker runs.
    "GET /webhooks/public-key": 404,
    "GET /api/v2/jobs/{job_id}/error": 404,
    "GET /ready": 503,
    # No websocket, no file that is named, and no rollout yet.
    "GET /comfyui/ws": 400,
    "GET /comfyui": 302,
    "GET /comfyui/view": 404,
    "GET /comfyui/userdata": 404,
    "GET /comfyui/{file}": 404,
    "GET /comfyui/userdata/{file}": 404,
    "POST /api/v2/rollouts": 422,
    "GET /api/v2/rollouts/{rollout_id}": 404,
    "POST /api/v2/rollouts/{rollout_id}/abort": 404,
    "POST /api/v2/rollouts/{rollout_id}/resume": 404,
    # The key in its body is nobody's, and no file of the console has that name.
    "POST /api/v2/session": 401,
    "GET /console/{file}": 404,
}
#: Streams that nobody ends but their reader, and what curl says when it does.
ENDLESS = {"GET /api/v2/events": 28}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("no curl or no bash")
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=(KEY,))) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        running.worker.come_up(object_info=nodes)
        yield running


def commands(api: Api) -> list[tuple[str, str]]:
    """`(GET /path, command)` of each route on the page."""
    document = api.get("/openapi.json").json()
    routes = [
        f"{method.upper()} {path}"
        for tag in document["tags"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    ]
    shown = re.findall(r'<div class="copy"><pre>(curl .*?)</pre>', api.get("/docs").text, re.DOTALL)
    assert len(shown) == len(routes)
    return list(zip(routes, map(html.unescape, shown), strict=True))


def values(api: Api, folder: Path) -> dict[str, str]:
    """What somebody sets who follows the page: an ended job with a webhook that was given up, and a file."""
    file = folder / "picture.png"
    file.write_bytes(PICTURE)
    job_id = api.submit(webhook={"url": "http://127.0.0.1:9/hook"})
    api.worker.run(job_id, b"x")
    (post,) = api.ledger.outbox.take([due.id for due in api.ledger.outbox.due(job_ids=[job_id])])
    api.ledger.outbox.record([(post, TryResult(at_ms=now_ms(), duration_ms=1, status_code=410, is_final=True))])
    form: dict[str, Any] = {"files": {"file": ("a.png", PICTURE)}, "data": {"file_path": "a.png"}}
    asset = api.post("/api/v2/assets", **form).json()
    batch = api.post("/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": [1]}}).json()["id"]
    # Else it would be the next that a worker runs.
    api.post(f"/api/v2/batches/{batch}/cancel")
    return {
        "COMFY_API_KEY": KEY,
        "JOB_ID": job_id,
        "BATCH_ID": batch,
        "ASSET_ID": asset["id"],
        "DIGEST": f"blake3:{blake3(PICTURE).hexdigest()}",
        "REQUEST_ID": job_id,
        "TASK_ID": job_id,
        "UPLOAD_ID": job_id,
        "DELIVERY_ID": post.id,
        "FILE": str(file),
        "FILE_PATH": str(api.ledger.jobs.get(job_id).outputs[0].storage_key),
        "NAME": INSTANCE,
        "KEY_ID": api.ledger.keys.create("default", name="x", scopes=("read",))[0].id,
        "TENANT": "default",
        "MODEL_PATH": ENTRY_EXAMPLE["path"],
        "TOKEN_NAME": "hub",
        "POOL": "-",
        "ROLLOUT_ID": job_id,
        "FOLDER": "checkpoints",
        "CLASS_TYPE": "EmptyImage",
        "FILE_NAME": "nothing.css",
        "PROVIDER": "fleet",
        "MODEL": "text2image",
    }


def test_every_command_does_what_its_route_is_for(api: Api, tmp_path: Path) -> None:
    failed = {}
    for route, command in commands(api):
        if "/comfyui" in route and not route.startswith("GET "):
            # What these take only their own clients know.
            continue
        variables = values(api, tmp_path)
        if "/comfyui" in route:
            variables["NAME"], variables["PROMPT_ID"] = "x", variables["JOB_ID"]
        if "/workflows/" in route:
            variables["NAME"] = "text2image"
        if RUN in route:
            variables["REQUEST_ID"] = api.post("/v2/models/fleet/text2image/requests", {"prompt": "x"}).json()[
                "request_id"
            ]
        if route == f"GET {RUN}":
            api.worker.run(variables["REQUEST_ID"], PICTURE)
        unset = set(re.findall(r"\$(\w+)", command.partition(" -H 'Content-Type")[0])) - set(variables)
        assert not unset, (route, unset)
        ender = threading.Thread(target=lambda: api.worker.run_next(PICTURE, timeout_s=30))
        if route.startswith("POST ") and route.partition(" ")[2] in WAITING:
            ender.start()
        limit = " -m 3" if route in ENDLESS else ""
        done = subprocess.run(
            ["bash", "-c", f"{command} -sS{limit} -o '{tmp_path}/answer' -w '%{{http_code}}'"],
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if ender.ident is not None:
            ender.join()
        wanted = str(OTHERWISE.get(route, 2))
        if done.returncode != ENDLESS.get(route, 0) or not done.stdout.startswith(wanted):
            answer = (tmp_path / "answer").read_bytes()[:300] if (tmp_path / "answer").exists() else b""
            failed[route] = (command, done.stdout, done.stderr, answer)
        for job in api.ledger.jobs.page(statuses=["queued"], limit=100):
            api.ledger.jobs.cancel(job.id)
    assert failed == {}
