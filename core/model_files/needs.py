"""Which model files a host fetches, in which order, and which it may send away: pure functions.

Of a job whose files no GPU has, all are fetched by one host, or none would ever have all of them. Each host works out
by itself which one that is, from what the ledger says to all of them; when two of them see it differently for a moment,
a file is fetched twice, and nothing worse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.records.model_file import ModelCopy, ModelFile
from core.records.requirements import Requirements

#: The size of a file that nobody knows.
USUAL_BYTES = 5 * 10**9


@dataclass(frozen=True, kw_only=True)
class HostGpu:
    """A healthy GPU of a host that fetches model files."""

    pool: str | None = None
    vram_bytes: int | None = None
    #: The model files that it lists, as graphs call them; empty where it does not tell.
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class FetchHost:
    """A host that fetches model files."""

    name: str
    gpus: tuple[HostGpu, ...] = ()

    def lists(self, name: str) -> bool:
        """Return whether each of its GPUs has a file, from wherever."""
        return bool(self.gpus) and all(name in gpu.names for gpu in self.gpus)


@dataclass(frozen=True, kw_only=True)
class Need:
    """Waiting jobs that load the same files."""

    #: As graphs call them.
    files: tuple[str, ...]
    requires: Requirements | None = None
    since_ms: int = 0
    #: No GPU can run them before some of the files are there.
    is_held_up: bool = False


@dataclass(frozen=True, kw_only=True)
class FleetNeeds:
    """What a fleet needs at one moment, and what is there."""

    hosts: tuple[FetchHost, ...] = ()
    needs: tuple[Need, ...] = ()
    #: Files of the jobs that run, by host.
    running: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: By host and path.
    copies: Mapping[tuple[str, str], ModelCopy] = field(default_factory=dict)

    def in_use(self, host: str) -> frozenset[str]:
        """Return the names of files that a host must not send away: running jobs load them, or waiting ones may."""
        return self.running.get(host, frozenset()).union(*(need.files for need in self.needs))


@dataclass(frozen=True, kw_only=True)
class Wants:
    """What a host wants to have, the most urgent first."""

    #: Of jobs that wait for them.
    for_jobs: tuple[ModelFile, ...] = ()
    #: That it keeps whether a job wants them or not.
    pinned: tuple[ModelFile, ...] = ()

    @property
    def all(self) -> tuple[ModelFile, ...]:
        return tuple(dict.fromkeys((*self.for_jobs, *self.pinned)))


def by_name(manifest: Iterable[ModelFile]) -> dict[str, list[ModelFile]]:
    """Return the entries by what graphs call them: the same name may stand in several folders."""
    found: dict[str, list[ModelFile]] = defaultdict(list)
    for entry in manifest:
        found[entry.name].append(entry)
    return found


def pinned_to(entry: ModelFile, *, pool: str | None, tags: Iterable[str]) -> bool:
    """Return whether a host of this pool, with these tags, keeps a file whether a job wants it or not."""
    return pool in entry.pools or not set(tags).isdisjoint(entry.tags)


def wants_of(
    host: str, fleet: FleetNeeds, manifest: Sequence[ModelFile], *, pool: str | None, tags: Iterable[str]
) -> Wants:
    """Return what a host wants to have.

    Parameters:
      pool, tags: those of the host, which pin files to it.
    """
    known = by_name(manifest)
    own_tags = frozenset(tags)
    for_jobs: list[ModelFile] = []
    for need in sorted(fleet.needs, key=lambda need: need.since_ms):
        if need.is_held_up and host_for(need, fleet, known) == host:
            own = next(each for each in fleet.hosts if each.name == host)
            for_jobs += [entry for name in need.files if not own.lists(name) for entry in known.get(name, ())]
    pinned = (entry for entry in manifest if pinned_to(entry, pool=pool, tags=own_tags))
    return Wants(for_jobs=tuple(dict.fromkeys(for_jobs)), pinned=tuple(pinned))


def host_for(need: Need, fleet: FleetNeeds, known: Mapping[str, Sequence[ModelFile]]) -> str | None:
    """Return the host that fetches the files of waiting jobs: the one that has most of them. None: no host may."""

    def suits(host: FetchHost) -> bool:
        return any(
            need.requires is None or need.requires.are_met_by(pool=gpu.pool, vram_bytes=gpu.vram_bytes)
            for gpu in host.gpus
        )

    def worth(host: FetchHost) -> tuple[int, int, int, str]:
        failed = there = 0
        for name in need.files:
            for entry in known.get(name, ()):
                copy = fleet.copies.get((host.name, entry.path))
                failed += copy is not None and copy.state == "failed"
                if host.lists(name) or (copy is not None and copy.state != "failed"):
                    there += entry.size_bytes or USUAL_BYTES
        busy = sum(copy.state == "fetching" for copy in fleet.copies.values() if copy.host == host.name)
        return -failed, there, -busy, host.name

    able = [host for host in fleet.hosts if suits(host)]
    return max(able, key=worth).name if able else None
