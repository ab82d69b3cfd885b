"""Makes room for model files: of those that were fetched, the longest unused goes first, and none that is in use."""

from __future__ import annotations

import logging
from collections.abc import Callable

from comfy.model_files.cache import CachedFile, ModelCache
from core.errors import ModelUnavailable
from core.settings import Settings

log = logging.getLogger(__name__)

#: Names of files that must stay, as of now. May raise LedgerUnavailable.
InUse = Callable[[], frozenset[str]]


class ModelRoom:
    """The room in one host's folder of models."""

    def __init__(self, settings: Settings, cache: ModelCache) -> None:
        self._limit = settings.models_max_bytes
        self._spare = settings.min_free_disk_bytes
        self._cache = cache

    def make(self, path: str, size_bytes: int, in_use: InUse) -> None:
        """Have room for a file, if need be by sending others away.

        Parameters:
          size_bytes: how many bytes are still to come.
        Raises:
          ModelUnavailable: all that could go would not be enough; nothing was sent away.
        """
        others = [file for file in self._cache.files() if file.path != path]
        lacking = self._lacking(others, size_bytes)
        if lacking <= 0:
            return
        keep = in_use()
        may_go = sorted((file for file in others if file.name not in keep), key=lambda file: file.used_s)
        if sum(file.size_bytes for file in may_go) < lacking:
            raise ModelUnavailable(self._lack(path, size_bytes, others, may_go))
        for file in may_go:
            if lacking <= 0:
                return
            # Jobs come all the time: asked once more, right before it is too late.
            if file.name not in in_use():
                self._cache.remove(file.path)
                log.info("%s was sent away to make room for %s", file.path, path)
                lacking -= file.size_bytes
        if lacking > 0:
            raise ModelUnavailable(self._lack(path, size_bytes, others, []))

    def _lacking(self, others: list[CachedFile], size_bytes: int) -> int:
        over_limit = 0
        if self._limit is not None:
            over_limit = sum(file.size_bytes for file in others) + size_bytes - self._limit
        return max(over_limit, size_bytes + self._spare - self._cache.free_bytes())

    def _lack(self, path: str, size_bytes: int, others: list[CachedFile], may_go: list[CachedFile]) -> str:
        used = sum(file.size_bytes for file in others) - sum(file.size_bytes for file in may_go)
        limit = "" if self._limit is None else f", COMFYLINE_MODELS_MAX_BYTES={self._limit}"
        return (
            f"There is no room for {path}, {size_bytes} bytes: {used} bytes of fetched files are in use{limit}, and "
            f"the disk has {self._cache.free_bytes()} bytes left, of which {self._spare} stay free."
        )
