"""A file that is written, read and removed for the sake of finding out whether that can be done."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from core.storage.folders import LocalStorage
from core.storage.trial import try_storage


def test_a_sound_storage_has_no_file_more_than_before(tmp_path: Path) -> None:
    try_storage(LocalStorage(tmp_path / "outputs"))

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [".drafts"]


class Damaging(LocalStorage):
    def open(self, key: str, *, size_bytes: int) -> Any:
        return io.BytesIO(b"\0" * size_bytes)


class Keeping(LocalStorage):
    def remove_folder(self, folder: str) -> None:
        pass


class Forgetting(LocalStorage):
    def put(self, key: str, file: Path, *, is_needed: bool = False) -> None:
        file.unlink()


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Damaging, "not what was written"), (Keeping, "cannot be removed"), (Forgetting, "No such file")],
)
def test_one_that_is_not_sound_says_how(tmp_path: Path, kind: type[LocalStorage], words: str) -> None:
    with pytest.raises(OSError, match=words):
        try_storage(kind(tmp_path / "outputs"))

    assert list((tmp_path / "outputs" / ".drafts").iterdir()) == [], "no draft stays"
