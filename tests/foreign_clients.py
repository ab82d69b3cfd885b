"""Clients of others as they are published, fetched for a test from their registry.

At home nothing is fetched unless COMFYLINE_TEST_REGISTRIES=1; with CI=true they have to be there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.services import missing

SETTING = "COMFYLINE_TEST_REGISTRIES"
INSTALL_S = 180


def npm_packages(folder: Path, *packages: str) -> Path:
    """Install packages such as `@comfyorg/sdk@0.1.9`; returns the folder in which Node.js finds them."""
    may_fetch()
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not there (Debian's packages nodejs and npm)")
    (folder / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode:
        missing(f"npm could not fetch {', '.join(packages)}: {done.stderr[-500:]}")
    return folder


def may_fetch() -> None:
    """Skip the test where nothing is to be fetched."""
    if os.environ.get("CI") != "true" and os.environ.get(SETTING) != "1":
        pytest.skip(f"it fetches a published client: {SETTING}=1 allows that")
