"""A disk that is full: clients are told 507, `/ready` has a state for it, and room again is all it takes."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.service.estimates import Estimates
from api.service.input_files import Intake
from api.service.tenant_room import TenantRoom
from comfy.client.client import ComfyClient
from core.errors import ComfyUnavailable, StorageFull
from core.ledger import Ledger
from core.records.job import InputRef
from core.settings import Settings
from core.storage.folders import LocalStorage
from core.storage.marker import StorageMarker
from tasks.runner.claimed.staging import stage_inputs
from tests.integration.api_fixtures import Api, running_api
from tests.ledger_moves import claimed, register
from tests.makers import GRAPH
from tests.services import make_settings
from tests.waiting import until

ROOM_BYTES = 4 * 1024 * 1024
FILE_BYTES = 1_500_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system of our own: mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def api(tmp_path: Path, small_disk: Path) -> Iterator[Api]:
    with running_api(make_settings(tmp_path, storage_dir=small_disk, max_upload_bytes=FILE_BYTES)) as running:
        running.worker.come_up()
        yield running


def upload(api: Api) -> tuple[int, dict[str, object]]:
    answer = api.post("/api/v2/assets", files={"file": ("x", os.urandom(FILE_BYTES))}, data={"file_path": "x"})
    return answer.status_code, answer.json()


def test_an_upload_without_room_is_507_and_the_state_says_so(api: Api, small_disk: Path) -> None:
    assert [upload(api)[0] for _ in range(2)] == [201, 201]

    status, body = upload(api)

    assert (status, body["error"]["code"]) == (507, "storage_full")  # type: ignore[index]
    until(lambda: api.get("/ready").json()["storage"]["state"] == "disk_full", what="the state")
    assert list((small_disk / "inputs" / ".drafts").iterdir()) == [], "half a file takes no room"

    for blob in (small_disk / "inputs").glob("??/*"):
        blob.unlink()

    assert upload(api)[0] == 201


def test_an_input_of_a_job_without_room_is_507(api: Api, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(ROOM_BYTES - 64 * 1024))
    picture = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5E"
    )
    padding = "A" * 4 * (96 * 1024 // 3)
    graph = {**GRAPH, "9": {"class_type": "LoadImage", "inputs": {"image": picture + padding}}}

    answer = api.post("/api/v2/jobs", {"workflow": graph})

    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full"), answer.text


# werkzeug leaves the file it could not write to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_form_that_cannot_be_spooled_is_507(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "ballast").write_bytes(bytes(ROOM_BYTES - 64 * 1024))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with running_api(make_settings(tmp_path)) as api:
        assert upload(api)[0] == 507


def test_a_gpu_machine_without_room_for_inputs_leaves_the_job_to_others(
    sqlite_settings: Settings, small_disk: Path
) -> None:
    ledger = Ledger(sqlite_settings)
    register(ledger, "gpu0@here")
    (small_disk / "ballast").write_bytes(bytes(ROOM_BYTES - 64 * 1024))
    folder = sqlite_settings.gpu_dir("gpu0")
    folder.mkdir(parents=True)
    (folder / "input").symlink_to(small_disk)
    storage = LocalStorage(sqlite_settings.inputs_dir)
    draft = storage.draft()
    draft.write_bytes(bytes(FILE_BYTES))
    storage.put("ab/cd", draft)
    claim = claimed(ledger, inputs=(InputRef(name="job/0-a.png", key="ab/cd"),))
    [instance] = ledger.instances.all()
    ledger.close()

    with pytest.raises(ComfyUnavailable, match="no room for the job's input files"):
        stage_inputs(claim, instance, ComfyClient("http://127.0.0.1:1"), sqlite_settings)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_a_used_up_quota_is_told_from_other_faults(sqlite_settings: Settings, number: int) -> None:
    class Refused(io.RawIOBase):
        def read(self, _size: int = -1) -> bytes:
            raise OSError(number, os.strerror(number))

    ledger = Ledger(sqlite_settings)
    room = TenantRoom(ledger, Estimates(ledger))
    intake = Intake(sqlite_settings, ledger, StorageMarker(sqlite_settings, ledger.storage_moves), room)

    with pytest.raises(StorageFull):
        intake.receive(Refused(), name="a.png")  # type: ignore[arg-type]
    ledger.close()
