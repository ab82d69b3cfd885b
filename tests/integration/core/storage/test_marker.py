"""Storage that is not the fleet's, or is away: noticed at the start and later, and nothing is put into its place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import ConfigurationError, StorageUnavailable
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.job import DELIVERING, SUCCEEDED
from core.settings import Settings
from core.storage import marker as storage_marker
from core.storage.marker import NAME, StorageMarker
from tasks.messaging.app import make_app
from tasks.reconciling.expiry import sweep_outputs
from tasks.runtime import equip
from tests.fleet import Fleet
from tests.integration.api_fixtures import Api, running_api
from tests.integration.tasks.outputs.test_upload import generated, picture, turn
from tests.services import Broker, make_settings
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen a moment ago does not count."""
    monkeypatch.setattr(storage_marker, "HOLDS_S", 0.0)


@pytest.fixture
def machine(tmp_path: Path, ledger: Ledger) -> Callable[..., StorageMarker]:
    """Machines of one fleet, each with a data directory of its own: `machine("a", storage_dir=...)`."""

    def make(name: str, storage_dir: Path | None = None) -> StorageMarker:
        (tmp_path / name / "data").mkdir(parents=True, exist_ok=True)
        return StorageMarker(make_settings(tmp_path / name, storage_dir=storage_dir), ledger.storage_moves)

    return make


Machine = Callable[..., StorageMarker]


def test_a_machine_that_does_not_see_the_storage_is_refused(machine: Machine, tmp_path: Path) -> None:
    machine("a").settle()

    with pytest.raises(ConfigurationError, match="COMFYLINE_STORAGE_DIR is not set"):
        machine("b").settle()

    assert list((tmp_path / "b" / "data").iterdir()) == [], "nothing was made there"


