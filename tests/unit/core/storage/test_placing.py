"""A file gets a new place only where nothing is, and whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from core.storage.placing import place_new


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a.png"
    file.write_bytes(b"picture")
    return file


def no_link(source: Path, target: Path) -> None:
    """As between two file systems: only what is beside its target can be given another name."""
    if source.parent != target.parent:
        raise OSError("another file system")
    shutil.copyfile(source, target)


@pytest.mark.parametrize("is_far", [False, True])
def test_it_has_both_places(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_far: bool) -> None:
    if is_far:
        monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "job").mkdir()
    place_new(file, tmp_path / "job" / "b.png")
    assert file.read_bytes() == (tmp_path / "job" / "b.png").read_bytes() == b"picture"
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["b.png"]


def test_what_is_there_stays(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"another one")
    with pytest.raises(FileExistsError):
        place_new(file, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"another one"


def test_a_copy_that_has_no_room_leaves_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"pic")
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(shutil, "copyfile", full)
    (tmp_path / "job").mkdir()
    with pytest.raises(OSError, match="no space"):
        place_new(file, tmp_path / "job" / "b.png")
    assert list((tmp_path / "job").iterdir()) == []
