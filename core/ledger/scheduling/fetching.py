"""What is told of jobs whose model files are on their way: which file, how far, how long it takes, for which GPUs.

What takes long here takes as long as a load does: the forecast lets the jobs begin when both are over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from core.clock import now_ms
from core.ledger.models.manifest import read_manifest
from core.ledger.scheduling.file_needs import FileNeeds
from core.ledger.scheduling.lines import WaitingLine
from core.ledger.scheduling.picture import GpuRow
from core.model_files.needs import arrivals_of
from core.records.model_file import ModelCopy, Yield
from core.scheduling.picture import Fetching
from core.scheduling.reasons import about, named

#: A longer one is for operators alone.
MAX_ERROR_CHARS = 400
#: GPUs list a file long before it has been there for so long.
UNLISTED_MS = 60_000


def read_fetching(
    connection: Connection, waiting: Sequence[WaitingLine], gpus: Iterable[GpuRow], needs: FileNeeds
) -> dict[int, Fetching]:
    """Return how the files come along of each line that waits for some, or whose files come to further GPUs, by its id.

    Parameters:
      waiting: the lines that have jobs.
      gpus: the healthy instances.
    """
    concerned = [line for line in waiting if line.kind.awaits_files]
    if not concerned:
        return {}
    fleet = needs.read_from(connection, waiting)
    manifest = read_manifest(connection)
    arrivals = arrivals_of(fleet, manifest)
    sources = {entry.path: entry.source for entry in manifest}
    copies: dict[str, list[ModelCopy]] = {}
    for copy in fleet.copies.values():
        copies.setdefault(copy.name, []).append(_for_clients(copy, sources.get(copy.path)))
    by_host: dict[str, list[GpuRow]] = {}
    for row in gpus:
        by_host.setdefault(row.name.partition("@")[2], []).append(row)
    yields = {each for host in fleet.hosts for each in host.yields}
    found = {}
    for line in concerned:
        host, left_s = arrivals.get(line.id, (None, None))
        able = [row.name for row in by_host.get(host or "", ()) if _suits(line, row)]
        told = fetching_of(line.kind.files, copies, left_s=left_s, gpus=able, hosts=by_host)
        makes_room = _room_sentence(line.kind.files, yields)
        found[line.id] = replace(told, sentence=makes_room) if makes_room and told.left_s is None else told
    return found


def fetching_of(
    files: Collection[str],
    copies: Mapping[str, Iterable[ModelCopy]],
    *,
    left_s: float | None = None,
    gpus: Iterable[str] = (),
    hosts: Collection[str] = (),
) -> Fetching:
    """Return how the files of a job come along.

    Parameters:
      copies: what hosts have, by what graphs call the files; with errors that clients may read.
      left_s: until all of them are there, and for which GPUs; None where that is not known.
      hosts: those that have healthy GPUs.
    """
    if _are_listed_nowhere(files, copies, hosts):
        sentence = (
            f"{named(list(files))} came, and no GPU lists it: the loader may not look into its folder, or ComfyUI may "
            "have to be started again to learn of that."
        )
        return Fetching(sentence=sentence)
    return Fetching(sentence=_sentence(files, copies, left_s), left_s=left_s, gpus=frozenset(gpus))


def _sentence(files: Iterable[str], copies: Mapping[str, Iterable[ModelCopy]], left_s: float | None) -> str:
    found = [(name, list(copies.get(name, ()))) for name in files]
    under_way = [(name, each) for name, some in found for each in some if each.state == "fetching"]
    if under_way:
        name, furthest = max(under_way, key=lambda pair: pair[1].done_bytes)
        percent = 100 * furthest.done_bytes // furthest.size_bytes if furthest.size_bytes else None
        how_far = "" if percent is None else f": {percent} %"
        others = len({each for each, _ in under_way}) - 1
        beside = f" and {others} more" if others else ""
        return f"Fetching {name}{beside}{how_far}{_when(furthest.left_s if left_s is None else left_s)}."
    failed = [(name, each.error) for name, some in found for each in some if each.state == "failed"]
    if failed:
        names = list(dict.fromkeys(name for name, _ in failed))
        why = next((f": {error}" for _, error in failed if error is not None), "; an operator can see why.")
        return f"Fetching {named(names)} failed, and is tried again{why}"
    absent = [name for name, some in found if not some]
    if absent:
        return f"Waits for {named(absent)} to be fetched{_when(left_s)}."
    return f"Waits until a GPU lists {named([name for name, _ in found])}."


def _room_sentence(files: Collection[str], yields: Iterable[Yield]) -> str | None:
    """What to say of jobs whose files make room for others, or have it made for them; None of all else."""
    going = sorted({(each.name, each.to.partition("/")[2]) for each in yields})
    away = [(name, to) for name, to in going if name in files]
    if away:
        return f"{away[0][0]} makes room for {away[0][1]}, which jobs have waited for much longer, and comes again."
    come = [(name, to) for name, to in going if to in files]
    if come:
        others = named(sorted({name for name, to in come if to == come[0][1]}))
        return f"Fetching {come[0][1]} waits for room: it is there when the jobs that run with {others} have ended."
    return None


def _are_listed_nowhere(
    files: Iterable[str], copies: Mapping[str, Iterable[ModelCopy]], hosts: Collection[str]
) -> bool:
    """Whether all files came so long ago that GPUs would list them, did they look into their folders."""
    found = [[each for each in copies.get(name, ()) if each.host in hosts] for name in files]
    oldest_ms = now_ms() - UNLISTED_MS
    return all(
        some and all(each.state == "ready" and each.updated_at_ms < oldest_ms for each in some) for some in found
    )


def _for_clients(copy: ModelCopy, source: str | None) -> ModelCopy:
    """Return a copy with an error that does not say where the file comes from: that is the operator's."""
    if copy.error is None or source is None:
        return replace(copy, error=None)
    error = copy.error.replace(source, "its source")
    # The address of an entry as it was before, or one that a server named.
    return replace(copy, error=None if "://" in error or len(error) > MAX_ERROR_CHARS else error)


def _when(left_s: float | None) -> str:
    return "" if left_s is None else f", {about(left_s)}"


def _suits(line: WaitingLine, row: GpuRow) -> bool:
    requires = line.kind.requires
    return requires is None or requires.are_met_by(pool=row.pool, vram_bytes=row.vram_bytes)
