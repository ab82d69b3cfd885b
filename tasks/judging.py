"""Judges a graph that was accepted once against the catalogues that there are now."""

from __future__ import annotations

import json
from collections.abc import Iterable

from core.errors import InvalidWorkflow, NodeErrors
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.pins import PinnedGraph
from core.records.model_file import AWAITS_FILES
from workflows.graphs.catalogue import CompiledCatalogue, cacheable_catalogue
from workflows.graphs.checks import check_graph
from workflows.graphs.fetchable import Folders, fetchable_files, folders_of


class Judge:
    """Reads catalogues from the ledger, and keeps them: let go of it soon, a real one takes some ten megabytes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._compiled: dict[str, CompiledCatalogue | None] = {}
        self._manifest: Folders | None = None

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

    def awaits_files(self, wanted: PinnedGraph, digests: Iterable[str]) -> bool:
        """Return whether one of these catalogues would accept a graph, were model files there that can be fetched."""
        manifest = self._folders()
        graph = json.loads(wanted.graph)
        for digest in digests if manifest else ():
            catalogue = self._catalogue(digest)
            if catalogue is None:
                continue
            try:
                check_graph(graph, catalogue, staged_files=wanted.staged_files)
            except InvalidWorkflow as exc:
                if fetchable_files(graph, exc.node_errors, manifest):
                    return True
        return False

    def lacks(self, wanted: PinnedGraph, node_errors: NodeErrors) -> bool:
        """Return whether a server refused a graph for nothing but model files that can be fetched."""
        return bool(fetchable_files(json.loads(wanted.graph), node_errors, self._folders()))

    def _folders(self) -> Folders:
        if self._manifest is None:
            self._manifest = folders_of(self._ledger.manifest.all())
        return self._manifest

    def _catalogue(self, digest: str) -> CompiledCatalogue | None:
        if digest not in self._compiled:
            object_info = self._ledger.instances.catalogue(digest)
            self._compiled[digest] = cacheable_catalogue(object_info) if object_info else None
        return self._compiled[digest]


def pin_elsewhere(ledger: Ledger, claim: Claim, node_errors: NodeErrors) -> bool:
    """Pin a job that its instance refused to those of another kind, if that was to be foreseen.

    Where all that is wrong are model files that can be fetched, as right after one was sent away to make room, the job
    waits for them, unless others have them.

    Parameters:
      node_errors: what the instance said.

    A job that all instances could run has no pins, and may meet one that came later, without the nodes or files it
    needs. That one's own catalogue refuses the graph, while another accepts it. Where its own accepts it, the refusal
    is one that only a server can know, and others would say the same.
    """
    alive = ledger.instances.catalogues()
    job = ledger.jobs.get(claim.job_id)
    own = [digest for digest, names in alive.items() if job.instance in names]
    others = [digest for digest in alive if digest not in own]
    wanted = ledger.pins.graphs([claim.job_id]).get(claim.job_id) if own else None
    if wanted is None:
        return False
    judge = Judge(ledger)
    lacks_files = judge.lacks(wanted, node_errors)
    # What it listed when it was read last may have gone since then.
    if not lacks_files and (not others or judge.accepting(wanted, own)[0]):
        return False
    accepting = judge.accepting(wanted, others)[0]
    if lacks_files:
        accepting.append(AWAITS_FILES)
    return bool(accepting) and ledger.pins.pin(claim, accepting)
