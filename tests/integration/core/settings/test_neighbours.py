"""Whether a fleet is one machine is decided by what its parts are connected to, whatever says where that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.outbound import Policy
from core.settings import neighbours
from tests.services import make_settings

ELSEWHERE = "192.0.2.1"


@pytest.fixture(autouse=True)
def look_anew() -> None:
    """What an earlier test's environment led to does not count."""
    neighbours._stays_here.cache_clear()


def allows_loopback(folder: Path, **settings: object) -> bool:
    return Policy.from_settings(make_settings(folder, **settings)).permits("127.0.0.1")


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("postgresql:///fleet", False),
        ("postgresql://postgres@/fleet", False),
        ("postgresql://127.0.0.1/fleet", True),
        (f"postgresql://127.0.0.1/fleet?hostaddr={ELSEWHERE}", False),
        ("postgresql:///fleet?host=/var/run/postgresql", True),
        (f"postgresql:///fleet?host=127.0.0.1:5432&host={ELSEWHERE}:5432", False),
    ],
)
def test_pghost_counts_where_the_url_names_no_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, is_here: bool
) -> None:
    monkeypatch.setenv("PGHOST", ELSEWHERE)

    assert allows_loopback(tmp_path, database_url=url) is is_here


def test_a_socket_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)

    assert allows_loopback(tmp_path, database_url="postgresql:///fleet")


@pytest.mark.parametrize(("host", "is_here"), [(ELSEWHERE, False), ("127.0.0.1", True)])
def test_a_service_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, is_here: bool) -> None:
    services = tmp_path / "services"
    services.write_text(f"[fleet]\nhost={host}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))

    assert allows_loopback(tmp_path, database_url="postgresql:///?service=fleet") is is_here


def test_a_name_counts_by_its_addresses(tmp_path: Path) -> None:
    assert allows_loopback(tmp_path, broker_url="redis://localhost:6379/0")
    assert not allows_loopback(tmp_path, broker_url="redis://broker.invalid:6379/0")
    assert not allows_loopback(tmp_path, database_url="postgresql://db.invalid/fleet")


@pytest.mark.parametrize(("kind", "is_here"), [("nfs4", False), ("fuse.sshfs", False), ("ext4", True)])
def test_storage_on_a_network_file_system_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_here: bool
) -> None:
    storage = tmp_path / "the share"
    storage.mkdir()
    mounts = tmp_path / "mountinfo"
    place = str(storage).replace(" ", "\\040")
    mounts.write_text(
        "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"40 22 0:45 / {place} rw,relatime shared:7 - {kind} nas:/fleet rw,vers=4.2\n"
    )
    monkeypatch.setattr(neighbours, "MOUNTS", mounts)

    assert allows_loopback(tmp_path, storage_dir=storage) is is_here
    assert allows_loopback(tmp_path), "another directory of the same machine"


@pytest.mark.parametrize("name", ["outputs", "inputs"])
def test_a_share_of_which_the_storage_is_only_a_part_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    share, storage = tmp_path / "share", tmp_path / "storage"
    share.mkdir()
    storage.mkdir()
    (storage / name).symlink_to(share)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"22 1 0:20 / / rw shared:1 - ext4 /dev/sda1 rw\n40 22 0:45 / {share} rw shared:7 - nfs4 nas:/fleet rw\n"
    )
    monkeypatch.setattr(neighbours, "MOUNTS", mounts)

    assert not allows_loopback(tmp_path, storage_dir=storage)


def test_the_mounts_of_this_machine_can_be_read(tmp_path: Path) -> None:
    assert not neighbours.is_shared(tmp_path)
    assert neighbours.is_shared(Path("/proc")), "of no kind that is known to be local"
