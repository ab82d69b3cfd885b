"""The official SDK for JavaScript, unmodified, in Node.js."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign_clients import npm_packages
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.simulator_process import simulator

PACKAGE = "@comfyorg/sdk@0.1.9"
SCRIPT = Path(__file__).parents[2] / "data/javascript/official_sdk.mjs"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=("js-key",))) as running:
        running.worker.come_up(object_info=nodes)
        yield running


def test_jobs_events_and_models(api: Api) -> None:
    folder = npm_packages(PACKAGE)
    script = folder / SCRIPT.name
    shutil.copy(SCRIPT, script)
    (folder / "graph.json").write_text(json.dumps(GRAPH))
    environment = {"PATH": os.environ["PATH"], "COMFY_API_KEY": "js-key"}
    environment |= {"COMFY_BASE_URL": api.url, "COMFY_ROUTER_BASE_URL": api.url}
    node = subprocess.Popen(
        ["node", script, folder / "graph.json"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = threading.Thread(target=lambda: [api.worker.run_next(b"pixels", timeout_s=60) for _ in range(2)])
    worker.start()
    told, complaints = node.communicate(timeout=120)
    worker.join()

    assert node.returncode == 0, complaints
    seen = json.loads(told)
    assert {"outputReady", "statusChange"} <= set(seen["kinds"])
    assert (seen["status"], seen["bytes"]) == ("succeeded", len(b"pixels"))
    assert (seen["made"], seen["again"]) == ([1, True], True)
    assert [each[:2] for each in seen["refused"]] == [["invalid_input", 422], ["model_not_found", 404]]
    assert "steps" in seen["refused"][0][2]
