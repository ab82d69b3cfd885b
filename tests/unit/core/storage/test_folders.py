"""Files by key: kept once, copied whole, and never removed under somebody who needs them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from core.storage.folders import FRESH_S, LocalStorage, content_key

KEY = content_key("ab" + "0" * 62)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "inputs")


def put(storage: LocalStorage, content: bytes) -> None:
    draft = storage.draft()
    draft.write_bytes(content)
    storage.put(KEY, draft)
    assert not draft.exists()


def age(path: Path) -> None:
    long_ago_s = time.time() - FRESH_S - 1
    os.utime(path, (long_ago_s, long_ago_s))


def test_what_is_put_can_be_copied_out(storage: LocalStorage, tmp_path: Path) -> None:
    put(storage, b"x" * 100)
    put(storage, b"x" * 100)
    storage.copy(KEY, tmp_path / "job" / "a.png")
    (tmp_path / "job" / "a.png").write_bytes(b"changed")
    assert storage.path(KEY).read_bytes() == b"x" * 100
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["a.png"]


def test_what_the_storage_lies_in_is_never_made(tmp_path: Path) -> None:
    """It may be a mount that is missing."""
    lost = LocalStorage(tmp_path / "mount" / "inputs")
    with pytest.raises(FileNotFoundError):
        lost.draft()
    assert not (tmp_path / "mount").exists()


def test_what_is_not_there_is_said(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.copy(KEY, tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        storage.path(KEY)
    with pytest.raises(FileNotFoundError):
        storage.touch(KEY)
    assert not storage.discard(KEY)
    assert not (tmp_path / "a").exists()


def test_only_old_files_are_discarded(storage: LocalStorage) -> None:
    put(storage, b"x")
    assert not storage.discard(KEY)
    age(storage.path(KEY))
    # Put again: whoever did that is about to record it.
    put(storage, b"x")
    assert not storage.discard(KEY)
    age(storage.path(KEY))
    storage.touch(KEY)
    assert not storage.discard(KEY)
    age(storage.path(KEY))
    assert storage.discard(KEY)
    with pytest.raises(FileNotFoundError):
        storage.path(KEY)


def test_drafts_of_the_dead_are_swept(storage: LocalStorage) -> None:
    storage.sweep_drafts()
    old, new = storage.draft(), storage.draft()
    old.write_bytes(b"")
    new.write_bytes(b"")
    age(old)
    storage.sweep_drafts()
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../x", "a//b", ".drafts/x", "a/.hidden", "a\0b"])
def test_keys_stay_inside(storage: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        storage.path(key)
