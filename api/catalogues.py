"""Which nodes the fleet offers, as far as a submission has to be checked against them."""

from __future__ import annotations

from api.fresh import Fresh
from core.errors import InvalidWorkflow, NoHealthyInstance
from core.ledger import Ledger
from workflows.catalogue import CompiledCatalogue
from workflows.checks import cacheable_catalogue, check_graph
from workflows.graph import Graph, nodes_to_run

#: How often one process asks which catalogues are in use.
MAX_AGE_S = 1.0


class Catalogues:
    """The catalogues of the fleet, compiled, and kept as long as an instance has them."""

    def __init__(self, ledger: Ledger) -> None:
        self._instances = ledger.instances
        self._compiled: dict[str, CompiledCatalogue] = {}
        self._in_use = Fresh(self._load, max_age_s=MAX_AGE_S)

    def check(self, graph: Graph) -> int:
        """Accept a graph that at least one instance can run, and return how many of its nodes will.

        Raises:
          InvalidWorkflow: no instance can; what the first one said.
          NoHealthyInstance: no instance has ever said which nodes it has.
        """
        catalogues = self._in_use.get()
        if not catalogues:
            raise NoHealthyInstance("No GPU is ready yet, so the workflow cannot be checked. Try again in a moment.")
        refusals: list[InvalidWorkflow] = []
        for catalogue in catalogues:
            try:
                check_graph(graph, catalogue)
            except InvalidWorkflow as exc:
                refusals.append(exc)
            else:
                return len(nodes_to_run(graph, catalogue))
        raise refusals[0]

    def _load(self) -> list[CompiledCatalogue]:
        digests = list(self._instances.catalogues()) or self._instances.known_catalogues()
        found: dict[str, CompiledCatalogue] = {}
        for digest in digests:
            compiled = self._compiled.get(digest) or self._compile(digest)
            if compiled is not None:
                found[digest] = compiled
        # Those that no instance has any more go: a real one takes some ten megabytes.
        self._compiled = found
        return list(found.values())

    def _compile(self, digest: str) -> CompiledCatalogue | None:
        object_info = self._instances.catalogue(digest)
        return cacheable_catalogue(object_info) if object_info else None
