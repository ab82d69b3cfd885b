"""The folder of models of a host: what was fetched, what is the operator's, and locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfy.model_files.cache import ModelCache
from comfy.model_files.journal import journal_of
from core.errors import ModelRefused, ModelUnavailable
from tests.paths import ROOT

PATH = "checkpoints/sub/x.safetensors"
SHA = "0" * 64
LOCK = """
import sys
from pathlib import Path
from comfy.model_files.cache import ModelCache
with ModelCache(Path(sys.argv[1])).locked("one") as is_ours:
    print(is_ours, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path)


def fetched(cache: ModelCache, path: str = PATH, body: bytes = b"weights", sha256: str = SHA) -> Path:
    part = cache.part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(body)
    cache.keep(path, sha256=sha256, size_bytes=len(body))
    return cache.place_of(path)


def test_what_was_fetched_is_there(cache: ModelCache) -> None:
    assert cache.holds(PATH, sha256=SHA, size_bytes=7) is None
    place = fetched(cache)
    assert place.read_bytes() == b"weights"
    assert not cache.part_of(PATH).exists()
    assert cache.holds(PATH, sha256=SHA, size_bytes=7) == cache.holds(PATH, sha256=None, size_bytes=None) == 7
    assert [(file.path, file.name, file.size_bytes) for file in cache.files()] == [(PATH, "sub/x.safetensors", 7)]


def test_another_hash_means_another_file(cache: ModelCache) -> None:
    fetched(cache)
    assert cache.holds(PATH, sha256="1" * 64, size_bytes=None) is None
    fetched(cache, body=b"newer", sha256="1" * 64)
    assert cache.holds(PATH, sha256="1" * 64, size_bytes=5) == 5
    assert len(cache.files()) == 1


def test_what_an_operator_put_there_stays_his(cache: ModelCache) -> None:
    place = cache.place_of(PATH)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"his own")
    assert cache.holds(PATH, sha256=SHA, size_bytes=7) == cache.holds(PATH, sha256=SHA, size_bytes=None) == 7
    assert cache.files() == []
    with pytest.raises(ModelRefused, match=f"{PATH} is another file, of 7 bytes"):
        cache.holds(PATH, sha256=SHA, size_bytes=8)


def test_a_fetched_file_that_somebody_replaced_is_ours_no_more(cache: ModelCache) -> None:
    place = fetched(cache)
    place.unlink()
    assert (cache.files(), cache.holds(PATH, sha256=SHA, size_bytes=7)) == ([], None)
    place.write_bytes(b"another one")
    assert cache.files() == []


def test_a_journal_goes_when_its_file_is_in_its_place(cache: ModelCache) -> None:
    journal = journal_of(cache.part_of(PATH))
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.touch()
    fetched(cache)
    assert not journal.exists()


def test_a_kill_between_the_record_and_the_move_is_made_good(
    cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fetched(cache, body=b"old")
    part = cache.part_of(PATH)
    part.write_bytes(b"newer")
    journal_of(part).touch()
    # As `keep` does, up to the move.
    other = ModelCache(tmp_path)
    monkeypatch.setattr(other, "place_of", lambda _path: tmp_path / "away" / "x")
    monkeypatch.setattr(other, "part_of", lambda _path: part)
    with pytest.raises(ModelUnavailable, match="cannot be put into its place"):
        other.keep(PATH, sha256="1" * 64, size_bytes=5)
    assert place.read_bytes() == b"old"

    assert cache.holds(PATH, sha256="1" * 64, size_bytes=5) == 5

    assert place.read_bytes() == b"newer"
    assert not journal_of(part).exists()


def test_use_makes_a_file_younger(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.note_use(["sub/x.safetensors"])
    assert not (cache.folder / ".comfyline").exists(), "where nothing is fetched, nothing is noted"
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 3600)
    fetched(cache)
    assert cache.files()[0].used_s == now_s - 3600
    cache.note_use(["sub/x.safetensors", "unknown"])
    assert cache.files()[0].used_s >= now_s - 5


def test_what_is_removed_is_gone(cache: ModelCache) -> None:
    fetched(cache)
    cache.remove(PATH)
    cache.remove(PATH)
    assert (cache.files(), cache.place_of(PATH).exists()) == ([], False)


def test_one_process_holds_a_lock_until_it_is_killed(cache: ModelCache, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCK, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with cache.locked("one") as is_ours, cache.locked("two") as is_other:
            assert (is_ours, is_other) == (False, True)
    finally:
        holder.kill()
        holder.communicate()
    with cache.locked("one") as is_ours:
        assert is_ours


def gathered(cache: ModelCache, name: str, *, size: int = 0, age_s: float = 0.0) -> str:
    """Have a part of a file; returns the file's path."""
    path = f"checkpoints/sub/{name}.sft"
    part = cache.part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"x" * size)
    journal_of(part).touch()
    os.utime(part, (time.time() - age_s,) * 2)
    return path


def parts_of(cache: ModelCache) -> set[str]:
    return {path.name for path in (cache.folder / "checkpoints" / "sub").iterdir()}


def test_parts_that_nobody_waits_for_go_after_a_day_and_others_with_their_entry(cache: ModelCache) -> None:
    known = {gathered(cache, name, age_s=10**6) for name in ("wanted", "old")} | {gathered(cache, "young")}
    gathered(cache, "removed")
    cache.remove_parts(known=known, wanted={"checkpoints/sub/wanted.sft"})
    assert parts_of(cache) == {
        f".{name}.sft.comfyline.{ending}" for name in ("wanted", "young") for ending in ("journal", "part")
    }


def test_parts_of_other_tools_are_none_of_ours(cache: ModelCache) -> None:
    path = gathered(cache, "a", age_s=10**6)
    others = {".a.sft.part", ".a.sft.journal", ".b.sft.part", "c.sft.part", "c.sft.comfyline.part"}
    for name in others:
        (cache.part_of(path).parent / name).write_bytes(b"theirs")
    assert [part.path for part in cache.parts()] == [path]
    cache.remove_parts(known=(), wanted=())
    assert cache.remove_part("checkpoints/sub/b.sft") is True
    assert parts_of(cache) == others


def test_a_part_that_somebody_adds_to_stays(cache: ModelCache) -> None:
    path = gathered(cache, "a")
    with cache.fetching(path) as is_ours:
        assert is_ours
        assert cache.is_under_way(path)
        cache.remove_parts(known=(), wanted=())
        assert cache.remove_part(path) is False
        assert parts_of(cache) == {".a.sft.comfyline.journal", ".a.sft.comfyline.part"}
    assert not cache.is_under_way(path)
    assert cache.remove_part(path) is True
    assert parts_of(cache) == set()


def test_a_part_takes_what_it_takes_on_the_disk(cache: ModelCache) -> None:
    path = gathered(cache, "a", size=100_000)
    os.truncate(cache.part_of(path), 10**9)
    [part] = cache.parts()
    assert (part.path, part.name, part.whole_bytes) == (path, "sub/a.sft", 10**9)
    assert 100_000 <= part.disk_bytes < 10**6


def test_a_thread_does_not_get_the_lock_of_another(cache: ModelCache) -> None:
    with cache.locked("one") as first, cache.locked("one") as second:
        assert (first, second) == (True, False)
    with cache.locked("one") as third:
        assert third, "the second one has not let it go, and the first one has"
