"""The input files that a GPU host keeps: fetched once, found by their hashes, and the longest unused go."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

from core.storage import input_cache as input_cache_module
from core.storage.folders import FRESH_S, BucketFault, content_key
from core.storage.input_cache import InputCache, input_cache
from tests.services import make_settings

SIZE = 100


class Storage:
    """Files by their keys, and how often each was fetched."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        #: What happens in the middle of a fetch.
        self.meanwhile: Callable[[Path], None] = lambda _target: None

    def add(self, content: bytes) -> str:
        key = content_key(blake3(content).hexdigest())
        self.files[key] = content
        return key

    def fetch(self, key: str, target: Path) -> None:
        self.fetched.append(key)
        if key not in self.files:
            raise FileNotFoundError(key)
        self.meanwhile(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.files[key])


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(folder: Path) -> InputCache:
    return InputCache(folder, most_bytes=10 * SIZE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "instance" / "input" / "a.png"


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def kept(folder: Path) -> set[str]:
    """The keys of what is kept."""
    return {f"{path.parent.name}/{path.name}" for path in folder.glob("??/*")}


def age(folder: Path, key: str, seconds: float) -> None:
    at_s = time.time() - seconds
    os.utime(folder / key, (at_s, at_s))


class TestBringing:
    def test_a_file_comes_once(self, cache: InputCache, storage: Storage, folder: Path, target: Path) -> None:
        key = storage.add(content(1))
        assert cache.bring(key, target, storage.fetch)
        other = target.with_name("b.png")
        assert not cache.bring(key, other, storage.fetch)
        assert (target.read_bytes(), other.read_bytes()) == (content(1), content(1))
        assert storage.fetched == [key]
        assert {path.name for path in target.parent.iterdir()} == {"a.png", "b.png"}
        assert [*(folder / "drafts").iterdir(), *(folder / "locks").iterdir()] == []

    def test_what_is_done_to_the_copy_reaches_no_other(self, cache: InputCache, storage: Storage, target: Path) -> None:
        key = storage.add(content(1))
        cache.bring(key, target, storage.fetch)
        target.write_bytes(b"changed")
        cache.bring(key, target, storage.fetch)
        assert target.read_bytes() == content(1)

    @pytest.mark.parametrize("damage", ["changed", "cut", "empty"])
    def test_what_the_disk_has_spoilt_is_fetched_anew(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path, damage: str
    ) -> None:
        key = storage.add(content(1))
        cache.bring(key, target, storage.fetch)
        (folder / key).write_bytes({"changed": content(2), "cut": content(1)[:50], "empty": b""}[damage])
        assert cache.bring(key, target, storage.fetch)
        assert target.read_bytes() == content(1)
        assert (folder / key).read_bytes() == content(1)
        assert storage.fetched == [key, key]

    def test_what_is_not_what_its_key_says_is_not_taken(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        key = storage.add(content(1))
        storage.files[key] = content(2)
        with pytest.raises(BucketFault, match="by its hash"):
            cache.bring(key, target, storage.fetch)
        assert kept(folder) == set()
        assert not target.exists()
        assert list((folder / "drafts").iterdir()) == []

    def test_what_storage_has_no_more(self, cache: InputCache, storage: Storage, target: Path) -> None:
        with pytest.raises(FileNotFoundError):
            cache.bring(content_key("0" * 64), target, storage.fetch)

    def test_a_key_that_is_no_hash_is_not_kept(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        storage.files["k/a"] = content(1)
        assert cache.bring("k/a", target, storage.fetch)
        assert target.read_bytes() == content(1)
        assert not folder.exists()

    def test_without_room_for_any_nothing_is_kept(self, storage: Storage, folder: Path, target: Path) -> None:
        key = storage.add(content(1))
        assert InputCache(folder, most_bytes=0).bring(key, target, storage.fetch)
        assert target.read_bytes() == content(1)
        assert not folder.exists()

    def test_two_at_once_fetch_once(
        self, storage: Storage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As two workers of one host do: each has a cache of its own, and both the folder."""
        key, begun, second_waits = storage.add(content(1)), threading.Event(), threading.Event()
        locked = input_cache_module._locked

        def lock(path: Path) -> int | None:
            descriptor = locked(path)
            if descriptor is None:
                second_waits.set()
            return descriptor

        def meanwhile(_target: Path) -> None:
            begun.set()
            assert second_waits.wait(20)

        monkeypatch.setattr(input_cache_module, "_locked", lock)
        storage.meanwhile = meanwhile
        came: dict[str, bool] = {}

        def bring(name: str) -> None:
            own = InputCache(folder, most_bytes=10 * SIZE)
            came[name] = own.bring(key, target.with_name(name), storage.fetch)

        threads = [threading.Thread(target=bring, args=(name,)) for name in ("first", "second")]
        threads[0].start()
        assert begun.wait(20)
        threads[1].start()
        for thread in threads:
            thread.join(20)
        assert came == {"first": True, "second": False}
        assert storage.fetched == [key]
        assert target.with_name("second").read_bytes() == content(1)

    def test_a_fetch_that_comes_to_no_end_is_not_waited_for_for_ever(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(input_cache_module, "PATIENCE_S", 0.1)
        key = storage.add(content(1))
        (folder / "locks").mkdir(parents=True)
        with (folder / "locks" / key.partition("/")[2]).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert cache.bring(key, target, storage.fetch)
        assert target.read_bytes() == content(1)
        assert kept(folder) == set(), "that is the other one's"

    def test_one_that_goes_on_is_waited_for(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(input_cache_module, "PATIENCE_S", 0.5)
        key = storage.add(content(1))
        digest = key.partition("/")[2]
        for name in ("locks", "drafts"):
            (folder / name).mkdir(parents=True)
        looks: list[float] = []

        def look_again(seconds: float) -> None:
            looks.append(seconds)
            with (folder / "drafts" / f".{digest}.1.part").open("ab") as draft:
                draft.write(b"x")
            if len(looks) == 100:
                (folder / key).parent.mkdir()
                (folder / key).write_bytes(content(1))
                held.close()

        watch = _Watch(look_again)
        monkeypatch.setattr(input_cache_module, "time", watch)
        held = (folder / "locks" / digest).open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not cache.bring(key, target, storage.fetch)
        assert watch.now_s > 2.0

    def test_what_a_killed_one_left_goes(self, cache: InputCache, storage: Storage, folder: Path, target: Path) -> None:
        key = storage.add(content(1))
        drafts = folder / "drafts"
        drafts.mkdir(parents=True)
        digest = key.partition("/")[2]
        left, old, others = (drafts / name for name in (f".{digest}.1.part", "old", "of-another"))
        for path in (left, old, others):
            path.write_bytes(b"half")
        os.utime(old, (time.time() - FRESH_S - 1,) * 2)
        cache.bring(key, target, storage.fetch)
        assert list(drafts.iterdir()) == [others]


class _Watch:
    """What the cache knows as `time`."""

    def __init__(self, look: Callable[[float], None]) -> None:
        self.now_s = 0.0
        self._look = look

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self._look(seconds)


class TestRoom:
    def test_the_longest_unused_go(self, cache: InputCache, storage: Storage, folder: Path, target: Path) -> None:
        keys = [storage.add(content(number)) for number in range(11)]
        for number, key in enumerate(keys[:10]):
            cache.bring(key, target, storage.fetch)
            age(folder, key, 1000 - number)
        assert kept(folder) == set(keys[:10])
        # Used again, it is the newest.
        cache.bring(keys[0], target, storage.fetch)
        cache.bring(keys[10], target, storage.fetch)
        assert kept(folder) == {keys[0], *keys[2:]}

    def test_so_many_go_that_not_each_file_has_others_removed(
        self, storage: Storage, folder: Path, target: Path
    ) -> None:
        cache = InputCache(folder, most_bytes=40 * SIZE)
        for number in range(41):
            cache.bring(storage.add(content(number)), target, storage.fetch)
        assert len(kept(folder)) == 37

    def test_one_that_is_larger_than_all_is_not_kept(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        small, large = storage.add(content(1)), storage.add(b"l" * (11 * SIZE))
        cache.bring(small, target, storage.fetch)
        assert cache.bring(large, target, storage.fetch)
        assert target.read_bytes() == b"l" * (11 * SIZE)
        assert kept(folder) == {small}

    def test_one_in_use_stays(self, cache: InputCache, storage: Storage, folder: Path, target: Path) -> None:
        keys = [storage.add(content(number)) for number in range(11)]
        for number, key in enumerate(keys[:10]):
            cache.bring(key, target, storage.fetch)
            age(folder, key, 1000 - number)
        with (folder / keys[0]).open("rb") as reading:
            fcntl.flock(reading, fcntl.LOCK_SH)
            cache.bring(keys[10], target, storage.fetch)
        assert kept(folder) == {keys[0], *keys[2:]}

    def test_what_nobody_counted_is_found_when_room_is_made(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        """A count that went with a crash is made anew."""
        keys = [storage.add(content(number)) for number in range(11)]
        for key in keys[:10]:
            cache.bring(key, target, storage.fetch)
        (folder / "total").unlink()
        cache.bring(keys[10], target, storage.fetch)
        assert len(kept(folder)) == 10
        assert (folder / "total").read_text() == str(10 * SIZE)

    def test_some_of_the_disk_is_spared(
        self, storage: Storage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = InputCache(folder, most_bytes=100 * SIZE, spared_bytes=5 * SIZE)
        disk = Disk(monkeypatch, folder, 9 * SIZE)
        for number in range(6):
            cache.bring(storage.add(content(number)), target, storage.fetch)
            assert disk.free_bytes >= 5 * SIZE
        assert len(kept(folder)) == 4

    def test_it_gives_way_when_the_disk_fills(
        self, storage: Storage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = InputCache(folder, most_bytes=100 * SIZE, spared_bytes=5 * SIZE)
        disk = Disk(monkeypatch, folder, 9 * SIZE)
        assert cache.give_way() == 0
        for number in range(4):
            cache.bring(storage.add(content(number)), target, storage.fetch)
        assert cache.give_way() == 0
        disk.size_bytes -= 2 * SIZE
        assert cache.give_way() == 2 * SIZE
        assert disk.free_bytes == 5 * SIZE
        disk.size_bytes = 0
        assert cache.give_way() == 2 * SIZE
        assert (folder / "total").read_text() == "0"

    def test_a_disk_without_room_is_emptied_of_it(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        old, new = storage.add(content(1)), storage.add(content(2))
        cache.bring(old, target, storage.fetch)

        def full(_target: Path) -> None:
            if kept(folder):
                raise OSError(errno.ENOSPC, "no room")

        storage.meanwhile = full
        assert cache.bring(new, target, storage.fetch)
        assert kept(folder) == {new}
        assert target.read_bytes() == content(2)

    def test_a_bucket_without_room_is_no_matter_of_this_disk(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        old, new = storage.add(content(1)), storage.add(content(2))
        cache.bring(old, target, storage.fetch)

        def refuse(_target: Path) -> None:
            raise BucketFault(errno.ENOSPC, "the bucket is full")

        storage.meanwhile = refuse
        with pytest.raises(BucketFault):
            cache.bring(new, target, storage.fetch)
        assert kept(folder) == {old}


class TestForgetting:
    def test_what_nobody_used_for_long_goes(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        """Somebody may have deleted it from storage."""
        old, used, new = (storage.add(content(number)) for number in range(3))
        for key in (old, used, new):
            cache.bring(key, target, storage.fetch)
        age(folder, old, 7300)
        age(folder, used, 7300)
        age(folder, new, 7100)
        cache.bring(used, target, storage.fetch)
        assert cache.forget(unused_s=7200) == 1
        assert kept(folder) == {used, new}
        assert (folder / "total").read_text() == str(2 * SIZE)

    def test_what_the_dead_have_left_goes(
        self, cache: InputCache, storage: Storage, folder: Path, target: Path
    ) -> None:
        cache.bring(storage.add(content(1)), target, storage.fetch)
        for name in ("drafts/old", "drafts/new", "locks/old"):
            (folder / name).write_bytes(b"half")
        for name in ("drafts/old", "locks/old"):
            age(folder, name, FRESH_S + 60)
        assert cache.forget(unused_s=1) == 0
        assert [path.name for path in (folder / "drafts").iterdir()] == ["new"]
        assert list((folder / "locks").iterdir()) == []

    def test_there_may_be_none(self, cache: InputCache, folder: Path) -> None:
        assert cache.forget(unused_s=1) == 0
        assert not folder.exists()


class Disk:
    """A disk of so many bytes with a cache on it, and nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._folder = folder
        monkeypatch.setattr(shutil, "disk_usage", self._usage)

    @property
    def free_bytes(self) -> int:
        used = sum(path.stat().st_size for path in [*self._folder.glob("??/*"), *self._folder.glob("drafts/*")])
        return max(0, self.size_bytes - used)

    def _usage(self, _path: Path) -> Any:
        return SimpleNamespace(free=self.free_bytes)


def test_a_hosts_cache_is_as_its_settings_say(storage: Storage, target: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, input_cache_gb=SIZE / 10**9, min_free_disk_bytes=0)
    settings.make_data_dir()
    for number in range(2):
        input_cache(settings).bring(storage.add(content(number)), target, storage.fetch)
    assert len(kept(settings.data_dir / "input-cache")) == 1
