"""What a graph needs and some GPUs do not have: which pools lack it, which have it, and whether it can be fetched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from api.http.time_limits import ledger_time_limit
from core.ledger import Ledger
from core.model_files.needs import FleetNeeds
from core.records.model_file import ModelFile
from workflows.graphs.catalogue import CompiledCatalogue
from workflows.graphs.fetchable import Folders, has_folder_for
from workflows.graphs.lacks import Lack, is_fetchable, is_there, nearest

#: Things that are told of, and how many of them with the names most like theirs, which takes a look at all there are.
MAX_TOLD, MAX_NEAREST_TOLD = 100, 20


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What one kind of GPU offers, and what it lacks for a graph."""

    pool: str | None
    catalogue: CompiledCatalogue
    lacks: Collection[Lack]


@dataclass(frozen=True, kw_only=True)
class Fetchable:
    """A model file of the manifest."""

    #: None where nobody knows.
    size_bytes: int | None
    #: How long it takes to come to the host that has it soonest; None: no host of these pools fetches files.
    fetch_s: float | None


@dataclass(frozen=True, kw_only=True)
class MissingThing:
    """What some GPUs lack."""

    lack: Lack
    #: The nodes that need it.
    nodes: tuple[str, ...]
    #: Pools, None for GPUs without one. A pool whose GPUs differ stands in both.
    absent_in: tuple[str | None, ...]
    present_in: tuple[str | None, ...] = ()
    nearest: tuple[str, ...] = ()
    fetchable: Fetchable | None = None


def missing_things(
    needed_by: Mapping[Lack, tuple[str, ...]], offers: Sequence[Offer], manifest: Folders, ledger: Ledger
) -> list[MissingThing]:
    """Return where the things are that some kinds of GPUs lack.

    Parameters:
      needed_by: the things, and the nodes that need each.
    Raises: LedgerUnavailable.
    """
    told = list(needed_by)[:MAX_TOLD]
    catalogues = [offer.catalogue for offer in offers]
    fetches = _fetches([lack for lack in told if is_fetchable(lack, manifest)], offers, ledger)
    found = []
    for number, lack in enumerate(told):
        has_it = [offer for offer in offers if lack not in offer.lacks and is_there(lack, offer.catalogue)]
        # Of what is somewhere the name is right.
        is_unknown = not has_it and lack not in fetches
        found.append(
            MissingThing(
                lack=lack,
                nodes=needed_by[lack],
                absent_in=_pools(offer for offer in offers if offer not in has_it),
                present_in=_pools(has_it),
                nearest=tuple(nearest(lack, catalogues, manifest)) if is_unknown and number < MAX_NEAREST_TOLD else (),
                fetchable=fetches.get(lack),
            )
        )
    return found


def _pools(offers: Iterable[Offer]) -> tuple[str | None, ...]:
    return tuple(dict.fromkeys(offer.pool for offer in offers))


def _fetches(lacks: Collection[Lack], offers: Sequence[Offer], ledger: Ledger) -> dict[Lack, Fetchable]:
    if not lacks:
        return {}
    with ledger_time_limit():
        manifest, fleet = ledger.manifest.all(), ledger.file_needs.read()
    pools = {offer.pool for offer in offers}
    found = {}
    for lack in lacks:
        entries = [entry for entry in manifest if _is_meant(entry, lack)]
        found[lack] = Fetchable(
            size_bytes=next((entry.size_bytes for entry in entries), None),
            fetch_s=min((each for entry in entries for each in _fetch_s(entry, fleet, pools)), default=None),
        )
    return found


def _is_meant(entry: ModelFile, lack: Lack) -> bool:
    return entry.name == lack.name and has_folder_for((lack.class_type, lack.input_name), (entry.folder,))


def _fetch_s(entry: ModelFile, fleet: FleetNeeds, pools: Collection[str | None]) -> list[float]:
    return [
        fleet.fetch_s(host.name, entry)
        for host in fleet.hosts
        if not host.lists_anywhere(entry) and any(gpu.pool in pools for gpu in host.gpus)
    ]
