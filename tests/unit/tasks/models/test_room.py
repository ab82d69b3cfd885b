"""Room for a model file: who goes for it, in which order, and who never does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy.model_files.cache import ModelCache
from core.errors import ModelUnavailable
from core.model_files.stays import Stays
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


def nobody() -> Stays:
    return Stays()


def staying(*names: str) -> Callable[[], Stays]:
    return lambda: Stays(names=frozenset(names))


def test_nobody_goes_where_there_is_room(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path, models_max_bytes=4 * SIZE).make("checkpoints/new.sft", SIZE, nobody)
    room(cache, tmp_path, models_max_bytes=None).make("checkpoints/new.sft", 50 * SIZE, nobody)
    assert there(cache) == {"oldest.sft", "older.sft", "old.sft"}


def test_the_longest_unused_goes_first_and_no_more_than_needed(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path).make("checkpoints/new.sft", SIZE + 1, nobody)
    assert there(cache) == {"old.sft"}


def test_what_is_in_use_stays_and_the_next_goes(cache: ModelCache, tmp_path: Path) -> None:
    room(cache, tmp_path).make("checkpoints/new.sft", SIZE, staying("oldest.sft"))
    assert there(cache) == {"oldest.sft", "old.sft"}


def test_who_is_used_while_others_go_stays(cache: ModelCache, tmp_path: Path) -> None:
    """A job that came a moment ago: asked for all of them first, and then for each before it goes."""
    looks = iter([Stays(), Stays(), *[Stays(names=frozenset({"older.sft"}))] * 2])
    room(cache, tmp_path).make("checkpoints/new.sft", 2 * SIZE, lambda: next(looks))
    assert there(cache) == {"older.sft"}


def test_what_would_not_be_enough_sends_nobody_away(cache: ModelCache, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        room(cache, tmp_path).make("checkpoints/new.sft", 2 * SIZE, staying("oldest.sft", "older.sft"))
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


def gathered(cache: ModelCache, name: str, size: int = SIZE) -> str:
    """Have a part of a file that nobody fetches; returns the file's path."""
    path = f"checkpoints/{name}"
    cache.part_of(path).write_bytes(b"x" * size)
    return path


def parts(cache: ModelCache) -> set[str]:
    return {part.name for part in cache.parts()}


def test_what_is_there_of_the_file_counts(cache: ModelCache, tmp_path: Path) -> None:
    """A fetch that is taken up again needs room for the whole file within the limit, not for the rest of it."""
    path = gathered(cache, "new.sft", 900)
    room(cache, tmp_path).make(path, SIZE, nobody)
    assert there(cache) == {"older.sft", "old.sft"}
    assert parts(cache) == {"new.sft"}


def test_parts_of_other_files_count_and_go_first(cache: ModelCache, tmp_path: Path) -> None:
    gathered(cache, "other.sft")
    room(cache, tmp_path, models_max_bytes=5 * SIZE).make("checkpoints/new.sft", SIZE, nobody)
    assert parts(cache) == {"other.sft"}
    room(cache, tmp_path, models_max_bytes=4 * SIZE).make("checkpoints/new.sft", SIZE, nobody)
    assert parts(cache) == set()
    assert len(there(cache)) == 3


def test_a_part_that_is_wanted_goes_last(cache: ModelCache, tmp_path: Path) -> None:
    gathered(cache, "wanted.sft")
    full = room(cache, tmp_path, models_max_bytes=4 * SIZE)
    full.make("checkpoints/new.sft", 3 * SIZE, staying("wanted.sft"))
    assert (parts(cache), there(cache)) == ({"wanted.sft"}, set())
    full.make("checkpoints/new.sft", 4 * SIZE, staying("wanted.sft"))
    assert parts(cache) == set()


def test_what_only_later_jobs_wait_for_goes_at_last_and_in_its_order(cache: ModelCache, tmp_path: Path) -> None:
    gathered(cache, "wanted.sft")
    stays = Stays(names=frozenset({"wanted.sft"}), at_last=("older.sft", "oldest.sft"))
    full = room(cache, tmp_path, models_max_bytes=4 * SIZE)
    assert full.can_be_made("checkpoints/new.sft", 4 * SIZE, stays)
    assert not full.can_be_made("checkpoints/new.sft", 4 * SIZE + 1, stays)
    assert len(there(cache)) == 3, "that was a question"
    left = []
    for number in (1, 2, 3):
        full.make("checkpoints/new.sft", number * SIZE, lambda: stays)
        left.append(there(cache))
    assert left == [{"oldest.sft", "older.sft"}, {"oldest.sft"}, set()]
    assert parts(cache) == {"wanted.sft"}


def test_files_that_come_side_by_side_do_not_get_the_same_room(cache: ModelCache, tmp_path: Path) -> None:
    shared = room(cache, tmp_path, models_max_bytes=5 * SIZE)
    everybody = staying("oldest.sft", "older.sft", "old.sft")
    with shared.claimed("checkpoints/one.sft"):
        shared.make("checkpoints/one.sft", 2 * SIZE, everybody)
        with pytest.raises(ModelUnavailable, match=f"{5 * SIZE} bytes of fetched files"):
            shared.make("checkpoints/two.sft", 1, everybody)
        # Another host's, which is laid out in its full length.
        shared.make("checkpoints/one.sft", SIZE, everybody)
        path = gathered(cache, "far.sft", 0)
        os.truncate(cache.part_of(path), SIZE)
        with cache.fetching(path), pytest.raises(ModelUnavailable):
            shared.make("checkpoints/two.sft", 1, everybody)
        shared.make("checkpoints/two.sft", SIZE, everybody)
    shared.make("checkpoints/two.sft", 2 * SIZE, everybody)


def test_a_file_of_unknown_size_grows_while_there_is_room(cache: ModelCache, tmp_path: Path) -> None:
    limited = room(cache, tmp_path, models_max_bytes=5 * SIZE)
    assert [limited.grow("checkpoints/new.sft", size) for size in (SIZE, 2 * SIZE, 2 * SIZE + 1)] == [True, True, False]
    assert len(there(cache)) == 3, "nobody goes for it"
    free = cache.free_bytes()
    spared = room(cache, tmp_path, models_max_bytes=None, min_free_disk_bytes=free // 2)
    assert (spared.grow("checkpoints/new.sft", SIZE), spared.grow("checkpoints/new.sft", free)) == (True, False)
