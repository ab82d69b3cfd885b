"""The requests of a batch's jobs, from its body: what each is made of, with what is varied."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from api.schema.batch_bodies import BatchItemBody, BatchJobsBody
from api.service.batches.naming import in_job
from api.service.job_drafts import EditorDocuments
from api.service.job_requests import recorded_parameters
from core.errors import InvalidRequest, InvalidWorkflow
from core.records.batch import MAX_JOBS
from core.records.job_request import JobRequest
from core.records.requirements import Requirements
from core.texts.stored_json import json_text
from workflows.batches.expand import combinations, read_over, summary
from workflows.batches.fillings import Filling, GraphFillings, TemplateFillings
from workflows.graphs.graph import parse_graph
from workflows.templates.library import Library
from workflows.templates.modifiers import draw_between
from workflows.templates.parameters import shown
from workflows.templates.template import Template

#: Jobs that are made before other requests of this process are let in.
TOGETHER = 50


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the jobs of a batch are made of, where they do not say themselves."""

    workflow: Any = None
    template: str | None = None
    parameters: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """It as a batch's row keeps it."""
        return json_text({name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class BatchDraft:
    """The jobs that a body asks for, none of them checked."""

    requests: list[JobRequest]
    source: Source
    #: As `summary` makes it; None where the jobs are named one by one.
    over: list[dict[str, Any]] | None


def draft_jobs(
    body: BatchJobsBody, base: JobRequest, library: Library, documents: EditorDocuments, before: Source | None = None
) -> BatchDraft:
    """Return the requests of all jobs of a body.

    Parameters:
      base: all that they have in common; its graph does not count.
      documents: converts what is sent in the editor's format. What is varied is not in a document, so that no file
        carries it.
      before: what the batch is made of already, if jobs are added to it.
    Raises:
      InvalidRequest, InvalidWorkflow: with the place that is wrong; nothing is made of the others.
    """
    source = _source(body, before)
    source = replace(source, workflow=documents.as_graph(source.workflow))
    if body.jobs is not None:
        if body.over is not None:
            raise InvalidRequest("Give either over or jobs, not both.")
        if not body.jobs:
            raise InvalidRequest("jobs is empty: a batch has at least one job.")
        return BatchDraft(requests=list(_listed(body.jobs, source, base, library, documents)), source=source, over=None)
    if body.over is None:
        raise InvalidRequest("Give over, what is to be varied and its values, or jobs, a list of single ones.")
    names, values = list(body.over), read_over(body.over)
    rows = combinations(names, values, body.mode, at_most=MAX_JOBS)
    return BatchDraft(
        requests=list(_varied(rows, names, source, base, library)), source=source, over=summary(names, values)
    )


def _source(body: BatchJobsBody, before: Source | None) -> Source:
    if body.workflow is not None and body.template is not None:
        raise InvalidRequest("Give either workflow or template, not both.")
    if body.workflow is None and body.template is None and before is not None:
        # What its first jobs had the same may be varied now.
        anew = {name.lower() for name in (*(body.over or ()), *(body.parameters or ()))}
        kept = {name: value for name, value in (before.parameters or {}).items() if name.lower() not in anew}
        return replace(before, parameters={**kept, **(body.parameters or {})})
    if body.parameters and body.template is None and body.jobs is None:
        raise InvalidRequest("parameters are those of a template: name it as template.")
    return Source(workflow=body.workflow, template=body.template, parameters=body.parameters)


def _varied(
    rows: Iterator[dict[str, Any]], names: list[str], source: Source, base: JobRequest, library: Library
) -> Iterator[JobRequest]:
    fillings: GraphFillings | TemplateFillings
    if source.template is not None:
        template = _template(library, source.template, "template")
        fillings = TemplateFillings(template, source.parameters or {}, names, draw_between)
    elif source.workflow is not None:
        fillings = GraphFillings(parse_graph(source.workflow), names)
    else:
        raise InvalidWorkflow("Give workflow, a graph in ComfyUI's API format, or template, the name of one.")
    requires = _required(base, fillings.requires if isinstance(fillings, TemplateFillings) else None)
    for number, varied in enumerate(rows):
        if number % TOGETHER == 0:
            time.sleep(0)
        with in_job(number, varied):
            filling = fillings.fill(varied)
        yield _request(base, source.template, filling, requires=requires, varied=varied)


def _listed(
    items: list[BatchItemBody], source: Source, base: JobRequest, library: Library, documents: EditorDocuments
) -> Iterator[JobRequest]:
    for number, item in enumerate(items):
        if number % TOGETHER == 0:
            time.sleep(0)
        own = base if item.metadata is None else replace(base, metadata=item.metadata)
        with in_job(number, {}):
            yield _item(item, source, own, library, documents, f"jobs[{number}]")


def _item(
    item: BatchItemBody, source: Source, base: JobRequest, library: Library, documents: EditorDocuments, place: str
) -> JobRequest:
    if item.workflow is not None and item.template is not None:
        raise InvalidRequest("Give either workflow or template, not both.")
    if item.workflow is not None or (item.template is None and source.template is None):
        graph = source.workflow if item.workflow is None else item.workflow
        if graph is None:
            raise InvalidWorkflow(f"{place} has no workflow and no template, and neither has the batch.")
        if item.parameters:
            raise InvalidRequest("parameters are those of a template: name it as template.")
        return _request(
            base, None, Filling(graph=parse_graph(documents.as_graph(graph))), requires=base.requires, varied=None
        )
    for parameter, value in (item.parameters or {}).items():
        if "\0" in parameter or (isinstance(value, str) and "\0" in value):
            raise InvalidRequest(f"{place}.parameters.{shown(parameter)[1:-1]} must not contain NUL characters.")
    name = item.template or source.template or ""
    given = {**(source.parameters or {}), **(item.parameters or {})}
    filled = _template(library, name, f"{place}.template").fill(given, draw=draw_between)
    filling = Filling(graph=filled.graph, parameters=filled.values, files=filled.files, drawn=filled.drawn)
    requires = _required(base, filled.requires)
    return _request(base, name, filling, requires=requires, varied=item.parameters or None)


def _request(
    base: JobRequest,
    template: str | None,
    filling: Filling,
    *,
    requires: Requirements | None,
    varied: Mapping[str, Any] | None,
) -> JobRequest:
    return replace(
        base,
        graph=filling.graph,
        files=filling.files,
        template=template,
        parameters=None if filling.parameters is None else recorded_parameters(filling.parameters),
        requires=requires,
        drawn=filling.drawn,
        varied=None if varied is None else recorded_parameters(varied),
    )


def _required(base: JobRequest, own: Requirements | None) -> Requirements | None:
    """Return what a batch requires, together with what its template does."""
    return own if base.requires is None else base.requires.over(own)


def _template(library: Library, name: str, place: str) -> Template:
    if name not in library.names():
        raise InvalidRequest(f"{place}: there is no such workflow; there are: {', '.join(library.names())}.")
    return library.get(name)
