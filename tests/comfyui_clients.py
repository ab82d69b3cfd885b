"""Clients of ComfyUI from PyPI, unmodified, in an environment of their own that has nothing of ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.services import missing

VARIABLE = "COMFYLINE_TEST_CLIENTS_PYTHON"
#: What is installed there.
REQUIREMENTS = "tests/data/comfyui_clients.txt"


def python() -> str:
    """Return the Python of that environment; skips where there is none."""
    found = os.environ.get(VARIABLE, "")
    if not found:
        missing(f"{VARIABLE} names no Python with the packages of {REQUIREMENTS}")
    return found


def run(home: Path, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run that Python, with a home of its own for what clients keep."""
    return subprocess.run(
        [python(), *arguments],
        cwd=home,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def editor_path(folder: Path) -> str:
    """Return what to add to PYTHONPATH so that the editor is found, and nothing else of that environment."""
    code = "import importlib.util as u; print(u.find_spec('comfyui_frontend_package').submodule_search_locations[0])"
    found = run(folder, "-c", code)
    assert found.returncode == 0, found.stderr
    (folder / "editor").mkdir()
    (folder / "editor" / "comfyui_frontend_package").symlink_to(found.stdout.strip())
    return str(folder / "editor")
