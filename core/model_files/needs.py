"""Which model files a host fetches, and in which order: pure functions.

Of a job whose files no GPU has, all are fetched by one host, or none would ever have all of them. Where GPUs have them
and would need long for what waits, one more host fetches them, by the rule that a GPU loads models by: what waits has
to take much longer than the fetch. No more than one is ever on its way to them, so that a backlog brings them to one
host after the other, for as long as there is need.

Each host works out by itself which one it is, from what the ledger says to all of them; when two of them see it
differently for a moment, a file is fetched twice, and nothing worse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from core.records.model_file import ModelCopy, ModelFile, Yield
from core.records.requirements import Requirements

#: The size of a file that nobody knows.
USUAL_BYTES = 5 * 10**9
#: How fast files come where nobody has seen one come, in bytes per second.
USUAL_BYTES_S = 100e6
#: What comes with less than this share of a host's usual speed leaves the rest to others.
SLOW_SHARE = 0.1
#: From a file's last byte until GPUs list it and jobs may go there.
LISTED_S = 3.0


@dataclass(frozen=True, kw_only=True)
class HostGpu:
    """A healthy GPU of a host that fetches model files."""

    pool: str | None = None
    vram_bytes: int | None = None
    #: The model files that it lists, as graphs call them, and with their folders before that; empty where it does not
    #: tell.
    names: frozenset[str] = frozenset()

    def lists(self, entry: ModelFile) -> bool:
        """Return whether it has a file, in the folder that loaders of its kind look into."""
        return (entry.listed_path if self._tells_folders else entry.name) in self.names

    @cached_property
    def _tells_folders(self) -> bool:
        """Workers of earlier versions do not."""
        return any(name.partition("/")[2] in self.names for name in self.names)


@dataclass(frozen=True, kw_only=True)
class FetchHost:
    """A host that fetches model files."""

    name: str
    gpus: tuple[HostGpu, ...] = ()
    #: Files that make room for others, see `core.model_files.yielding`.
    yields: tuple[Yield, ...] = ()

    def lists(self, entry: ModelFile) -> bool:
        """Return whether each of its GPUs has a file, from wherever."""
        return bool(self.gpus) and all(gpu.lists(entry) for gpu in self.gpus)

    def lists_anywhere(self, entry: ModelFile) -> bool:
        """Return whether one of its GPUs has a file."""
        return any(gpu.lists(entry) for gpu in self.gpus)

    def lists_name(self, name: str) -> bool:
        """Return whether each of its GPUs has a file of a name, in whichever folder."""
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
    #: The line they stand in.
    line_id: int = 0
    #: Where GPUs can run them, and others could if they had the files: how long those that can have to do for what they
    #: run and what waits for them, on average. None: no further host is to fetch them.
    backlog_s: float | None = None
    #: How long the GPUs of other hosts have to do themselves, by host.
    busy_s: Mapping[str, float] = field(default_factory=dict)
    #: How long a load of the files takes.
    load_s: float = 0.0
    priority: int = 0
    #: They go through a gate that lets nobody through: their batch is paused, say.
    is_shut: bool = False


@dataclass(frozen=True, kw_only=True)
class FleetNeeds:
    """What a fleet needs at one moment, and what is there."""

    hosts: tuple[FetchHost, ...] = ()
    needs: tuple[Need, ...] = ()
    #: Files of the jobs that run, by host.
    running: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: By host and path.
    copies: Mapping[tuple[str, str], ModelCopy] = field(default_factory=dict)
    #: How many bytes a second come to a host, as it was learned.
    speeds: Mapping[str, float] = field(default_factory=dict)
    #: How scarce idle GPUs are, see `core.scheduling.lines.Fleet`.
    scarcity: float = 1.0
    #: When all this was read.
    at_ms: int = 0

    def size_bytes(self, host: str, entry: ModelFile) -> int | None:
        """Return how large a file is, as the manifest or a host that fetches it says; None where nobody knows."""
        copy = self.copies.get((host, entry.path))
        return entry.size_bytes or (copy.size_bytes if copy is not None else None)

    def fetch_s(self, host: str, entry: ModelFile) -> float:
        """Return how long what is missing of a file takes to come to a host, expected."""
        copy = self.copies.get((host, entry.path))
        size = self.size_bytes(host, entry) or USUAL_BYTES
        if copy is not None and copy.state == "ready":
            return 0.0
        if copy is not None and copy.state == "fetching":
            return max(0, size - copy.done_bytes) / (copy.bytes_s or self._speed(host))
        return size / self._speed(host)

    def may_run_on(self, need: Need, hosts: Collection[str]) -> bool:
        """Return whether waiting jobs could run on one of some hosts, as far as is known, if that had their files."""
        known = {host.name: host for host in self.hosts}
        return any(name not in known or _suits(known[name], need) for name in hosts)

    def comes_beside(self, host: str, entry: ModelFile) -> bool:
        """Return whether a file comes so slowly, for lack of its source, that others come beside it all the same."""
        copy = self.copies.get((host, entry.path))
        return copy is not None and copy.state == "fetching" and 0 < copy.bytes_s < SLOW_SHARE * self._speed(host)

    def _speed(self, host: str) -> float:
        """Of this host; else of the fleet."""
        return self.speeds.get(host) or (fmean(self.speeds.values()) if self.speeds else USUAL_BYTES_S)


@dataclass(frozen=True, kw_only=True)
class Wants:
    """What a host wants to have, the most urgent first."""

    #: Of jobs that wait for them.
    for_jobs: tuple[ModelFile, ...] = ()
    #: Of jobs that wait for GPUs that have them and are too busy.
    to_help: tuple[ModelFile, ...] = ()
    #: That it keeps whether a job wants them or not.
    pinned: tuple[ModelFile, ...] = ()
    #: Of which it has what the manifest said before.
    outdated: tuple[ModelFile, ...] = ()

    @property
    def all(self) -> tuple[ModelFile, ...]:
        return tuple(dict.fromkeys((*self.for_jobs, *self.to_help, *self.pinned, *self.outdated)))


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
    own = next((each for each in fleet.hosts if each.name == host), None)
    for_jobs: list[ModelFile] = []
    to_help: list[ModelFile] = []
    for need in sorted(fleet.needs, key=lambda need: need.since_ms):
        if own is not None and host_for(need, fleet, known) == host:
            (for_jobs if need.is_held_up else to_help).extend(missing_files(need, own, known))
    pinned = (entry for entry in manifest if pinned_to(entry, pool=pool, tags=own_tags))
    return Wants(for_jobs=tuple(dict.fromkeys(for_jobs)), to_help=tuple(dict.fromkeys(to_help)), pinned=tuple(pinned))


def missing_files(need: Need, host: FetchHost, known: Mapping[str, Sequence[ModelFile]]) -> list[ModelFile]:
    """Return the entries of the files that a host lacks for waiting jobs."""
    return [entry for name in need.files for entry in known.get(name, ()) if not host.lists(entry)]


def host_for(need: Need, fleet: FleetNeeds, known: Mapping[str, Sequence[ModelFile]]) -> str | None:
    """Return the host that fetches the files of waiting jobs: the one that has most of them.

    None: no host may, or none is worth it.
    """
    if not need.is_held_up and need.backlog_s is None:
        return None

    def worth(host: FetchHost) -> tuple[int, int, int, str]:
        failed = there = 0
        for name in need.files:
            for entry in known.get(name, ()):
                copy = fleet.copies.get((host.name, entry.path))
                failed += copy is not None and copy.state == "failed"
                if host.lists(entry) or (copy is not None and copy.state != "failed"):
                    there += entry.size_bytes or USUAL_BYTES
        busy = sum(copy.state == "fetching" for copy in fleet.copies.values() if copy.host == host.name)
        return -failed, there, -busy, host.name

    able = [host for host in fleet.hosts if _suits(host, need)]
    if not need.is_held_up:
        able = _helpers(need, able, fleet, known)
    return max(able, key=worth).name if able else None


def arrivals_of(fleet: FleetNeeds, manifest: Sequence[ModelFile]) -> dict[int, tuple[str, float]]:
    """Return where and in how many seconds all files of waiting jobs will have come, by the id of their line.

    What is to come to the same host before is reckoned in. Jobs are left out whose files nobody fetches, or that need
    one that could not be fetched, or that comes behind one of unknown size.
    """
    known = by_name(manifest)
    hosts = {host.name: host for host in fleet.hosts}
    queued: dict[str, list[Need]] = defaultdict(list)
    for need in sorted(fleet.needs, key=lambda need: (not need.is_held_up, need.since_ms)):
        if (name := host_for(need, fleet, known)) is not None:
            queued[name].append(need)
    found: dict[int, tuple[str, float]] = {}
    for name, needs in queued.items():
        ready_s = _ready_s(hosts[name], needs, fleet, known)
        for need in needs:
            times_s = [ready_s[entry] for entry in missing_files(need, hosts[name], known)]
            if None not in times_s:
                found[need.line_id] = name, LISTED_S + max((each for each in times_s if each is not None), default=0.0)
    return found


def _ready_s(
    host: FetchHost, needs: Sequence[Need], fleet: FleetNeeds, known: Mapping[str, Sequence[ModelFile]]
) -> dict[ModelFile, float | None]:
    """Until each file that a host fetches for jobs is there; None where that is not known.

    Some come side by side, and share what comes to the host: the last one is there as soon as one after the other.
    """

    def state(entry: ModelFile) -> str | None:
        copy = fleet.copies.get((host.name, entry.path))
        return None if copy is None else copy.state

    wanted = dict.fromkeys(entry for need in needs for entry in missing_files(need, host, known))
    ready_s: dict[ModelFile, float | None] = {}
    passed_s: float | None = 0.0
    # What is under way is not left for another.
    for entry in sorted(wanted, key=lambda entry: state(entry) != "fetching"):
        if state(entry) == "failed":
            ready_s[entry] = None
            continue
        if fleet.size_bytes(host.name, entry) is None:
            passed_s = None
        ready_s[entry] = None if passed_s is None else passed_s + fleet.fetch_s(host.name, entry)
        if not fleet.comes_beside(host.name, entry):
            passed_s = ready_s[entry]
    return ready_s


def _suits(host: FetchHost, need: Need) -> bool:
    return any(
        need.requires is None or need.requires.are_met_by(pool=gpu.pool, vram_bytes=gpu.vram_bytes) for gpu in host.gpus
    )


def _helpers(
    need: Need, able: Sequence[FetchHost], fleet: FleetNeeds, known: Mapping[str, Sequence[ModelFile]]
) -> list[FetchHost]:
    """Return the hosts of which one is to have the files, too: none, if what waits is done nearly as soon without."""
    lacking = {
        host.name: [entry for entry in missing_files(need, host, known) if not host.lists_anywhere(entry)]
        for host in able
    }
    others = [
        host
        for host in able
        if lacking[host.name] and all(host.lists_name(name) or name in known for name in need.files)
    ]
    # It was chosen, and is fetching them, or its GPUs are about to list them.
    under_way = [
        host
        for host in others
        for entry in lacking[host.name]
        if (copy := fleet.copies.get((host.name, entry.path))) is not None and copy.state != "failed"
    ]
    return [
        host
        for host in under_way or others
        if _is_worth_it(need, sum(fleet.fetch_s(host.name, entry) for entry in lacking[host.name]), host, fleet)
    ]


def _is_worth_it(need: Need, fetch_s: float, host: FetchHost, fleet: FleetNeeds) -> bool:
    """Whether what waits takes so much longer than until this host could begin, as `core.scheduling.policy` weighs."""
    assert need.backlog_s is not None
    # Files come while the GPUs work.
    begins_s = max(fetch_s + LISTED_S, need.busy_s.get(host.name, 0.0)) + need.load_s
    return need.backlog_s > (1.0 + fleet.scarcity) * begins_s
