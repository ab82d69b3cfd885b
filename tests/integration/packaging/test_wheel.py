"""What `pipx install` gets: a wheel with every module and data file, and a command `fleet` that runs from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from comfy.process.spec import REPOSITORY_ROOT
from tests.services import missing

pytestmark = pytest.mark.slow

PACKAGES = ("api", "cli", "comfy", "core", "tasks", "workflows")


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: setuptools takes what an earlier build left in the folder."""
    folder = tmp_path_factory.mktemp("wheel")
    tools = pip("download", "--no-deps", "--dest", folder / "tools", "setuptools>=77")
    if tools.returncode:
        missing(f"no package index gives the build its setuptools>=77: {tools.stderr.strip().rpartition(chr(10))[2]}")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY_ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(REPOSITORY_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = pip("wheel", "--no-deps", "--no-index", "--find-links", folder / "tools", "-w", folder / "out", source)
    assert built.returncode == 0, built.stderr
    (found,) = (folder / "out").glob("comfyline-*.whl")
    return found


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.partition("/")[0] in PACKAGES}
    source = wheel.parents[1] / "source"
    files = [path for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()]
    assert held == {str(path.relative_to(source)) for path in files}
    assert "workflows/library/interior_design.params.json" in held


def test_the_command_runs_from_it(wheel: Path, tmp_path: Path) -> None:
    # Without its dependencies, which this Python has already; what is under test comes from the folder.
    site = tmp_path / "site"
    assert pip("install", "--no-deps", "--no-index", "--target", site, wheel).returncode == 0
    env = {**os.environ, "PYTHONPATH": str(site)}

    def output(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert output(sys.executable, "-c", "import cli.main; print(cli.main.__file__)").startswith(str(site))
    assert output(str(site / "bin" / "comfyline"), "version").startswith("comfyline ")
    assert "--workflow" in output(str(site / "bin" / "comfyline"), "submit", "--help")
    names = "from workflows.templates.library import SHIPPED, Library; print(Library([SHIPPED]).names())"
    assert "interior_design" in output(sys.executable, "-c", names)
