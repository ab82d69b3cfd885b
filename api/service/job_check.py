"""Checks a job that a client wants: whether some instance can run it, and with which files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Catalogues
from api.service.input_files import Intake
from api.service.input_names import find_named
from core.errors import InvalidRequest, RequestIdReuse
from core.job import new_job_id
from core.job_request import AcceptedJob, JobRequest
from core.ledger import Ledger
from core.settings import Settings
from core.storage.job_files import is_job_id, staged_in_folder
from core.texts.stored_json import json_text
from workflows.graphs.boundaries import absolute_paths, jobs_named
from workflows.graphs.graph import Graph, parse_graph
from workflows.graphs.references import ASSET_TAG, Reference, find_references, put_all
from workflows.graphs.shape import shape_of


class JobCheck:
    """What stands between a client's request and the ledger."""

    def __init__(self, settings: Settings, ledger: Ledger, catalogues: Catalogues, intake: Intake) -> None:
        self._settings = settings
        self._ledger = ledger
        self._catalogues = catalogues
        self._intake = intake

    def accept(self, request: JobRequest) -> AcceptedJob:
        """Check a request and have its files in storage; the request's own graph stays as it is.

        Raises:
          InvalidWorkflow, MissingAsset, InvalidRequest, RequestIdReuse: the client must change the request.
          NoHealthyInstance, InputUnavailable, StorageUnavailable, LedgerUnavailable: it may work later.
        """
        job_id = new_job_id()
        graph = parse_graph(request.graph)
        text = json_text(graph)
        references = self._references(graph, request.files, has_tags=f'"{ASSET_TAG}"' in text)
        # What files are called is known once they are there; until then any names of this job's stand for them.
        staged_files = [staged_in_folder(job_id, str(number)) for number in range(len(references))]
        runnable = put_all(graph, references, staged_files)
        self._refuse_foreign(runnable, job_id)
        verdict = self._catalogues.check(runnable, staged_files)
        if request.request_id:
            with ledger_time_limit():
                self._refuse_taken(request.request_id)
        # Files are fetched last: for a graph that can run, and outside of the time the ledger gets.
        inputs = self._intake.bring(references, job_id) if references else []
        final = put_all(graph, references, [file.name for file in inputs])
        return AcceptedJob(
            request=request,
            id=job_id,
            graph_text=json_text(final) if references else text,
            nodes_total=verdict.nodes_total,
            catalogues=verdict.catalogues,
            shape=shape_of(final),
            inputs=tuple(dict.fromkeys(inputs)),
        )

    def _references(self, graph: Graph, files: Mapping[str, Path], *, has_tags: bool) -> list[Reference]:
        """Return every place of a graph that stands for a file, and where the fleet looks for it."""
        kind = self._catalogues.file_kind
        with ledger_time_limit():
            found = find_references(graph, kind, files, has_tags=has_tags)
            references = self._intake.confirm(found) if found else []
            references += find_named(graph, references, self._ledger, self._catalogues)
            return [
                replace(each, folder=self._catalogues.listed_folder(each.class_type, each.input_name))
                for each in references
            ]

    def _refuse_foreign(self, graph: Graph, job_id: str) -> None:
        """Nothing of another job is read: not by its place on a disk, and not from where the fleet keeps files.

        Raises: InvalidRequest.
        """
        named = jobs_named(graph)
        named.pop(job_id, None)
        others: Collection[str] = ()
        if named:
            with ledger_time_limit():
                others = self._ledger.jobs.states(list(named))
        for other in others:
            raise InvalidRequest(
                f"Node {named[other][0]}, input {named[other][1]}: this path leads to files of another job. "
                "To use one of its outputs, name that by its id."
            )
        settings = self._settings
        kept = (settings.data_dir, settings.outputs_dir, settings.inputs_dir)
        for node_id, input_name, path in absolute_paths(graph):
            if any(path == place or place in path.parents or path in place.parents for place in kept):
                raise InvalidRequest(f"Node {node_id}, input {input_name}: there lie the files of all jobs.")

    def _refuse_taken(self, request_id: str) -> None:
        # Results are found by either id, so nobody may call a job by the id of another one.
        if is_job_id(request_id) and self._ledger.jobs.states([request_id]):
            raise RequestIdReuse.of(request_id, request_id)
