"""Has files that jobs keep in use make room on a host, once others have waited for too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from comfy.model_files.cache import ModelCache
from core.ledger.models.yields import Yields
from core.model_files.needs import FleetNeeds, by_name
from core.model_files.stays import Stays
from core.model_files.yielding import overtaken_files
from core.records.model_file import ModelFile, Yield

log = logging.getLogger(__name__)

#: A claim that looked before the ledger was told is over by then.
SETTLED_S = 1.0


class Yielding:
    """The files that one host has make room, from when the ledger is told until they are gone. Of one thread."""

    def __init__(self, host: str, cache: ModelCache) -> None:
        self._host = host
        self._cache = cache
        self._since_s: dict[Yield, float] = {}

    @property
    def is_under_way(self) -> bool:
        return bool(self._since_s)

    @property
    def settled(self) -> tuple[str, ...]:
        """The files that no job begins with any more: they may go as soon as none runs."""
        now_s = time.monotonic()
        return tuple(each.name for each, since_s in tuple(self._since_s.items()) if now_s - since_s >= SETTLED_S)

    def choose(
        self,
        entry: ModelFile,
        size_bytes: int,
        fleet: FleetNeeds,
        manifest: Sequence[ModelFile],
        sharers: Collection[str],
        stays: Stays,
        fits: Callable[[int, Stays], bool],
    ) -> set[Yield]:
        """Return which files make room for one that lacks it; as few as will do, none before it is time.

        Parameters:
          stays: what stays as things are.
          fits: whether there is room for so many bytes, were only these to stay.
        """
        going: list[str] = []
        for name in overtaken_files(entry.name, self._host, fleet, manifest, sharers=sharers):
            going.append(name)
            if fits(size_bytes, replace(stays, names=stays.names.difference(going), at_last=(*stays.at_last, *going))):
                return {Yield(name=each, to=entry.path, by=self._host) for each in going}
        return set()

    def made_for(self, paths: Collection[str]) -> set[Yield]:
        """Return the files that make room for those with these paths."""
        return {each for each in self._since_s if each.to in paths}

    def tell(
        self,
        chosen: Collection[Yield],
        told: Yields,
        fleet: FleetNeeds,
        manifest: Sequence[ModelFile],
        sharers: Collection[str],
    ) -> None:
        """Tell the ledger, and take back what is not needed any more.

        Parameters: told - where the ledger has it. Raises: LedgerUnavailable.

        A file that is gone already is held back until no GPU lists it: who began a job with it would not find it.
        """
        hosts, known = {self._host, *sharers}, by_name(manifest)
        ours = [host for host in fleet.hosts if host.name in hosts]

        def is_missed(name: str) -> bool:
            gone = [entry for entry in known.get(name, ()) if not self._cache.place_of(entry.path).exists()]
            return any(host.lists_anywhere(entry) for entry in gone for host in ours)

        wanted = {*chosen, *(each for each in self._since_s if is_missed(each.name))}
        alive = {host.name for host in fleet.hosts}
        before = [frozenset(each for each in host.yields if each.by == self._host) for host in ours]
        strays = any(each.by not in alive for host in ours for each in host.yields)
        if strays or any(each != wanted for each in before):
            told.put(sorted(wanted, key=lambda each: each.name), by=self._host, hosts=hosts, alive=alive)
        for each in wanted.difference(self._since_s):
            log.info("no job begins with %s until it has made room for %s", each.name, each.to)
        now_s = time.monotonic()
        self._since_s = {each: self._since_s.get(each, now_s) for each in wanted}
