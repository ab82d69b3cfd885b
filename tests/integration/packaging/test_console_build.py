"""What the API serves as its console is what its sources make, and wheels carry it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.foreign_clients import directory
from tests.services import missing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent.parent
BUILT = ROOT / "api" / "console"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_committed_is_what_the_sources_make(tmp_path: Path) -> None:
    # Where packages of others may be fetched at all.
    directory()
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not there (Debian's packages nodejs and npm)")
    source = tmp_path / "console"
    shutil.copytree(ROOT / "console", source, ignore=shutil.ignore_patterns("node_modules"))
    for command in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        done = subprocess.run([npm, *command], cwd=source, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    built = contents(tmp_path / "api" / "console")
    assert sorted(built) == sorted(contents(BUILT)), "npm run build in console/, and commit what it makes"
    assert built == contents(BUILT), "npm run build in console/, and commit what it makes"


def test_it_needs_nothing_from_elsewhere() -> None:
    found = contents(BUILT)
    assert "index.html" in found
    assert sum(map(len, found.values())) < 300_000
    for name, content in found.items():
        urls = {word for word in content.split(b'"') if word.startswith((b"http://", b"https://", b"//"))}
        assert urls <= {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1998/Math/MathML",
                        b"http://www.w3.org/1999/xhtml", b"http://www.w3.org/1999/xlink"}, (name, urls)  # fmt: skip
