"""Which nodes the fleet offers, as far as a submission has to be checked against them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from api.http.cached import CachedValue
from api.http.time_limits import ledger_time_limit
from core.errors import InvalidWorkflow, NoHealthyInstance, RequirementsUnmet
from core.ledger import Ledger
from core.records.model_file import AWAITS_FILES
from core.records.requirements import KnownGpu, Requirements
from core.texts.cards import gigabytes
from workflows.graphs.catalogue import CompiledCatalogue
from workflows.graphs.checks import cacheable_catalogue, check_graph
from workflows.graphs.fetchable import Folders, fetchable_files, folders_of, nearest_names
from workflows.graphs.file_names import listed_folder
from workflows.graphs.free_inputs import Freedom, freedom_of
from workflows.graphs.graph import Graph
from workflows.graphs.node_facts import GraphFacts
from workflows.graphs.temporary_files import lacks_only_files

#: How often one process asks which catalogues are in use.
MAX_AGE_S = 1.0
#: Longest time a request waits for the GPU workers to look for a file that it names, and how often it looks for them.
LOOK_S, LOOK_PAUSE_S = 3.0, 0.1
#: Kinds of GPUs that a refusal names.
MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """A graph the fleet can run."""

    #: How many of its nodes will run.
    nodes_total: int
    #: Digests of the catalogues it is valid for; None when every instance can run it.
    catalogues: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    """The GPUs that are known, and the catalogues by which graphs are judged that may run on any of them."""

    gpus: tuple[KnownGpu, ...]
    catalogues: dict[str, CompiledCatalogue]
    #: What `Catalogues.file_kinds` has found, by class.
    file_kinds: dict[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Manifest:
    """The model files that can be fetched."""

    folders: Folders


class Catalogues:
    """The catalogues of the fleet, compiled, and kept as long as an instance has them."""

    def __init__(self, ledger: Ledger, ask_to_look: Callable[[], bool]) -> None:
        """Parameters:
        ask_to_look: tells all GPU workers to look for new files; False when they could not be told.
        """
        self._instances = ledger.instances
        self._manifest = CachedValue(lambda: _Manifest(folders_of(ledger.manifest.all())), max_age_s=MAX_AGE_S)
        self._ask_to_look = ask_to_look
        self._looking = threading.Lock()
        self._looked_at_s = 0.0
        self._compiled: dict[str, CompiledCatalogue] = {}
        self._fleet = CachedValue(self._load, max_age_s=MAX_AGE_S)

    def file_kind(self, class_type: str, input_name: str) -> str | None:
        """Return what kind of file an input takes by name, if it does on any instance; see `file_kinds`."""
        return self.file_kinds(class_type).get(input_name)

    def file_kinds(self, class_type: str) -> Mapping[str, str]:
        """Return the inputs of a class that take a file by name on any instance, and its `InputSpec.file_kind`.

        Loaders without an upload button only list files: "" for a list that holds names with endings, or nothing yet.
        """
        fleet = self._fleet.get()
        known = fleet.file_kinds.get(class_type)
        if known is None:
            nodes = [catalogue.node(class_type) for catalogue in fleet.catalogues.values()]
            specs = [spec for node in nodes if node for spec in node.inputs]
            listing = {spec.name: "" for spec in specs if spec.may_list_files}
            # Of several instances the first that says a kind counts.
            said = {spec.name: spec.file_kind for spec in reversed(specs) if spec.file_kind is not None}
            known = listing | said
            if any(nodes):
                # Names that a client made up are not kept.
                fleet.file_kinds[class_type] = known
        return known

    def freedom(self, class_type: str, input_name: str, value: Any) -> Freedom | None:
        """Return how far a value of an input stands for others on all instances, see `workflows.graphs.free_inputs`."""
        catalogues = self._fleet.get().catalogues.values()
        return freedom_of([catalogue.node(class_type) for catalogue in catalogues], input_name, value)

    def output_nodes(self, graph: Graph) -> list[str]:
        """Return the ids of those nodes of a graph that any instance takes for output nodes."""
        catalogues = list(self._fleet.get().catalogues.values())
        return [
            node_id
            for node_id, node in graph.items()
            if any((spec := catalogue.node(node["class_type"])) and spec.output_node for catalogue in catalogues)
        ]

    def lists_file(self, class_type: str, input_name: str, name: str) -> bool:
        """Return whether any instance offers a file of this name there."""
        for catalogue in self._fleet.get().catalogues.values():
            node = catalogue.node(class_type)
            spec = node.by_name.get(input_name) if node else None
            if spec is not None and name in (spec.choice_set or spec.choices or ()):
                return True
        return False

    def listed_folder(self, class_type: str, input_name: str) -> str:
        """Return the folder, below the input folder, of all files that a loader lists; "" for the top, or many."""
        for catalogue in self._fleet.get().catalogues.values():
            node = catalogue.node(class_type)
            spec = node.by_name.get(input_name) if node else None
            if spec is not None and (folder := listed_folder(spec.choices or [])):
                return folder
        return ""

    def check(
        self,
        graph: Graph,
        staged_files: Collection[str] = (),
        *,
        requires: Requirements | None = None,
        facts: GraphFacts | None = None,
    ) -> Acceptance:
        """Accept a graph that at least one kind of instance can run.

        If all that keeps it from that are files that are not there, the instances are asked to look again, once; unless
        the files are in the manifest: then the graph is accepted for when they have been fetched.

        Parameters:
          staged_files: names of input files that will be there before the job runs.
          requires: only instances count that are like this.
          facts: of the graph, if the caller has them.
        Raises:
          RequirementsUnmet: there is none that is as required, and none that is only away.
          InvalidWorkflow: no instance can; what the one said that comes nearest to it.
          NoHealthyInstance: no instance has ever said which nodes it has.
        """
        came_at_s = time.monotonic()
        with ledger_time_limit():
            catalogues = self.suiting(requires)
        try:
            return self._widened(graph, *_judge(graph, catalogues, staged_files, facts), requires)
        except InvalidWorkflow as exc:
            if not lacks_only_files(graph, exc.node_errors):
                raise
            if (acceptance := self._once_fetched(graph, staged_files, requires)) is not None:
                return acceptance
            if not self._look_again(came_at_s):
                raise self._with_names(graph, exc, catalogues) from exc
        with ledger_time_limit():
            catalogues = self._suiting(self._load(), requires)
        try:
            return self._widened(graph, *_judge(graph, catalogues, staged_files, facts), requires)
        except InvalidWorkflow as exc:
            raise self._with_names(graph, exc, catalogues) from exc

    def _widened(
        self,
        graph: Graph,
        acceptance: Acceptance,
        refusals: Mapping[str, InvalidWorkflow],
        requires: Requirements | None,
    ) -> Acceptance:
        """Add that further instances could run a graph, had their hosts fetched what they lack."""
        if not refusals or acceptance.catalogues is None:
            return acceptance
        with ledger_time_limit():
            folders = self._manifest.get().folders
            gpus = self._fleet.get().gpus if folders else ()
        fetching = {gpu.catalogue for gpu in gpus if gpu.fetches_models and _suits(gpu, requires)}
        if any(
            digest in fetching and fetchable_files(graph, refusal.node_errors, folders)
            for digest, refusal in refusals.items()
        ):
            return replace(acceptance, catalogues=(*acceptance.catalogues, AWAITS_FILES))
        return acceptance

    def _once_fetched(
        self, graph: Graph, staged_files: Collection[str], requires: Requirements | None
    ) -> Acceptance | None:
        """Accept a graph that a GPU can run when its host has fetched model files of the manifest; None if none can.

        What instances offer that fetch nothing does not count: the files would never come to them.
        """
        with ledger_time_limit():
            fetching = [gpu for gpu in self._fleet.get().gpus if gpu.fetches_models and _suits(gpu, requires)]
            catalogues = self._of(fetching)
        if not catalogues:
            return None
        if (found := self._lacking_files(graph, catalogues, staged_files)) is not None:
            return found
        # Nobody is refused for a file that was entered a moment ago.
        with ledger_time_limit():
            self._manifest.renew()
        return self._lacking_files(graph, catalogues, staged_files)

    def _lacking_files(
        self, graph: Graph, catalogues: Mapping[str, CompiledCatalogue], staged_files: Collection[str]
    ) -> Acceptance | None:
        with ledger_time_limit():
            folders = self._manifest.get().folders
        for catalogue in catalogues.values():
            files: frozenset[str] = frozenset()
            try:
                check_graph(graph, catalogue, staged_files=staged_files)
            except InvalidWorkflow as exc:
                files = fetchable_files(graph, exc.node_errors, folders)
            if files:
                will_run = check_graph(graph, catalogue, staged_files={*staged_files, *files})
                return Acceptance(nodes_total=len(will_run), catalogues=(AWAITS_FILES,))
        return None

    def _with_names(
        self, graph: Graph, refusal: InvalidWorkflow, catalogues: Mapping[str, CompiledCatalogue]
    ) -> InvalidWorkflow:
        """Return a refusal for a file that is not there, with the names most like it that there are."""
        if not lacks_only_files(graph, refusal.node_errors):
            return refusal
        with ledger_time_limit():
            folders = self._manifest.get().folders
        found = nearest_names(graph, refusal.node_errors, next(iter(catalogues.values())), folders)
        if found is None:
            return refusal
        message = f"{refusal.message} Most like {found[0]!a} are: {', '.join(found[1])}."
        return InvalidWorkflow(message, refusal.node_errors)

    def _look_again(self, came_at_s: float) -> bool:
        """Have every healthy instance look for new files, and wait for it; False when they could not be told.

        Many requests at once wait for one look: any that began after a request came is good for it.
        """
        with self._looking:
            if self._looked_at_s >= came_at_s:
                return True
            begun_s = time.monotonic()
            with ledger_time_limit():
                before = self._instances.looks()
            if not before or not self._ask_to_look():
                return False
            self._looked_at_s = begun_s
            while time.monotonic() < begun_s + LOOK_S:
                time.sleep(LOOK_PAUSE_S)
                with ledger_time_limit():
                    now = self._instances.looks()
                if all(now[name] != looks for name, looks in before.items() if name in now):
                    break
            return True

    def known_gpus(self) -> tuple[KnownGpu, ...]:
        """Return the GPUs that there are now, healthy or not. Raises LedgerUnavailable."""
        with ledger_time_limit():
            self._fleet.renew()
            return self._fleet.get().gpus

    def catalogue(self, digest: str) -> CompiledCatalogue | None:
        """Return what instances offer that have this digest; None: none does any more. Raises LedgerUnavailable."""
        with ledger_time_limit():
            found = self._compiled.get(digest) or self._compile(digest)
        if found is not None:
            self._compiled[digest] = found
        return found

    def fetchable(self) -> Folders:
        """Return the folders of the manifest that have a file, by what graphs call it. Raises LedgerUnavailable."""
        with ledger_time_limit():
            return self._manifest.get().folders

    def suiting(self, requires: Requirements | None) -> dict[str, CompiledCatalogue]:
        """Return the catalogues by which a graph is judged, by their digests. Raises RequirementsUnmet.

        Goes by the last look; nobody is refused for a GPU that came after it.
        """
        try:
            return self._suiting(self._fleet.get(), requires)
        except RequirementsUnmet:
            self._fleet.renew()
            return self._suiting(self._fleet.get(), requires)

    def _load(self) -> _Fleet:
        gpus = tuple(self._instances.known_gpus())
        # Those that no instance has any more go: a real one takes some ten megabytes.
        known = {gpu.catalogue for gpu in gpus}
        self._compiled = {digest: found for digest, found in self._compiled.items() if digest in known}
        return _Fleet(gpus=gpus, catalogues=self._of(gpus))

    def _suiting(self, fleet: _Fleet, requires: Requirements | None) -> dict[str, CompiledCatalogue]:
        """Return the catalogues by which a graph is judged. Raises RequirementsUnmet."""
        if requires is None or not fleet.gpus:
            return fleet.catalogues
        suiting = [gpu for gpu in fleet.gpus if _suits(gpu, requires)]
        if not suiting:
            raise RequirementsUnmet(f"No GPU of this fleet has {requires}. There are: {_shown_gpus(fleet.gpus)}.")
        return self._of(suiting)

    def _of(self, gpus: Collection[KnownGpu]) -> dict[str, CompiledCatalogue]:
        """Return the catalogues of the healthy ones among these instances; of all of them, if none is."""
        alive = [gpu for gpu in gpus if gpu.is_alive] or gpus
        found: dict[str, CompiledCatalogue] = {}
        for digest in dict.fromkeys(gpu.catalogue for gpu in alive if gpu.catalogue is not None):
            compiled = self._compiled.get(digest) or self._compile(digest)
            if compiled is not None:
                found[digest] = self._compiled[digest] = compiled
        return found

    def _compile(self, digest: str) -> CompiledCatalogue | None:
        object_info = self._instances.catalogue(digest)
        return cacheable_catalogue(object_info) if object_info else None


def _judge(
    graph: Graph, catalogues: dict[str, CompiledCatalogue], staged_files: Collection[str], facts: GraphFacts | None
) -> tuple[Acceptance, dict[str, InvalidWorkflow]]:
    """Return who accepts a graph, and what the others say against it, by the digests of their catalogues."""
    if not catalogues:
        raise NoHealthyInstance("No GPU is ready yet, so the workflow cannot be checked. Try again in a moment.")
    refusals: dict[str, InvalidWorkflow] = {}
    accepting: list[str] = []
    nodes_total = 0
    for digest, catalogue in catalogues.items():
        try:
            nodes_total = len(check_graph(graph, catalogue, staged_files=staged_files, facts=facts))
        except InvalidWorkflow as exc:
            refusals[digest] = exc
        else:
            accepting.append(digest)
    if not accepting:
        said = list(refusals.values())
        raise next((one for one in said if lacks_only_files(graph, one.node_errors)), said[0])
    return Acceptance(nodes_total=nodes_total, catalogues=tuple(accepting) if refusals else None), refusals


def _suits(gpu: KnownGpu, requires: Requirements | None) -> bool:
    return requires is None or requires.are_met_by(pool=gpu.pool, vram_bytes=gpu.vram_bytes)


def _shown_gpus(gpus: Collection[KnownGpu]) -> str:
    """Say in words which GPUs there are: `2 in pool a100 with 85 GB, 1 in no pool with 24 GB`."""
    kinds = Counter((gpu.pool, gpu.vram_bytes) for gpu in gpus)
    known = sorted(kinds.items(), key=lambda item: (item[0][0] or "", item[0][1] or 0))
    words = [
        f"{count} in {f'pool {pool}' if pool else 'no pool'} with {_shown_size(vram_bytes)}"
        for (pool, vram_bytes), count in known[:MAX_SHOWN]
    ]
    return ", ".join([*words, *(["..."] if len(known) > MAX_SHOWN else [])])


def _shown_size(size_bytes: int | None) -> str:
    return "an unknown amount" if size_bytes is None else gigabytes(size_bytes)
