"""What the local storage does of what is asked of every storage; its drafts and discards are in `test_storage`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from core.storage.backend import input_storage, output_storage
from core.storage.folders import LocalStorage, copy_in, move_in
from tests.services import make_settings


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    (tmp_path / "outputs" / "job").mkdir(parents=True)
    (tmp_path / "outputs" / "job" / "a.png").write_bytes(b"0123456789")
    (tmp_path / "secret").write_bytes(b"0123456789")
    return LocalStorage(tmp_path / "outputs")


def test_a_file_is_read_from_any_place(storage: LocalStorage) -> None:
    with storage.open("job/a.png", size_bytes=10) as file:
        file.seek(7)
        assert file.read(2) == b"78"
        assert file.read() == b"9"


@pytest.mark.parametrize("key", ["../secret", "job/../../secret", "/secret", "job//a.png", ".", "", "job/b\0", "job"])
def test_nothing_outside_is_opened_and_no_folder(storage: LocalStorage, key: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.open(key, size_bytes=10)


@pytest.mark.parametrize("key", ["job/link", "linked/a.png"])
def test_links_are_not_followed(storage: LocalStorage, tmp_path: Path, key: str) -> None:
    (tmp_path / "outputs" / "job" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "outputs" / "linked").symlink_to(tmp_path / "outputs" / "job")
    with pytest.raises(OSError, match=r"symbolic|Not a directory"):
        storage.open(key, size_bytes=10)


def test_a_file_of_another_size_is_not_the_one_that_was_stored(storage: LocalStorage) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        storage.open("job/a.png", size_bytes=11)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_put_leaves_its_place(storage: LocalStorage, tmp_path: Path) -> None:
    storage.put("other/b.png", tmp_path / "secret")
    assert storage.path("other/b.png").read_bytes() == b"0123456789"
    assert not (tmp_path / "secret").exists()
    assert sorted(storage.keys()) == ["job/a.png", "other/b.png"]


def test_folders_are_listed_and_removed_whole(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outputs" / ".swept").touch()
    assert list(storage.folders()) == ["job"]
    assert 0 <= storage.folder_age_s("job") < 60
    for _ in range(2):
        storage.remove_folder("job")
    assert list(storage.folders()) == []
    assert storage.folder_age_s("job") == float("inf")


@pytest.mark.parametrize("folder", ["..", ".", "", "a/b"])
def test_only_folders_of_the_storage_are_removed(storage: LocalStorage, tmp_path: Path, folder: str) -> None:
    with pytest.raises(ValueError, match="folder name"):
        storage.remove_folder(folder)
    assert (tmp_path / "outputs" / "job" / "a.png").exists()


def test_the_room_is_that_of_its_disk(storage: LocalStorage, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    free_bytes = storage.free_bytes()
    assert free_bytes is not None
    assert abs(free_bytes - found.f_bavail * found.f_frsize) < 2**30


def test_a_file_of_another_file_system_is_copied_whole_and_then_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"whole")
    rename = Path.replace

    def replace(self: Path, other: Path) -> Path:
        if self == source:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, other)

    monkeypatch.setattr(Path, "replace", replace)
    move_in(source, target)
    assert target.read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_copy_leaves_its_source(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"whole")
    copy_in(tmp_path / "source", tmp_path / "target")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"source": b"whole", "target": b"whole"}


def test_outputs_and_inputs_lie_apart(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    draft = tmp_path / "draft"
    draft.write_bytes(b"x")
    settings.data_dir.mkdir(exist_ok=True)
    input_storage(settings).put("ab/cd", draft)
    assert (settings.inputs_dir / "ab" / "cd").exists()
    assert not list(output_storage(settings).keys())
