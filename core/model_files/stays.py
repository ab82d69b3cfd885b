"""Which files of a host stay when another file needs room there, and which go only for want of others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from core.model_files.needs import FleetNeeds, Need, by_name, host_for
from core.records.model_file import ModelFile


@dataclass(frozen=True, kw_only=True)
class Stays:
    """The files that do not just go when room is needed, by what graphs call them."""

    #: Whoever needs room.
    names: frozenset[str] = frozenset()
    #: These go when nothing else is left, in this order: jobs wait for them, but come after the one that needs room.
    at_last: tuple[str, ...] = ()


def stays_for(
    name: str,
    fleet: FleetNeeds,
    manifest: Sequence[ModelFile],
    *,
    hosts: Collection[str],
    kept: Iterable[str] = (),
    hopeless: Collection[str] = (),
    overtaken: Sequence[str] = (),
) -> Stays:
    """Return which files stay in a folder when one more needs room there.

    What running jobs load stays, and what waiting jobs may load. But jobs that no GPU can run before more files are
    there would keep each other's room for ever, each with a part of its own. Among these, files of those that came
    later go for those that came before.

    Parameters:
      name: of the file that needs room.
      hosts: those that keep their models in the folder.
      kept: further names that stay.
      hopeless: names of files that cannot be had. Jobs that wait for one of them hold nobody up.
      overtaken: names of files that jobs keep in use, of which no more begin here: these go, too, when none runs.
    """
    known, missing = by_name(manifest), frozenset(hopeless) - {name}
    loaded = frozenset(kept).union(*(fleet.running.get(host, ()) for host in hosts))
    stay = loaded.union(*(need.files for need in fleet.needs if not need.is_held_up))
    held_up = sorted((need for need in fleet.needs if need.is_held_up), key=_age)
    come_here = [need for need in held_up if missing.isdisjoint(need.files) and host_for(need, fleet, known) in hosts]
    own = next((number for number, need in enumerate(come_here) if name in need.files), None)
    before = held_up if own is None else come_here[: own + 1]
    stay = stay.union(*(need.files for need in before))
    latest_first = [file for need in reversed(held_up) for file in need.files if file not in stay]
    given_up = [file for file in overtaken if file in stay and file not in loaded]
    return Stays(names=stay.difference(given_up), at_last=tuple(dict.fromkeys((*latest_first, *given_up))))


def _age(need: Need) -> tuple[bool, int, int]:
    # What may not run at all, of a paused batch for one, comes after all that may.
    return need.is_shut, need.since_ms, need.line_id
