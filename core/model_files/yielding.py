"""Which files that jobs keep in use go for another one in the end, where a folder has no room for both.

Jobs come all the time, and each keeps its files on the disk. For memory the policy has a rule against that: no line is
passed over for jobs that came more than `OVERTAKING` loads after its head. The same holds for room on a disk, where a
fetch counts as a load: then the GPUs of the host begin no more jobs of the files that have to go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from core.model_files.needs import FleetNeeds, Need, by_name, host_for, missing_files
from core.records.model_file import ModelFile
from core.scheduling.policy import OVERTAKING


def overtaken_files(
    name: str, host: str, fleet: FleetNeeds, manifest: Sequence[ModelFile], *, sharers: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the files in use that are to go for one that a host wants, in this order; none, before it is time.

    Parameters:
      name: of the file that needs room, by what graphs call it.
      sharers: other hosts that keep their models in the same folder.
    """
    hosts, known = {host, *sharers}, by_name(manifest)
    wanting = [
        need
        for need in fleet.needs
        if need.is_held_up and not need.is_shut and name in need.files and host_for(need, fleet, known) == host
    ]
    if not wanting:
        return ()
    own = min(wanting, key=lambda need: (need.since_ms, need.line_id))
    limit_ms = own.since_ms + 1000 * OVERTAKING * _begins_s(own, host, fleet, manifest)
    if fleet.at_ms <= limit_ms:
        return ()
    newest_ms: dict[str, int] = {}
    kept = set(own.files)
    for need in fleet.needs:
        if need.is_held_up or not fleet.may_run_on(need, hosts):
            continue
        if not need.is_shut and (need.priority > own.priority or need.since_ms <= limit_ms):
            kept.update(need.files)
        for file in need.files:
            newest_ms[file] = max(newest_ms.get(file, 0), fleet.at_ms if need.is_shut else need.since_ms)
    for file in _running(fleet, hosts):
        newest_ms.setdefault(file, fleet.at_ms)
    return tuple(sorted(newest_ms.keys() - kept, key=lambda file: (-newest_ms[file], file)))


def _begins_s(need: Need, host: str, fleet: FleetNeeds, manifest: Sequence[ModelFile]) -> float:
    """How long it takes until jobs can begin, from when there is room."""
    own = next((each for each in fleet.hosts if each.name == host), None)
    missing = [] if own is None else missing_files(need, own, by_name(manifest))
    return need.load_s + sum(fleet.fetch_s(host, entry) for entry in missing)


def _running(fleet: FleetNeeds, hosts: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*(fleet.running.get(each, ()) for each in hosts))
