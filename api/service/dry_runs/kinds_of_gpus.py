"""Which kinds of GPUs could run a graph, whatever the job requires, and what keeps the others from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from api.service.catalogues import Catalogues
from api.service.dry_runs.missing_things import MissingThing, Offer, missing_things
from api.service.job_drafts import JobDraft
from core.errors import InvalidWorkflow
from core.ledger import Ledger
from core.records.requirements import KnownGpu, Requirements
from core.texts.cards import gigabytes
from workflows.graphs.catalogue import CompiledCatalogue
from workflows.graphs.checks import check_graph
from workflows.graphs.fetchable import Folders
from workflows.graphs.lacks import Kind, Lack, Lacking, is_fetchable, lacking

CanRun: TypeAlias = Literal["yes", "once_fetched", "no"]
#: Kinds that are judged, of those with the most GPUs. Hosts with model files of their own are kinds of their own.
MAX_KINDS = 100
#: Things that a sentence names.
MAX_NAMED = 5
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "node": ("node class", "node classes"),
    "model": ("model", "models"),
    "input": ("input file", "input files"),
}


@dataclass(frozen=True, kw_only=True)
class GpuKind:
    """GPUs that are alike for a graph."""

    pool: str | None
    vram_bytes: int | None
    #: Digest of what they offer; None: they never answered.
    catalogue: str | None
    fetches_models: bool


@dataclass(frozen=True, kw_only=True)
class JudgedKind:
    """Some GPUs, and whether they could run a job."""

    kind: GpuKind
    gpus: int
    #: How many of them are healthy now.
    ready: int
    can_run: CanRun
    #: In sentences; empty where they can.
    why_not: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the GPUs of a fleet have to say about one job."""

    kinds: tuple[JudgedKind, ...] = ()
    missing: tuple[MissingThing, ...] = ()


#: Of what cannot be shown to any.
NO_SURVEY = Survey()


class GpuSurvey:
    """Asks all kinds of GPUs that a caller may use."""

    def __init__(self, ledger: Ledger, catalogues: Catalogues) -> None:
        self._ledger = ledger
        self._catalogues = catalogues

    def of(self, draft: JobDraft, requires: Requirements | None, pools: Collection[str] | None) -> Survey:
        """Judge a draft by each kind of GPU.

        Parameters:
          pools: the pools that there are for the caller; None: all, and GPUs without one.
        Raises: LedgerUnavailable.
        """
        known = [gpu for gpu in self._catalogues.known_gpus() if pools is None or gpu.pool in pools]
        manifest = self._catalogues.fetchable()
        ready = Counter(_kind(gpu) for gpu in known if gpu.is_alive)
        needed_by: dict[Lack, tuple[str, ...]] = {}
        judged: list[JudgedKind] = []
        offers: list[Offer] = []
        # Equal catalogues are asked once, in however many pools they are.
        verdicts: dict[str, Lacking] = {}
        for kind, gpus in Counter(map(_kind, known)).most_common(MAX_KINDS):
            catalogue = None if kind.catalogue is None else self._catalogues.catalogue(kind.catalogue)
            can_run: CanRun = "no"
            if catalogue is None or kind.catalogue is None:
                why = ["They have not told yet which nodes they have."]
            else:
                if kind.catalogue not in verdicts:
                    verdicts[kind.catalogue] = _verdict(draft, catalogue)
                verdict = verdicts[kind.catalogue]
                can_run, why = _told(verdict, kind, manifest)
                for lack, nodes in verdict.lacks.items():
                    needed_by.setdefault(lack, nodes)
                offers.append(Offer(pool=kind.pool, catalogue=catalogue, lacks=verdict.lacks.keys()))
            if requires is not None and not requires.are_met_by(pool=kind.pool, vram_bytes=kind.vram_bytes):
                can_run, why = "no", [f"The job requires {requires}; these are {_described(kind)}.", *why]
            judged.append(JudgedKind(kind=kind, gpus=gpus, ready=ready[kind], can_run=can_run, why_not=tuple(why)))
        missing = missing_things(needed_by, offers, manifest, self._ledger)
        return Survey(kinds=tuple(judged), missing=tuple(missing))


def _kind(gpu: KnownGpu) -> GpuKind:
    return GpuKind(pool=gpu.pool, vram_bytes=gpu.vram_bytes, catalogue=gpu.catalogue, fetches_models=gpu.fetches_models)


def _verdict(draft: JobDraft, catalogue: CompiledCatalogue) -> Lacking:
    try:
        check_graph(draft.runnable, catalogue, staged_files=draft.staged_files, facts=draft.facts)
    except InvalidWorkflow as exc:
        found = lacking(draft.runnable, exc.node_errors, catalogue)
        return found if found.lacks or found.others else Lacking(others=(exc.message,))
    return Lacking()


def _told(verdict: Lacking, kind: GpuKind, manifest: Folders) -> tuple[CanRun, list[str]]:
    if not verdict.lacks and not verdict.others:
        return "yes", []
    why = [*_sentences(verdict.lacks), *verdict.others[:MAX_NAMED]]
    is_fetched = kind.fetches_models and all(is_fetchable(lack, manifest) for lack in verdict.lacks)
    return ("once_fetched" if is_fetched and not verdict.others else "no"), why


def _sentences(lacks: Iterable[Lack]) -> Iterable[str]:
    for kind, (one, several) in _WORDS.items():
        names = [lack.name for lack in lacks if lack.kind == kind]
        if names:
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            yield f"They lack the {one if len(names) == 1 else several} {', '.join(names[:MAX_NAMED])}{more}."


def _described(kind: GpuKind) -> str:
    size = "with an unknown amount" if kind.vram_bytes is None else f"with {gigabytes(kind.vram_bytes)}"
    return f"in {f'pool {kind.pool}' if kind.pool else 'no pool'}, {size}"
