"""Two versions at once: the last one that landed runs beside this one, on one ledger, while jobs run all the while.

Whatever order the hosts of an upgrade come in, there is a time at which old workers have new tables, and new workers an
old API. What has to hold is said in docs/rollouts.md.
"""

from __future__ import annotations

import io
import itertools
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from core.ledger.upgrade import alembic_config
from tests.fleet import ROOT, Fleet
from tests.rolling_fleet import RollingFleet, answers, rolling_fleet, settle
from tests.waiting import until

VERSIONS = "core/ledger/migrations/versions"
#: How far back a version is looked for, and how many are tried.
COMMITS, TRIES = 200, 5


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


def earlier_versions() -> Iterator[str]:
    """The commits whose ledger is of an earlier version than this tree's, the newest first."""
    newest = str(ScriptDirectory.from_config(alembic_config()).get_current_head())
    for commit in git("log", "--first-parent", f"-n{COMMITS}", "--format=%H").decode().split():
        files = git("ls-tree", "--name-only", commit, f"{VERSIONS}/").decode().split()
        if files and max(Path(each).name[1:5] for each in files if "/v0" in each) < newest:
            yield commit


def works(tree: Path, folder: Path) -> bool:
    """Whether a fleet of this code gets ready, all by itself: not every commit between two versions does."""
    folder.mkdir()
    with rolling_fleet(folder) as fleet:
        home = fleet.home
        home.tree = tree
        home.start("broker", "api", "io", "beat", "gpu0")
        until(
            lambda: has_ended(home) or is_ready(home), timeout_s=120, what="a fleet of the earlier version, or its end"
        )
        return not has_ended(home)


def has_ended(fleet: Fleet) -> bool:
    return any(process.poll() is not None for process in fleet.processes.values())


def is_ready(fleet: Fleet) -> bool:
    return answers(fleet) and bool(fleet.instances("healthy"))


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the version that landed last."""
    try:
        commits = list(itertools.islice(earlier_versions(), TRIES))
    except (OSError, subprocess.SubprocessError):
        commits = []
    if not commits:
        pytest.skip("there is no git history here in which to find the version before this one's ledger")
    root = tmp_path_factory.mktemp("old")
    for commit in commits:
        folder = root / commit[:8]
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
            archive.extractall(folder, filter="data")
        if works(folder, root / f"{commit[:8]}-alone"):
            return folder
    pytest.fail(f"none of the versions before this one's ledger starts: {', '.join(commits)}")


@pytest.fixture(params=["sqlite", "postgres"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RollingFleet]:
    url = {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgres_url")}
    with rolling_fleet(tmp_path, **url) as found:
        yield found


@pytest.mark.timeout(600)
def test_old_and_new_run_jobs_side_by_side(fleet: RollingFleet, old_tree: Path) -> None:
    home, old, new = fleet.home, fleet.host("old"), fleet.host("new")
    home.tree = old.tree = old_tree
    home.start("broker", "api", "io", "beat")
    until(lambda: answers(home), timeout_s=90, what="the old API")
    old.start("gpu0", "io")
    home.ready(gpus=1, timeout_s=120)
    assert Path(f"/proc/{old.processes['gpu0'].pid}/cwd").resolve() == old_tree.resolve(), "it runs the old code"
    load = fleet.load()
    settle(3)

    # Old workers, an old API, an old reconciler: and new tables below them.
    home.tree = ROOT
    migrated = home.command("migrate")
    assert migrated.returncode == 0, migrated.stderr
    settle(3)
    if "OLDEST_CODE" in (old_tree / "core/ledger/upgrade.py").read_text():
        # Versions up to 0031 could go on with newer tables, and not start on them.
        old.stop("gpu0")
        old.start("gpu0")
        home.ready(gpus=1, timeout_s=120)
    # New workers with an old API.
    new.start("gpu0", "io")
    home.ready(gpus=2, timeout_s=120)
    settle(3)
    # A new API, reconciler and clock; the old workers go on.
    for name in ("api", "io", "beat"):
        home.stop(name)
    home.start("api", "io", "beat").ready(gpus=2, timeout_s=120)
    settle(3)

    jobs = load.finish()
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert fleet.lost() == []
    by_host = Counter(job["instance"].partition("@")[2] for job in jobs)
    assert by_host.keys() == {"old", "new"}
    assert [name for host in fleet.hosts.values() for name in host.processes if host.processes[name].poll()] == []
    errors = [line for host in fleet.hosts.values() for name in host.processes for line in host.log(name).splitlines()]
    assert [line for line in errors if "no such column" in line or "UndefinedColumn" in line] == []


@pytest.mark.timeout(300)
def test_this_version_starts_again_when_the_next_one_has_been_there(tmp_path: Path) -> None:
    """Hosts whose turn has not come crash, too: they have to start on the tables that the next version left."""
    with rolling_fleet(tmp_path) as fleet:
        home = fleet.home
        home.start("broker", "api", "io", "beat", "gpu0").ready(gpus=1, timeout_s=120)
        home.tree = next_version(tmp_path / "next")
        migrated = home.command("migrate")
        assert migrated.returncode == 0, migrated.stderr
        home.tree = ROOT
        for name in ("gpu0", "io", "api"):
            home.stop(name)
        home.start("gpu0", "io", "api").ready(gpus=1, timeout_s=120)
        found = fleet.load(at_once=2)
        settle(2)
        assert {job["status"] for job in found.finish()} == {"succeeded"}

        # One with which this version does not work is still refused.
        home.tree = next_version(tmp_path / "after", works_with="9999")
        home.command("migrate")
        home.tree = ROOT
        refused = home.command("migrate")
        assert refused.returncode == 2
        assert "newer version" in refused.stderr


def next_version(folder: Path, works_with: str | None = None) -> Path:
    """A tree that is this one with one step more for its ledger."""
    folder.mkdir()
    for name in ("api", "cli", "comfy", "tasks", "workflows"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run(["cp", "-r", ROOT / "core", folder / "core"], check=True)
    newest = str(ScriptDirectory.from_config(alembic_config()).get_current_head())
    revision = "9999" if works_with else f"{int(newest) + 1:04}"
    before = f"{int(newest) + 1:04}" if works_with else newest
    steps = [(before, newest, None), (revision, before, works_with)] if works_with else [(revision, before, None)]
    for number, down, says in steps:
        text = f'"""A step to come."""\nimport sqlalchemy as sa\nfrom alembic import op\nrevision = "{number}"\n'
        text += f'down_revision = "{down}"\nbranch_labels = depends_on = None\n'
        text += f'works_with = "{says}"\n' if says else ""
        text += f'def upgrade() -> None:\n    op.create_table("t{number}", sa.Column("a", sa.Integer))\n'
        (folder / VERSIONS / f"v{number}_next.py").write_text(text)
    return folder
