"""The directory of an instance: held by one worker, and a second one is told by whom."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from tasks.instance import directory_lock
from tasks.instance.directory_lock import LOCK_NAME, occupied, place_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gpu0"


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the system refuse the lock, as it does to another process."""

    def lockf(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_whoever_holds_it_says_so(folder: Path) -> None:
    before = descriptors()
    with occupied(folder):
        record = json.loads((folder / LOCK_NAME).read_text())
        assert record == {"pid": os.getpid(), "host": socket.gethostname()}
        assert descriptors() == before + 1
    assert descriptors() == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / LOCK_NAME).stat().st_mode) == 0o600


def test_it_is_let_go_when_the_work_fails(folder: Path) -> None:
    before = descriptors()
    with pytest.raises(KeyError), occupied(folder):
        raise KeyError
    assert descriptors() == before


def test_what_a_predecessor_has_left_is_replaced_whole(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / LOCK_NAME).write_text("x" * 500)
    with occupied(folder):
        assert json.loads((folder / LOCK_NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_second_worker_is_told_who_holds_it(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with occupied(folder):
        written = (folder / LOCK_NAME).read_text()
        before = descriptors()
        refuse(monkeypatch, number)
        said = rf"gpu0 is run by another worker already: process {os.getpid()} on {socket.gethostname()} holds {folder}"
        with pytest.raises(ConfigurationError, match=said), occupied(folder):
            raise AssertionError("it got in")
        assert (folder / LOCK_NAME).read_text() == written
        assert descriptors() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x", "host": "h"}', '{"pid": 7}'])
def test_one_that_has_not_said_so_yet_is_just_starting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder.mkdir(parents=True)
    (folder / LOCK_NAME).write_text(text)
    refuse(monkeypatch, errno.EAGAIN)
    with pytest.raises(ConfigurationError, match="a process that is just starting holds"), occupied(folder):
        raise AssertionError("it got in")


def test_a_file_system_without_locks_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.ENOLCK)
    with pytest.raises(ConfigurationError, match=f"{LOCK_NAME} cannot be locked: No locks"), occupied(folder):
        raise AssertionError("it got in")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with (
        pytest.raises(ConfigurationError, match=r"COMFYLINE_DATA_DIR: .*worker\.lock cannot be written"),
        occupied(tmp_path / "data"),
    ):
        raise AssertionError("it got in")


class TestPlace:
    def test_it_is_the_directory_on_its_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = tmp_path.stat()
        monkeypatch.setattr(directory_lock, "boot_id", lambda: "b" * 36)
        assert place_of(tmp_path) == f"{'b' * 36} {found.st_dev}:{found.st_ino}"

    def test_where_a_sandbox_hides_the_machine_its_name_stands_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(directory_lock, "boot_id", lambda: "")
        assert place_of(tmp_path).startswith(f"{socket.gethostname()} ")
