"""Judges a graph that was accepted once against the catalogues that there are now."""

from __future__ import annotations

import json
from collections.abc import Iterable

from core.errors import InvalidWorkflow
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.pins import PinnedGraph
from workflows.graphs.catalogue import CompiledCatalogue, cacheable_catalogue
from workflows.graphs.checks import check_graph


class Judge:
    """Reads catalogues from the ledger, and keeps them: let go of it soon, a real one takes some ten megabytes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._compiled: dict[str, CompiledCatalogue | None] = {}

    def accepting(self, wanted: PinnedGraph, digests: Iterable[str]) -> tuple[list[str], InvalidWorkflow | None]:
        """Return which of these catalogues accept a graph, and what the first of the others says against it."""
        accepting: list[str] = []
        refusal: InvalidWorkflow | None = None
        graph = json.loads(wanted.graph)
        for digest in digests:
            catalogue = self._catalogue(digest)
            if catalogue is None:
                continue
            try:
                check_graph(graph, catalogue, staged_files=wanted.staged_files)
            except InvalidWorkflow as exc:
                refusal = refusal or exc
            else:
                accepting.append(digest)
        return accepting, refusal

    def _catalogue(self, digest: str) -> CompiledCatalogue | None:
        if digest not in self._compiled:
            object_info = self._ledger.instances.catalogue(digest)
            self._compiled[digest] = cacheable_catalogue(object_info) if object_info else None
        return self._compiled[digest]


def pin_elsewhere(ledger: Ledger, claim: Claim) -> bool:
    """Pin a job that its instance refused to those of another kind, if that was to be foreseen.

    A job that all instances could run has no pins, and may meet one that came later, without the nodes or files it
    needs. That one's own catalogue refuses the graph, while another accepts it. Where its own accepts it, the refusal
    is one that only a server can know, and others would say the same.
    """
    alive = ledger.instances.catalogues()
    job = ledger.jobs.get(claim.job_id)
    own = [digest for digest, names in alive.items() if job.instance in names]
    others = [digest for digest in alive if digest not in own]
    wanted = ledger.pins.graphs([claim.job_id]).get(claim.job_id) if own and others else None
    if wanted is None:
        return False
    judge = Judge(ledger)
    if judge.accepting(wanted, own)[0]:
        return False
    accepting = judge.accepting(wanted, others)[0]
    return bool(accepting) and ledger.pins.pin(claim, accepting)
