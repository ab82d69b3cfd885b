"""The programs of `docs/recipes.md`, each run as it stands there: in Python and in Node.js, against a whole fleet."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from blake3 import blake3

from tests.bucket_fleet import BUCKET, bucket_settings
from tests.fleet import Fleet, work
from tests.foreign_clients import npm_packages
from tests.integration.api.comfy_v2.test_assets import png
from tests.paths import ROOT
from tests.ports import free_port
from tests.s3_server import S3Server
from tests.services import missing
from tests.waiting import PATIENCE, until

#: A fleet starts within the time of its first test.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "recipes-key"
HASHES = "@noble/hashes@2.0.1"
SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
#: Each program by the name in its first line.
PROGRAMS = {
    name: text for text, name in re.findall(r"^```(?:python|js)\n((?:#|//) (\w+\.\w+)\n.*?)^```$", TEXT, re.M | re.S)
}
LANGUAGES = ("py", "mjs")
LIMIT_S = 90.0


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Fleet]:
    settings = {"api_keys": KEY, "api_processes": "1", "allow_networks": "loopback", **bucket_settings(s3.url)}
    with Fleet(tmp_path_factory.mktemp("fleet"), **settings) as fleet:
        fleet.key = KEY
        fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1, timeout_s=120)
        yield fleet


def command_of(name: str, folder: Path, *arguments: str) -> list[str]:
    """Write a program into a folder; returns the command that runs it."""
    if name.endswith(".mjs") and shutil.which("node") is None:
        missing("Node.js is not there")
    (folder / name).write_text(PROGRAMS[name], encoding="utf-8")
    return ["node" if name.endswith(".mjs") else sys.executable, name, *arguments]


def environment(fleet: Fleet, **more: str) -> dict[str, str]:
    clean = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "default"}
    return clean | {"COMFY_BASE_URL": fleet.base_url, "COMFY_API_KEY": KEY} | more


def run(fleet: Fleet, folder: Path, name: str, *arguments: str, **more: str) -> str:
    """Run a program to its end; returns what it printed."""
    done = subprocess.run(
        command_of(name, folder, *arguments),
        cwd=folder,
        env=environment(fleet, **more),
        capture_output=True,
        text=True,
        timeout=LIMIT_S * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{fleet.log('api')[-2000:]}"
    return done.stdout


@contextmanager
def running(fleet: Fleet, folder: Path, name: str, *arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that goes on; what it prints is in `out`, next to it."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            command_of(name, folder, *arguments), cwd=folder, env=environment(fleet, **more), stdout=out, stderr=err
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def printed(folder: Path, name: str = "out") -> str:
    return (folder / name).read_text(encoding="utf-8")


def asked(fleet: Fleet, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = requests.request(method, fleet.base_url + path, json=body, headers=fleet.headers, timeout=30)
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_recipe_is_there_in_both_languages() -> None:
    assert len(PROGRAMS) == len(re.findall(r"^```(?:python|js)$", TEXT, re.MULTILINE))
    names = {name.partition(".")[0] for name in PROGRAMS}
    assert names == {"batch", "submit", "follow", "receiver", "tell", "upload", "cancel"}
    assert {f"{name}.{ending}" for name in names for ending in LANGUAGES} - set(PROGRAMS) == {"tell.mjs"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_batch_becomes_one_zip(fleet: Fleet, tmp_path: Path, language: str) -> None:
    told = run(fleet, tmp_path, f"batch.{language}")

    assert "100" in told
    assert json.loads(told.splitlines()[-1].replace("'", '"'))["succeeded"] == 4
    with zipfile.ZipFile(tmp_path / "lighthouses.zip") as archive:
        assert archive.testzip() is None
        assert sum(name.endswith(".png") for name in archive.namelist()) == 4
    batch = asked(fleet, "GET", "/api/v2/batches?label=lighthouses&limit=1")["batches"][0]
    assert (batch["priority"], batch["max_running"]) == (5, 2)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_limit_is_waited_out(fleet: Fleet, tmp_path: Path, language: str) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    asked(fleet, "POST", "/api/v2/tenants", {"name": tenant, "max_waiting": 1})
    key = asked(fleet, "POST", "/api/v2/keys", {"tenant": tenant, "name": "x", "scopes": ["submit", "read"]})["secret"]
    blocking = fleet.submit(work(60, seed=1), priority=9)
    fleet.wait(blocking, "running")
    answer = requests.post(
        f"{fleet.base_url}/api/v2/jobs", json={"workflow": work(0.1)}, headers={"X-API-Key": key}, timeout=30
    )
    assert answer.ok, answer.text

    with running(fleet, tmp_path, f"submit.{language}", COMFY_API_KEY=key) as process:
        until(lambda: "429" in printed(tmp_path, "err"), what="a refusal")
        fleet.cancel(blocking)
        assert process.wait(LIMIT_S * PATIENCE) == 0, printed(tmp_path, "err")
    fleet.wait(printed(tmp_path).strip(), "succeeded", timeout_s=60)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_stream_goes_on_after_the_api_died(fleet: Fleet, tmp_path: Path, language: str) -> None:
    # Longer than any program takes to begin.
    job_id = fleet.submit(work(110, seed=2))

    with running(fleet, tmp_path, f"follow.{language}", job_id) as process:
        until(lambda: "status running" in printed(tmp_path), what="a job that runs")
        fleet.kill("api")
        until(lambda: "Dropped" in printed(tmp_path, "err"), what="a connection that dropped")
        fleet.start("api").ready(gpus=1, timeout_s=120)
        fleet.cancel(job_id)
        assert process.wait(LIMIT_S * PATIENCE) == 0, printed(tmp_path, "err")
    assert printed(tmp_path).splitlines()[-1] == "status canceled"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_webhook_is_believed_when_it_is_signed(fleet: Fleet, tmp_path: Path, language: str) -> None:
    port = free_port()
    hook = f"http://127.0.0.1:{port}/hook"
    name = f"receiver.{language}"
    with running(fleet, tmp_path, name, WEBHOOK_SECRET=SECRET, PORT=str(port)):

        def is_up() -> bool:
            try:
                return requests.post(hook, data=b"{}", timeout=5).status_code == 401
            except requests.ConnectionError:
                return False

        until(is_up, what="a receiver that refuses what is not signed")
        forged = {"webhook-id": "x", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA"}
        assert requests.post(hook, data=b"{}", headers=forged, timeout=5).status_code == 401
        job_id = run(fleet, tmp_path, "tell.py", WEBHOOK_SECRET=SECRET, WEBHOOK_URL=hook).strip()
        until(lambda: job_id in printed(tmp_path), timeout_s=60, what="the webhook")
    assert printed(tmp_path).splitlines()[-1] == f"job.completed {job_id} succeeded"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("extra_bytes", [0, 70 * 1024 * 1024], ids=["whole", "in parts"])
def test_a_file_goes_straight_into_the_bucket(fleet: Fleet, tmp_path: Path, language: str, extra_bytes: int) -> None:
    content = png(secrets.randbelow(250)) + secrets.token_bytes(1000) + bytes(extra_bytes)
    if language == "mjs":
        (tmp_path / "node_modules").symlink_to(npm_packages(HASHES) / "node_modules")
    (tmp_path / "room.png").write_bytes(content)

    asset_id = run(fleet, tmp_path, f"upload.{language}", "room.png").strip()
    asset = asked(fleet, "GET", f"/api/v2/assets/{asset_id}")
    assert (asset["size_bytes"], asset["hash"]) == (len(content), f"blake3:{blake3(content).hexdigest()}")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_job_is_canceled(fleet: Fleet, tmp_path: Path, language: str) -> None:
    job_id = fleet.submit(work(60, seed=3))

    assert run(fleet, tmp_path, f"cancel.{language}", job_id).strip() in ("canceling", "canceled")
    assert fleet.wait(job_id, "canceled")