def test_machines_that_share_storage_start_in_any_order(machine: Machine, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()

    for name in ("a", "b", "a"):
        marker = machine(name, shared)
        marker.settle()
        assert marker.problem() is None


def test_a_named_directory_that_is_not_there_is_never_made(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"COMFYLINE_STORAGE_DIR=.*/mnt is not there"):
        machine("a", tmp_path / "mnt").settle()

    assert not (tmp_path / "mnt").exists()


def test_a_mount_that_is_missing_at_the_start_is_named(machine: Machine, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    machine("a", shared).settle()
    shared.rename(tmp_path / "elsewhere")
    # What is left of a mount is an empty directory.
    shared.mkdir()

    with pytest.raises(ConfigurationError, match=f"COMFYLINE_STORAGE_DIR={shared} is not this fleet's storage"):
        machine("b", shared).settle()

    assert list(shared.iterdir()) == []


def test_a_fleet_of_an_earlier_version_keeps_its_files(machine: Machine, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    old = shared / "outputs" / "4e4ab5ee-0000-4000-8000-000000000000" / "a.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")

    machine("a", shared).settle()
    machine("b", shared).settle()

    assert old.read_bytes() == b"old"


def test_processes_that_start_at_once_agree_on_one_marker(machine: Machine, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    markers = [machine(f"m{number}", shared) for number in range(8)]
    problems: list[str] = []

    def settle(marker: StorageMarker) -> None:
        try:
            marker.settle()
        except ConfigurationError as exc:
            problems.append(str(exc))

    threads = [threading.Thread(target=settle, args=(marker,)) for marker in markers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert [path.name for path in (shared / "outputs").iterdir()] == [NAME]


def test_storage_of_another_fleet_is_refused(tmp_path: Path, machine: Machine) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    machine("a", shared).settle()
    (tmp_path / "z").mkdir()
    other = make_settings(tmp_path / "z", storage_dir=shared)
    migrate(other)
    ledger = Ledger(other)

    with pytest.raises(ConfigurationError, match="belongs to another fleet"):
        StorageMarker(other, ledger.storage_moves).settle()
    ledger.close()


def test_storage_of_another_fleet_is_noticed_when_it_is_mounted_later(machine: Machine, tmp_path: Path) -> None:
    marker = machine("a")
    marker.settle()
    path = tmp_path / "a" / "data" / "outputs" / NAME
    own = path.read_text()

    path.write_text("theirs\n")

    assert "is another fleet's storage" in (marker.problem() or "")
    with pytest.raises(StorageUnavailable):
        marker.require()

    path.write_text(own)

    marker.require()


def test_storage_that_does_not_answer_is_not_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marker = machine("a")
    marker.settle()
    monkeypatch.setattr(storage_marker, "LOOK_TIMEOUT_S", 0.2)
    path = tmp_path / "a" / "data" / "outputs" / NAME
    text = path.read_text()
    path.unlink()
    # Whoever opens it waits for a writer, as for a server that is gone.
    os.mkfifo(path)

    assert "does not answer" in (marker.problem() or "")

    path.write_text(text)
    path.unlink()
    path.write_text(text)
    until(lambda: marker.problem() is None, what="the storage's return")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


@pytest.fixture
def api(tmp_path: Path, shared: Path) -> Iterator[Api]:
    with running_api(make_settings(tmp_path, storage_dir=shared)) as running:
        running.worker.come_up()
        assert running.get("/ready").json()["storage"] == {"ok": True, "state": "ok", "reason": None}
        yield running


def unmount(shared: Path) -> None:
    shared.rename(shared.with_name("unmounted"))
    shared.mkdir()


def mount(shared: Path) -> None:
    shared.rmdir()
    shared.with_name("unmounted").rename(shared)


def test_the_api_takes_no_files_while_the_mount_is_lost(api: Api, shared: Path) -> None:
    form = {"file": ("a.txt", b"hello")}
    asset = api.post("/api/v2/assets", files=form, data={"file_path": "a.txt"}).json()["id"]
    unmount(shared)

    refused = api.post("/api/v2/assets", files={"file": ("b.txt", b"other")}, data={"file_path": "b.txt"})
    content = api.get(f"/api/v2/assets/{asset}/content")
    until(lambda: not api.get("/ready").json()["storage"]["ok"], what="/ready to say so")
    ready = api.get("/ready").json()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
    assert (content.status_code, content.json()["error"]["code"]) == (503, "storage_unavailable")
    assert str(shared) not in refused.text, "paths of this host are the operator's"
    assert ready["storage"]["state"] == "unavailable"
    assert "COMFYLINE_STORAGE_DIR" in ready["storage"]["reason"]
    assert list(shared.iterdir()) == [], "nothing was put under the mount"

    mount(shared)

    assert api.get(f"/api/v2/assets/{asset}/content").content == b"hello"
    until(lambda: api.get("/ready").json()["storage"]["ok"], what="/ready to say so")


def test_the_io_worker_moves_no_file_to_where_the_mount_should_be(tmp_path: Path, shared: Path) -> None:
    settings = make_settings(tmp_path, storage_dir=shared)
    migrate(settings)
    ledger = Ledger(settings)
    StorageMarker(settings, ledger.storage_moves).settle()
    ledger.close()
    claim = generated(settings, {}, a_png=picture())
    unmount(shared)

    _state, job = turn(settings, claim)

    assert job.status == DELIVERING
    assert list(shared.iterdir()) == []
    assert list((settings.gpu_dir("gpu0") / "output" / claim.job_id).iterdir()), "the file is where it was"

    mount(shared)

    assert turn(settings, claim)[1].status == SUCCEEDED


def test_sweeping_spares_the_marker(sqlite_settings: Settings) -> None:
    runtime = equip(make_app(sqlite_settings, "io"), sqlite_settings)
    runtime.storage.settle()

    sweep_outputs(runtime)

    assert runtime.storage.problem() is None
    runtime.close()


def test_gpus_are_unhealthy_while_the_mount_is_lost(tmp_path: Path, shared: Path, shared_redis: Broker) -> None:
    fleet = Fleet(
        tmp_path,
        broker_url=shared_redis.url,
        broker_namespace=f"{shared_redis.namespace}-mount",
        storage_dir=str(shared),
        simulated_gpus="1",
        lease_renew_s="0.3",
        host="here",
    )
    settings = Settings(data_dir=fleet.data_dir)
    migrate(settings)
    ledger = Ledger(settings)

    def state() -> tuple[str, str | None]:
        records = ledger.instances.all()
        return (records[0].state, records[0].reason) if records else ("", None)

    with fleet:
        fleet.start("gpu0")
        until(lambda: state()[0] == "healthy", what="a healthy GPU")
        unmount(shared)
        until(lambda: state()[0] == "unhealthy", what="an unhealthy one")
        assert "COMFYLINE_STORAGE_DIR" in (state()[1] or "")
        mount(shared)
        until(lambda: state()[0] == "healthy", what="a healthy GPU again")
    ledger.close()


@pytest.mark.parametrize("name", ["api", "io", "gpu0"])
def test_no_process_that_uses_files_starts_without_the_fleets_storage(
    tmp_path: Path, shared_redis: Broker, name: str
) -> None:
    common = {"database_url": f"sqlite:///{tmp_path}/ledger.db"}
    first = make_settings(tmp_path, **common)
    migrate(first)
    ledger = Ledger(first)
    StorageMarker(first, ledger.storage_moves).settle()
    ledger.close()
    (tmp_path / "other").mkdir()
    broker = {"broker_url": shared_redis.url, "broker_namespace": f"{shared_redis.namespace}-unshared"}

    with Fleet(tmp_path / "other", simulated_gpus="1", **common, **broker) as other:
        process = other.start(name).processes[name]
        until(lambda: process.poll() is not None, what="a refusal")
        assert process.returncode == 2
        assert "COMFYLINE_STORAGE_DIR is not set" in other.log(name)
        assert not (other.data_dir / "outputs").exists()


def test_up_refuses_a_named_directory_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    refused = Fleet(tmp_path, storage_dir=str(missing)).command("up")

    assert refused.returncode == 2, refused
    assert f"COMFYLINE_STORAGE_DIR={missing} is not there" in refused.stderr
    assert not missing.exists()
