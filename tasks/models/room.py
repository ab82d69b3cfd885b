"""Makes room for model files: of those that were fetched, the longest unused goes first, and none that is in use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from comfy.model_files.cache import CachedFile, ModelCache, PartFile
from core.errors import ModelUnavailable
from core.model_files.stays import Stays
from core.settings import Settings

log = logging.getLogger(__name__)

#: Says which files stay, as of now. May raise LedgerUnavailable.
StaysNow: TypeAlias = Callable[[], Stays]


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What holds room beside one file."""

    files: list[CachedFile]
    #: Parts that nobody adds to.
    idle: list[PartFile]
    #: What the files that are being fetched will take, and how much of that is not on the disk yet.
    claimed_bytes: int
    coming_bytes: int

    @property
    def limited_bytes(self) -> int:
        """What counts for COMFYLINE_MODELS_MAX_BYTES."""
        return sum(map(_bytes, self.files)) + sum(map(_bytes, self.idle)) + self.claimed_bytes


class ModelRoom:
    """The room in one host's folder of models, shared out among the files that are being fetched."""

    def __init__(self, settings: Settings, cache: ModelCache, *, gone: Callable[[], None] = lambda: None) -> None:
        """Parameters:
        gone: called when a file was sent away.
        """
        self._limit = settings.models_max_bytes
        self._spare = settings.min_free_disk_bytes
        self._cache = cache
        self._gone = gone
        self._lock = threading.Lock()
        #: How large the files will be that this process fetches.
        self._claims: dict[str, int] = {}

    @contextmanager
    def claimed(self, path: str) -> Iterator[None]:
        """Fetch a file within the block: the room that was made for it is let go at its end."""
        try:
            yield
        finally:
            with self._lock:
                self._claims.pop(path, None)

    def make(self, path: str, size_bytes: int, stays: StaysNow) -> None:
        """Have room for a file, if need be by sending others away.

        Parameters:
          size_bytes: of the whole file; what is there of it already counts as there.
        Raises:
          ModelUnavailable: all that could go would not be enough; nothing was sent away.
        """
        with self._lock:
            self._make(path, size_bytes, stays)
            self._claims[path] = size_bytes

    def is_made(self, path: str) -> bool:
        """Return whether a file that is being fetched has its room."""
        return path in self._claims

    def can_be_made(self, path: str, size_bytes: int, stays: Stays) -> bool:
        """Return whether `make` would have room for a file. Raises ModelUnavailable: the disk cannot be looked at."""
        with self._lock:
            held = self._held(path)
            return self._lacking(path, size_bytes, held) <= sum(map(_bytes, _may_go(held, stays)))

    def grow(self, path: str, size_bytes: int) -> bool:
        """Have room for a file whose size nobody knows, as far as it has come; nobody is sent away for it.

        Returns: whether there is room for so many bytes of it.
        """
        with self._lock:
            has_room = self._lacking(path, size_bytes, self._held(path)) <= 0
            if has_room:
                self._claims[path] = size_bytes
            return has_room

    def _make(self, path: str, size_bytes: int, stays: StaysNow) -> None:
        held = self._held(path)
        lacking = self._lacking(path, size_bytes, held)
        if lacking <= 0:
            return
        may_go = _may_go(held, stays())
        if sum(map(_bytes, may_go)) < lacking:
            raise self._lack(path, size_bytes, held.limited_bytes - sum(map(_bytes, may_go)))
        for each in may_go:
            if lacking <= 0:
                return
            if self._send_away(each, path, stays):
                lacking -= _bytes(each)
        if lacking > 0:
            raise self._lack(path, size_bytes, self._held(path).limited_bytes)

    def _send_away(self, goer: PartFile | CachedFile, path: str, stays: StaysNow) -> bool:
        if isinstance(goer, PartFile):
            is_gone = self._cache.remove_part(goer.path)
        else:
            # Jobs come all the time: asked once more, right before it is too late.
            is_gone = goer.name not in stays().names
            if is_gone:
                self._cache.remove(goer.path)
                self._gone()
        if is_gone:
            what = "What there was of " if isinstance(goer, PartFile) else ""
            log.info("%s%s was sent away to make room for %s", what, goer.path, path)
        return is_gone

    def _held(self, path: str) -> _Held:
        on_disk = {part.path: part for part in self._cache.parts() if part.path != path}
        claims = {each: size for each, size in self._claims.items() if each != path}
        # Another host that shares the folder says how large its file will be by how it lays out the part.
        claims |= {
            part.path: part.whole_bytes
            for part in on_disk.values()
            if part.path not in claims and self._cache.is_under_way(part.path)
        }
        there = {each: on_disk[each].disk_bytes if each in on_disk else 0 for each in claims}
        return _Held(
            files=[file for file in self._cache.files() if file.path != path],
            idle=[part for part in on_disk.values() if part.path not in claims],
            claimed_bytes=sum(claims.values()),
            coming_bytes=sum(max(0, size - there[each]) for each, size in claims.items()),
        )

    def _lacking(self, path: str, size_bytes: int, held: _Held) -> int:
        own = next((part.disk_bytes for part in self._cache.parts() if part.path == path), 0)
        over_limit = 0 if self._limit is None else held.limited_bytes + size_bytes - self._limit
        coming = max(0, size_bytes - own) + held.coming_bytes
        return max(over_limit, coming + self._spare - self._cache.free_bytes())

    def _lack(self, path: str, size_bytes: int, used_bytes: int) -> ModelUnavailable:
        limit = "" if self._limit is None else f", COMFYLINE_MODELS_MAX_BYTES={self._limit}"
        return ModelUnavailable(
            f"There is no room for {path}, {size_bytes} bytes: {used_bytes} bytes of fetched files are in use{limit}, "
            f"and the disk has {self._cache.free_bytes()} bytes left, of which {self._spare} stay free.",
            lacks_room_bytes=size_bytes,
        )


def _may_go(held: _Held, stays: Stays) -> list[PartFile | CachedFile]:
    """Return what may go for a file, in this order."""
    turns = {name: turn for turn, name in enumerate(stays.at_last)}
    spared = stays.names.union(turns)
    both: list[PartFile | CachedFile] = [*held.idle, *held.files]
    yielding = [each for each in both if each.name in turns]
    return [
        *sorted((part for part in held.idle if part.name not in spared), key=_used_s),
        *sorted((file for file in held.files if file.name not in spared), key=_used_s),
        *sorted(yielding, key=lambda each: turns[each.name]),
        # What is gathered of a file that is wanted and waits to be tried again: it must not block all others.
        *sorted((part for part in held.idle if part.name in stays.names), key=_used_s),
    ]


def _used_s(each: PartFile | CachedFile) -> float:
    return each.used_s


def _bytes(each: PartFile | CachedFile) -> int:
    return each.disk_bytes if isinstance(each, PartFile) else each.size_bytes
