"""Makes a draft of a job: its graph, and the files that the graph stands for, before any of them is brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Catalogues
from api.service.input_files import Intake
from api.service.input_names import find_named
from core.errors import MissingAsset
from core.job_files import staged_in_folder
from core.ledger import Ledger
from core.records.job_request import JobRequest
from core.texts.stored_json import json_text
from workflows.graphs.graph import Graph, parse_graph
from workflows.graphs.node_facts import GraphFacts
from workflows.graphs.references import ASSET_TAG, Reference, find_references, put_all


@dataclass(frozen=True, kw_only=True)
class JobDraft:
    """A client's graph, and what is known of its files while none of them is there."""

    graph: Graph
    #: The graph as JSON.
    text: str
    references: Sequence[Reference]
    #: Names of this job's that stand for the files: what they are called is known once they are there.
    staged_files: Sequence[str]
    #: The graph with these names in it.
    runnable: Graph
    #: What the nodes of that say by themselves.
    facts: GraphFacts


class JobDrafts:
    """Makes drafts for all requests of one process."""

    def __init__(self, ledger: Ledger, catalogues: Catalogues, intake: Intake) -> None:
        self._ledger = ledger
        self._catalogues = catalogues
        self._intake = intake

    def draft(self, request: JobRequest, job_id: str) -> JobDraft:
        """Return the draft of a job; the request's own graph stays as it is.

        Raises: InvalidWorkflow, InvalidRequest, MissingAsset, LedgerUnavailable.
        """
        graph = parse_graph(request.graph)
        text = json_text(graph)
        facts = GraphFacts(graph)
        references = self._references(graph, facts, request, has_tags=f'"{ASSET_TAG}"' in text)
        staged_files = [staged_in_folder(job_id, str(number)) for number in range(len(references))]
        runnable = put_all(graph, references, staged_files)
        return JobDraft(
            graph=graph,
            text=text,
            references=references,
            staged_files=staged_files,
            runnable=runnable,
            facts=GraphFacts(runnable) if references else facts,
        )

    def _references(self, graph: Graph, facts: GraphFacts, request: JobRequest, *, has_tags: bool) -> list[Reference]:
        """Return every place of a graph that stands for a file, and where the fleet looks for it."""
        with ledger_time_limit():
            nodes = graph
            if not has_tags and not request.files:
                # Few nodes of most graphs.
                nodes = {node_id: node for node_id, node in graph.items() if facts.nodes[node_id].may_refer}
            found = find_references(nodes, self._catalogues.file_kind, request.files, has_tags=has_tags)
            references = self._confirmed(found)
            references += find_named(graph, references, self._ledger, self._catalogues, tenant=request.tenant)
            return [
                replace(each, folder=self._catalogues.listed_folder(each.class_type, each.input_name))
                for each in references
            ]

    def _confirmed(self, found: Sequence[Reference]) -> list[Reference]:
        """Return the references without those that only looked like one. Raises MissingAsset."""
        confirmed = []
        for reference in found:
            if reference.asset is not None and self._intake.known_asset(reference.asset) is None:
                if reference.is_guess:
                    continue
                raise MissingAsset(f"{reference.place.capitalize()}: there is no asset {reference.asset[:60]!a}.")
            confirmed.append(reference)
        return confirmed
