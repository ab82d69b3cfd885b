"""Room for a model file: who goes for it, in which order, and who never does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from comfy.model_files.cache import ModelCache
from core.errors import ModelUnavailable
from tasks.models.room import ModelRoom
from tests.services import make_settings

SIZE = 1000


def fetched(cache: ModelCache, name: str, *, used_s_ago: float) -> str:
    """Have a file in the cache that was used so long ago."""
    path = f"checkpoints/{name}"
    part = cache.part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"x" * SIZE)
    cache.keep(path, sha256="a" * 64, size_bytes=SIZE)
    cache.note_use([name])
    used = time.time() - used_s_ago
    for record in (cache.folder / ".comfyline" / "files").iterdir():
        text = record.read_text()
        if f'"{path}"' in text:
            at_s = text.partition('"at_s": ')[2].partition(",")[0]
            record.write_text(text.replace(at_s, str(used)))
    newest = max((cache.folder / ".comfyline" / "used").iterdir(), key=lambda each: each.stat().st_mtime_ns)
    os.utime(newest, (used, used))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    made = ModelCache(tmp_path / "models")
    for number, name in enumerate(("oldest.sft", "older.sft", "old.sft")):
        fetched(made, name, used_s_ago=1000.0 * (3 - number))
    return made


def room(cache: ModelCache, tmp_path: Path, **limits: Any) -> ModelRoom:
    given = {"models_max_bytes": 3 * SIZE, "min_free_disk_bytes": 0, **limits}
    return ModelRoom(make_settings(tmp_path, **given), cache)


def there(cache: ModelCache) -> set[str]:
    return {file.name for file in cache.files()}


def nobody() -> frozenset[str]:
    return frozenset()


def test_nobody_goes_where_there_is_room(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path, models_max_bytes=4 * SIZE).make("checkpoints/new.sft", SIZE, nobody)
    room(cache, tmp_path, models_max_bytes=None).make("checkpoints/new.sft", 50 * SIZE, nobody)
    assert there(cache) == {"oldest.sft", "older.sft", "old.sft"}


def test_the_longest_unused_goes_first_and_no_more_than_needed(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path).make("checkpoints/new.sft", SIZE + 1, nobody)
    assert there(cache) == {"old.sft"}


def test_what_is_in_use_stays_and_the_next_goes(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path).make("checkpoints/new.sft", SIZE, lambda: frozenset({"oldest.sft"}))
    assert there(cache) == {"oldest.sft", "old.sft"}


def test_who_is_used_while_others_go_stays(cache: ModelCache, tmp_path: Path) -> None:
    """A job that came a moment ago: asked for all of them first, and then for each before it goes."""
    looks = iter([frozenset[str](), frozenset[str](), frozenset({"older.sft"}), frozenset({"older.sft"})])
    room(cache, tmp_path).make("checkpoints/new.sft", 2 * SIZE, lambda: next(looks))
    assert there(cache) == {"older.sft"}


def test_what_would_not_be_enough_sends_nobody_away(cache: ModelCache, tmp_path: Path) -> None:
    in_use = frozenset({"oldest.sft", "older.sft"})
    with pytest.raises(ModelUnavailable) as caught:
        room(cache, tmp_path).make("checkpoints/new.sft", 2 * SIZE, lambda: in_use)
    assert (
        f"no room for checkpoints/new.sft, {2 * SIZE} bytes: {2 * SIZE} bytes of fetched files" in caught.value.message
    )
    assert f"COMFYLINE_MODELS_MAX_BYTES={3 * SIZE}" in caught.value.message
    assert len(there(cache)) == 3


def test_the_disk_counts_beside_the_limit(cache: ModelCache, tmp_path: Path) -> None:
    free = cache.free_bytes()
    # More is to stay free than there is, so that whatever goes is not enough.
    with pytest.raises(ModelUnavailable, match="the disk has"):
        room(cache, tmp_path, models_max_bytes=None, min_free_disk_bytes=10 * free).make("a/new.sft", 1, nobody)
    assert len(there(cache)) == 3


def test_an_earlier_version_of_the_file_itself_takes_no_room(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path).make("checkpoints/oldest.sft", SIZE, nobody)
    assert len(there(cache)) == 3
