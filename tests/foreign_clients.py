"""Clients of others as they are published, unmodified, where nothing of ours is: from PyPI and from npm.

COMFYLINE_TEST_CLIENTS names a directory for them. `env` in it is a Python environment with the packages of
`tests/data/comfyui_clients.txt`, which `.ci/run` makes; what tests need of npm they fetch into it. At home nothing is
run or fetched unless it is set; with CI=true the clients have to be there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

from tests.services import missing

SETTING = "COMFYLINE_TEST_CLIENTS"
#: What is installed in the environment.
REQUIREMENTS = "tests/data/comfyui_clients.txt"
INSTALL_S = 300


def directory() -> Path:
    """Return where the clients are; skips where nobody has said."""
    found = os.environ.get(SETTING, "")
    if not found:
        missing(f"{SETTING} names no directory for the clients of others")
    return Path(found)


def python() -> str:
    """Return the Python of the environment; skips where there is none."""
    path = directory() / "env" / "bin" / "python"
    if not path.is_file():
        missing(f"{path} is not there: an environment with the packages of {REQUIREMENTS}")
    return str(path)


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


def editor_path(folder: Path, *packages: str) -> str:
    """Return what to add to PYTHONPATH so that the editor is found, and nothing else of that environment.

    Parameters:
      packages: further ones that are to be found.
    """
    (folder / "editor").mkdir()
    for package in ("comfyui_frontend_package", *packages):
        code = f"import importlib.util as u; print(u.find_spec('{package}').submodule_search_locations[0])"
        found = run(folder, "-c", code)
        assert found.returncode == 0, found.stderr
        (folder / "editor" / package).symlink_to(found.stdout.strip())
    return str(folder / "editor")


def npm_packages(*packages: str) -> Path:
    """Install packages such as `@comfyorg/sdk@0.1.9`, once; returns the folder in which Node.js finds them."""
    name = sha256(" ".join(packages).encode()).hexdigest()[:12]
    folder = directory() / f"npm-{name}"
    folder.mkdir(exist_ok=True, parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".done").exists():
            _install(folder, packages)
            (folder / ".done").touch()
    return folder


def _install(folder: Path, packages: tuple[str, ...]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not there (Debian's packages nodejs and npm)")
    (folder / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode:
        missing(f"npm could not fetch {', '.join(packages)}: {done.stderr[-500:]}")


def node(home: Path, packages: Path, script: str, *arguments: str, timeout_s: float = 120.0) -> str:
    """Run a script (ECMAScript modules) that finds some packages; returns what it has printed."""
    program = shutil.which("node")
    if program is None:
        missing("node is not there (Debian's package nodejs)")
    # Modules are looked for beside the script that imports them.
    path = packages / f"{home.name}.mjs"
    path.write_text(script)
    try:
        done = subprocess.run(
            [program, str(path), *arguments],
            cwd=home,
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    finally:
        path.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
