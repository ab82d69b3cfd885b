"""Makes a draft of a job: its graph, and the files that the graph stands for, before any of them is brought.

What came as a document of the editor is converted before, by what the fleet's instances say of its nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Catalogues
from api.service.input_files import Intake
from api.service.input_names import find_named
from api.service.kept_refusals import AT_ONCE, Refusals
from core.errors import EditorWorkflow, MissingAsset, NoHealthyInstance
from core.job_files import staged_in_folder
from core.ledger import Ledger
from core.records.job_request import JobRequest
from core.records.requirements import Requirements
from core.texts.stored_json import json_text
from workflows.editor.convert import convert
from workflows.graphs.graph import Graph, parse_graph
from workflows.graphs.misplaced import is_document
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

    def draft(self, request: JobRequest, job_id: str, refusals: Refusals = AT_ONCE) -> JobDraft:
        """Return the draft of a job; the request's own graph stays as it is.

        Raises: InvalidWorkflow, InvalidRequest, MissingAsset, LedgerUnavailable. Assets that are not there are among
          the refusals.
        """
        graph = parse_graph(request.graph)
        text = json_text(graph)
        facts = GraphFacts(graph)
        references = self._references(graph, facts, request, refusals, has_tags=f'"{ASSET_TAG}"' in text)
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

    def _references(
        self, graph: Graph, facts: GraphFacts, request: JobRequest, refusals: Refusals, *, has_tags: bool
    ) -> list[Reference]:
        """Return every place of a graph that stands for a file, and where the fleet looks for it."""
        with ledger_time_limit():
            nodes = graph
            if not has_tags and not request.files:
                # Few nodes of most graphs.
                nodes = {node_id: node for node_id, node in graph.items() if facts.nodes[node_id].may_refer}
            found = find_references(nodes, self._catalogues.file_kind, request.files, has_tags=has_tags)
            references = self._confirmed(found, refusals)
            references += find_named(graph, references, self._ledger, self._catalogues, tenant=request.tenant)
            return [
                replace(each, folder=self._catalogues.listed_folder(each.class_type, each.input_name))
                for each in references
            ]

    def _confirmed(self, found: Sequence[Reference], refusals: Refusals) -> list[Reference]:
        """Return the references, none of which is to an asset that is not there. Raises MissingAsset.

        Nor could that be the name of a file: where jobs' files are, no graph names any.
        """
        confirmed = []
        for reference in found:
            if reference.asset is not None and self._intake.referred_to(reference.asset) is None:
                with refusals:
                    raise MissingAsset(f"{reference.place.capitalize()}: there is no asset {reference.asset[:80]!a}.")
            confirmed.append(reference)
        return confirmed


class EditorDocuments:
    """Converts documents of the editor, for all requests of one process."""

    def __init__(self, catalogues: Catalogues) -> None:
        self._catalogues = catalogues

    def as_graph(self, value: Any) -> Any:
        """Return the graph of a document; what is none comes back as it is, for its check to tell.

        Raises: as `request`.
        """
        return self._converted(value, None) if is_document(value) else value

    def request(self, request: JobRequest) -> JobRequest:
        """Return a request that has a graph in place of a document, which goes into the files of the job.

        Raises:
          EditorWorkflow: a part of the document cannot be converted.
          RequirementsUnmet: there is no GPU that is as required.
          NoHealthyInstance: no instance has ever said which nodes it has.
        """
        if not is_document(request.graph):
            return request
        # As the editor does it. A workflow that the client sent besides is what it wants there.
        pnginfo = {"workflow": request.graph, **(request.extra_pnginfo or {})}
        return replace(request, graph=self._converted(request.graph, request.requires), extra_pnginfo=pnginfo)

    def _converted(self, document: dict[str, Any], requires: Requirements | None) -> Graph:
        with ledger_time_limit():
            catalogues = self._catalogues.suiting(requires)
        if not catalogues:
            raise NoHealthyInstance("No GPU is ready yet, so the workflow cannot be converted. Try again in a moment.")
        refusals: list[EditorWorkflow] = []
        for catalogue in catalogues.values():
            try:
                return convert(document, catalogue)
            except EditorWorkflow as exc:
                refusals.append(exc)
        # Of several instances, the one that comes nearest to it.
        raise min(refusals, key=lambda refusal: len(refusal.node_errors))
