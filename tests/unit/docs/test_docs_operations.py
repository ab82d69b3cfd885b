"""What the documents tell operators to set and to run does what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from comfy.process.discovery import GpuSurvey
from core.settings import load_settings
from core.settings.neighbours import is_loopback
from tasks.instance.plan import plan_instances
from tests.paths import ROOT

README, OPERATIONS, HOSTS = (ROOT / name for name in ("README.md", "docs/operations.md", "docs/hosts.md"))


def section(document: Path, heading: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^##+ {heading}\n(.*?)(?=^##+ |\Z)", document.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, heading
    return found[1]


def variables(text: str) -> dict[str, str]:
    """What the blocks for a shell, or for an environment file, set."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = (shlex.split(line, comments=True) for line in blocks.splitlines())
    return dict(word.split("=", 1) for line in lines for word in line if re.match(r"COMFYLINE_\w+=", word))


def test_files_that_the_readmes_commands_send_come_along() -> None:
    named = re.findall(r"(?:=@|--user_img )(\S+)", README.read_text(encoding="utf-8"))

    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_a_gpu_host_is_told_to_share_what_the_fleet_shares() -> None:
    of_fleet = variables(section(README, "More machines"))
    of_host = variables(section(OPERATIONS, "Setting up"))

    # What only the API's own machine needs.
    wanted = of_fleet.keys() - {"COMFYLINE_API_HOST", "COMFYLINE_API_KEYS"}
    assert "COMFYLINE_STORAGE_DIR" in wanted
    assert wanted <= of_host.keys()


def test_more_machines_reach_the_api_and_need_a_key() -> None:
    found = variables(section(README, "More machines"))

    assert not is_loopback(found.get("COMFYLINE_API_HOST", "127.0.0.1"))
    assert "COMFYLINE_API_KEYS" in found


def test_instances_without_a_gpu_are_those_that_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = section(OPERATIONS, "Without a GPU, and previews")
    (tmp_path / "main.py").touch()
    for name, value in variables(text).items():
        monkeypatch.setenv(name, value)

    plan = plan_instances(load_settings(data_dir=tmp_path, comfyui_dir=tmp_path), survey=GpuSurvey)

    assert [(spec.name, spec.extra_args) for spec in plan] == [("gpu0", ("--cpu",)), ("gpu1", ("--cpu",))]
    assert 'COMFYLINE_COMFYUI_ARGS="--preview-method auto"' in text


def test_each_thing_that_doctor_looks_at_is_told_and_nothing_else() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cli" / "doctor").glob("*.py"))
    looked_at = {name.partition(" ")[0] if "{" in name else name for name in re.findall(r'subject=f?"(.+?)"', sources)}
    told = re.search(r"^\| subject \|.*?\n\n", HOSTS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert told is not None

    cells = re.findall(r"^\| ([^|]+) \|", told[0], re.MULTILINE)[2:]

    assert {name for cell in cells for name in cell.split(", ")} == looked_at
