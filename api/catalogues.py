"""Which nodes the fleet offers, as far as a submission has to be checked against them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from api.fresh import Fresh
from core.errors import InvalidWorkflow, NoHealthyInstance
from core.ledger import Ledger
from workflows.catalogue import COMBO, CompiledCatalogue
from workflows.checks import cacheable_catalogue, check_graph
from workflows.file_names import may_list_files
from workflows.graph import Graph

#: How often one process asks which catalogues are in use.
MAX_AGE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """A graph the fleet can run."""

    #: How many of its nodes will run.
    nodes_total: int
    #: Digests of the catalogues it is valid for; None when every instance can run it.
    catalogues: tuple[str, ...] | None


class Catalogues:
    """The catalogues of the fleet, compiled, and kept as long as an instance has them."""

    def __init__(self, ledger: Ledger) -> None:
        self._instances = ledger.instances
        self._compiled: dict[str, CompiledCatalogue] = {}
        self._in_use = Fresh(self._load, max_age_s=MAX_AGE_S)

    def file_kind(self, class_type: str, input_name: str) -> str | None:
        """What kind of file an input of a node takes by name, if it does on any instance; see `InputSpec.file_kind`.

        Loaders without an upload button only list files: "" for a list that holds names with endings, or nothing yet.
        """
        lists_names = False
        for catalogue in self._in_use.get().values():
            node = catalogue.node(class_type)
            spec = node.by_name.get(input_name) if node else None
            if spec is not None and spec.file_kind is not None:
                return spec.file_kind
            if spec is not None and spec.choices is not None and (spec.choices or spec.type != COMBO):
                lists_names = lists_names or may_list_files(spec.choices)
        return "" if lists_names else None

    def check(self, graph: Graph, staged_files: Collection[str] = ()) -> Acceptance:
        """Accept a graph that at least one kind of instance can run.

        Parameters:
          staged_files: names of input files that will be there before the job runs.
        Raises:
          InvalidWorkflow: no instance can; what the first one said.
          NoHealthyInstance: no instance has ever said which nodes it has.
        """
        catalogues = self._in_use.get()
        if not catalogues:
            raise NoHealthyInstance("No GPU is ready yet, so the workflow cannot be checked. Try again in a moment.")
        refusals: list[InvalidWorkflow] = []
        accepting: list[str] = []
        nodes_total = 0
        for digest, catalogue in catalogues.items():
            try:
                nodes_total = len(check_graph(graph, catalogue, staged_files=staged_files))
            except InvalidWorkflow as exc:
                refusals.append(exc)
            else:
                accepting.append(digest)
        if not accepting:
            raise refusals[0]
        return Acceptance(nodes_total=nodes_total, catalogues=tuple(accepting) if refusals else None)

    def _load(self) -> dict[str, CompiledCatalogue]:
        digests = list(self._instances.catalogues()) or self._instances.known_catalogues()
        found: dict[str, CompiledCatalogue] = {}
        for digest in digests:
            compiled = self._compiled.get(digest) or self._compile(digest)
            if compiled is not None:
                found[digest] = compiled
        # Those that no instance has any more go: a real one takes some ten megabytes.
        self._compiled = found
        return found

    def _compile(self, digest: str) -> CompiledCatalogue | None:
        object_info = self._instances.catalogue(digest)
        return cacheable_catalogue(object_info) if object_info else None
