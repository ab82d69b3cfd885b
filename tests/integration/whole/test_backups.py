"""A fleet's ledger is backed up while it works, lost, and brought back."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.fleet import Fleet, work
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.mark.timeout(240)
def test_a_fleet_goes_on_from_its_backup(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    everything = ("broker", "api", "gpu0", "io", "beat")
    with Fleet(tmp_path, simulated_gpus="1") as fleet:
        fleet.start(*everything).ready(gpus=1, timeout_s=90)
        done = fleet.wait(fleet.submit(work(0.1)), "succeeded")
        running, waiting = fleet.submit(work(8.0)), fleet.submit(work(0.1, seed=1))
        fleet.wait(running, "running")

        made = fleet.command("backup", str(kept))
        assert made.returncode == 0, made.stderr
        [file] = kept.iterdir()
        assert made.stdout.strip() == str(file)
        assert "Outputs and uploads are not in it" in made.stderr
        later = fleet.submit(work(0.1, seed=2))

        refused = fleet.command("restore", str(file))
        assert refused.returncode == 2
        assert "runs; stop it first. These use its ledger" in refused.stderr

        # Also where somebody has taken the file away under it.
        for path in fleet.data_dir.glob("ledger.db*"):
            path.rename(path.with_name(f"lost-{path.name}"))
        refused = fleet.command("restore", str(file))
        assert refused.returncode == 2
        # By then one of its processes may have made another one.
        assert "a fleet runs in" in refused.stderr or "runs; stop it first" in refused.stderr
        assert not (fleet.data_dir / "ledger.db").exists()

        for name in sorted(everything, key=lambda name: name == "broker"):
            fleet.stop(name)
        for path in fleet.data_dir.glob("ledger.db*"):
            path.unlink()
        restored = fleet.command("restore", str(file))
        assert restored.returncode == 0, restored.stderr
        assert "3 jobs" in restored.stderr

        fleet.start(*everything).ready(gpus=1, timeout_s=90)
        assert fleet.job(done["id"])["status"] == "succeeded"
        assert fleet.picture(fleet.job(done["id"])).startswith(b"\x89PNG")
        for job_id in (running, waiting):
            fleet.wait(job_id, "succeeded", timeout_s=90)
        assert requests.get(f"{fleet.base_url}/api/v2/jobs/{later}", timeout=10).status_code == 404
        until(lambda: fleet.instances("healthy"), what="the GPU")
