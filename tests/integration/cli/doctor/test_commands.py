"""`comfyline doctor` beside a fleet that runs, and what `comfyline gpu` says before it starts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from core.storage.marker import NAME
from tests.fleet import ROOT, Fleet
from tests.own_servers import children_of
from tests.services import PostgresServer
from tests.waiting import until

pytestmark = pytest.mark.slow

KEY = "a-key-of-an-operator"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "1", "reconcile_s": "1", "host": "here", "min_free_disk_bytes": "0"}
    with Fleet(tmp_path_factory.mktemp("doctor"), **settings) as fleet:
        fleet.data_dir.mkdir(mode=0o700)
        yield fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)


def doctor(fleet: Fleet) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit status, and the findings by subject."""
    ended = fleet.command("doctor", "--json")
    assert ended.stderr == ""
    said = json.loads(ended.stdout)
    assert said["ok"] is (ended.returncode == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in said["findings"]:
        found.setdefault(each["subject"], []).append(each)
    return ended.returncode, found


def marks(findings: dict[str, list[dict[str, Any]]]) -> dict[str, set[str]]:
    return {subject: {each["mark"] for each in found} for subject, found in findings.items()}


def test_a_sound_fleet_is_found_sound_in_every_point(fleet: Fleet) -> None:
    # Its reconciler has to have been at work once.
    until(lambda: marks(doctor(fleet)[1])["beat"] == {"ok"}, what="a tick")

    status, found = doctor(fleet)

    assert status == 0
    well = ["settings", "data directory", "database", "secret key", "broker", "storage", "GPUs", "disk", "API"]
    well += ["name", "keys", "fleet", "jobs", "webhooks", "beat", "io workers", "ComfyUI gpu0"]
    # This fleet has no Flower.
    assert marks(found) == {"Flower": {"unknown"}} | {subject: {"ok"} for subject in well}
    assert re.search(r"version [\d.]+, \d+ kinds of nodes", found["ComfyUI gpu0"][0]["text"])


def test_for_people_it_is_a_line_for_each_and_what_it_comes_to(fleet: Fleet) -> None:
    ended = fleet.command("doctor")

    lines = ended.stdout.splitlines()
    assert lines[-1] == "Nothing is wrong."
    assert all(re.match(r"[✓-] \w", line) for line in lines[:-1]), ended.stdout
    assert [line for line in lines if line.startswith("✓ database")]


def test_a_gpu_that_was_drained_and_an_io_worker_that_is_gone(fleet: Fleet) -> None:
    assert fleet.command("drain", "gpu0").returncode == 0
    fleet.stop("io")
    try:
        status, found = doctor(fleet)
        assert status == 1
        assert "No io worker answers" in found["io workers"][0]["text"]
        assert found["fleet"][0]["text"].startswith("gpu0@here is drain")
    finally:
        fleet.start("io")
        assert fleet.command("resume", "gpu0").returncode == 0
        fleet.ready(gpus=1)


def test_what_the_api_does_not_say_without_its_key_is_not_guessed(tmp_path: Path) -> None:
    with Fleet(tmp_path, api_keys=KEY) as fleet:
        fleet.data_dir.mkdir(mode=0o700)
        fleet.start("broker", "api")
        until(lambda: "ok" in marks(doctor(fleet)[1])["API"] or None, what="the API")
        ended = fleet.command("doctor")
        assert KEY not in ended.stdout + ended.stderr
        fleet.reconfigure(api_keys="another-key-than-that")
        [finding] = doctor(fleet)[1]["API"]
    assert (finding["mark"], "COMFY_API_KEY" in finding["text"]) == ("unknown", True)


def test_a_setting_that_cannot_be_read_is_all_that_is_told(tmp_path: Path) -> None:
    ended = Fleet(tmp_path, api_prot="1").command("doctor")

    assert ended.returncode == 1
    assert ended.stdout.splitlines()[0].startswith("✗ settings       COMFYLINE_API_PROT is not a setting")
    assert ended.stderr == ""


def listening(pids: set[int]) -> set[str]:
    """The addresses that processes listen at, as the kernel writes them: `0100007F:1F90`."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(entry.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1])
    return found


def family(pid: int) -> set[int]:
    return {pid}.union(*(family(child) for child in children_of(pid)))


def test_nothing_can_dial_in_to_a_gpu_host(fleet: Fleet) -> None:
    """All that its processes listen at is loopback: its ComfyUI."""
    found = listening(family(fleet.processes["gpu0"].pid) | family(fleet.processes["io"].pid))

    assert len(found) == 1
    assert {address.partition(":")[0] for address in found} == {"0100007F"}


class TestGpuHost:
    """`comfyline gpu` on a machine of its own."""

    def run(self, fleet: Fleet, root: Path) -> tuple[subprocess.Popen[bytes], Path]:
        log = root / "gpu.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "gpu"],
                cwd=ROOT,
                env={**fleet.environment(), "PYTHONIOENCODING": "utf-8"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return process, log

    def end(self, process: subprocess.Popen[bytes]) -> None:
        # Twice: nobody waits for a job here.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    def test_it_says_what_it_found_and_starts(self, tmp_path: Path) -> None:
        fleet = Fleet(tmp_path, simulated_gpus="1", min_free_disk_bytes="0")
        process, log = self.run(fleet, tmp_path)
        try:
            until(lambda: "Waiting for the embedded broker" in log.read_text(), what="its worker")
        finally:
            self.end(process)
        lines = log.read_text().splitlines()
        assert [line for line in lines if line.startswith("✓ GPUs           gpu0, SIMULATED")]
        # Where the broker is this machine's own, it may be started a moment later.
        assert not [line for line in lines if line.startswith("✗")]

    def test_a_database_that_refuses_us_is_said_in_one_line(self, tmp_path: Path, postgres: PostgresServer) -> None:
        url = urlsplit(postgres.create())._replace(path="/nowhere").geturl()
        fleet = Fleet(tmp_path, simulated_gpus="3", database_url=url)
        fleet.data_dir.mkdir(mode=0o700)
        process, log = self.run(fleet, tmp_path)
        try:
            until(lambda: "Waiting for the ledger" in log.read_text(), what="a word about the database")
            # Workers would each say the same, and soon.
            assert not threading.Event().wait(2.0)
            assert children_of(process.pid) == []
        finally:
            self.end(process)
        [line] = [line for line in log.read_text().splitlines() if line.startswith("comfyline: ")]
        assert "COMFYLINE_DATABASE_URL: the database does not let us in" in line
        assert "Check the user, the password, and the name of the database;" in line

    def test_what_may_pass_is_said_and_waited_for(self, tmp_path: Path) -> None:
        """Storage of another fleet: its mount may still come."""
        first = Fleet(tmp_path / "first", storage_dir=str(tmp_path / "shared"))
        (tmp_path / "first").mkdir()
        (tmp_path / "shared" / "outputs").mkdir(parents=True)
        first.data_dir.mkdir(mode=0o700)
        with first:
            first.start("broker", "io")
            until((tmp_path / "shared" / "outputs" / NAME).exists, what="the marker")
        (tmp_path / "shared" / "outputs" / NAME).write_text("another")
        process, log = self.run(first, tmp_path)
        try:
            until(lambda: "✗ storage" in log.read_text(), what="a word about the storage")
            # A worker was started all the same.
            until(lambda: children_of(process.pid), what="a worker")
        finally:
            self.end(process)
        [line] = [line for line in log.read_text().splitlines() if line.startswith("✗")]
        assert f"COMFYLINE_STORAGE_DIR={tmp_path}/shared is another fleet's storage" in line
