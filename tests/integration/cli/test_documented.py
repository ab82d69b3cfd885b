"""The documented command lines, typed into a real shell, against a fleet with a simulated GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.fleet import ROOT, Fleet

pytestmark = pytest.mark.slow

OPEN = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": "{{WIDTH}}", "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "{{PREFIX}}_{{ROOM}}"}},
}
#: The global flags of the documented lines; a server without keys ignores the key.
COMMAND = 'comfyline -k "your-api-key" -e "comfyui-test"'
ID_OF = (
    "jq -r .id"
    if shutil.which("jq")
    else f"{sys.executable} -c 'import json, sys; print(json.load(open(sys.argv[1]))[\"id\"])'"
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "1", "simulator_args": "--simulate-speed 0"}
    with Fleet(tmp_path_factory.mktemp("documented"), **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "io")


class Shell:
    """A shell in a folder, with `fleet` on its path."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self._folder = folder
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("COMFYLINE_", "COMFY_"))}
        programs = folder / "programs"
        programs.mkdir()
        (programs / "comfyline").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli.main "$@"\n')
        (programs / "comfyline").chmod(0o755)
        self._env |= {"PATH": f"{programs}:{self._env['PATH']}", "PYTHONPATH": str(ROOT), "COMFY_BASE_URL": base_url}

    def __call__(self, script: str) -> subprocess.CompletedProcess[str]:
        # Whatever the shell has started ends with it when it takes too long.
        command = ["timeout", "50", "bash", "-euc", script]
        done = subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def shell(fleet: Fleet, tmp_path: Path) -> Shell:
    Image.new("RGB", (96, 64), (150, 120, 90)).save(tmp_path / "input.jpg")
    (tmp_path / "open.json").write_text(json.dumps(OPEN))
    fleet.ready(gpus=1)
    return Shell(tmp_path, fleet.base_url)


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


def test_the_complete_example(shell: Shell, tmp_path: Path) -> None:
    done = shell(f"""
        {COMMAND} submit \\
          --workflow "workers/comfyui/misc/interior_design_v0.03_linux.json" \\
          --user_img "input.jpg" \\
          --style 0 \\
          --room living_room \\
          --prefix "LIVING_ROOM" \\
          --output task_info.json
        TASK_ID=$({ID_OF} task_info.json)
        {COMMAND} query --task_id "$TASK_ID" --output status.json
        {COMMAND} download-all --task_id "$TASK_ID" --output "results"
    """)

    assert done.returncode == 0, done.stderr
    task_id = json.loads((tmp_path / "task_info.json").read_text())["id"]
    assert done.stdout.startswith(f"{task_id}\n{task_id}  ")
    assert json.loads((tmp_path / "status.json").read_text())["id"] == task_id
    (picture,) = (tmp_path / "results").iterdir()
    assert picture.name.startswith("LIVING_ROOM")
    assert done.stdout.splitlines()[-1] == f"results/{picture.name}"
    assert size_of(picture) == (768, 512)


def test_query_pipes_into_download(shell: Shell, tmp_path: Path) -> None:
    done = shell(f"""
        set -o pipefail
        TASK_ID=$({COMMAND} submit --workflow open.json --room office --prefix P -p width=32 --output task.json)
        {COMMAND} watch "$TASK_ID" >&2
        for _ in 1 2; do
          {COMMAND} query --task_id "$TASK_ID" --output query_result.json --json | {COMMAND} download-from-json
        done
        PATH_OF_IT=$({COMMAND} query --task_id "$TASK_ID" --output /dev/null | sed -n 's/^  file  *//p')
        {COMMAND} download --path "$PATH_OF_IT"
    """)

    assert done.returncode == 0, done.stderr
    names = ["P_office_00001_.png", "P_office_00001_ (2).png", "P_office_00001_ (3).png"]
    assert done.stdout.splitlines() == [f"downloads/{name}" for name in names]
    assert {size_of(tmp_path / "downloads" / name) for name in names} == {(32, 64)}
    assert json.loads((tmp_path / "query_result.json").read_text())["status"] == "completed"
    assert Path("/dev/null").is_char_device()


def test_a_pipe_whose_query_fails_fails(shell: Shell, tmp_path: Path) -> None:
    done = shell(f"{COMMAND} query --task_id nothing --output q.json --json | {COMMAND} download-from-json")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Request ID not found" in done.stderr
    assert not (tmp_path / "q.json").exists()
