"""What a client asks for, from the body of its request to the ledger: one record, and what the check adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.records.job import InputRef, JobSpec


@dataclass(frozen=True, kw_only=True)
class JobRequest(JobSpec):
    """A job that a client wants, in no contract's words."""

    #: As it came in the body; not checked yet.
    graph: Any
    #: A template's own files that the graph names, by those names.
    files: Mapping[str, Path] = field(default_factory=dict)
    #: A strong hash of the request's body, where it has a `request_id`; kept only keyed.
    request_digest: bytes | None = None
    idempotency_key: str | None = None
    #: What ComfyUI gives to nodes that ask for it, and writes into files: `{"workflow": the editor's format}` mostly.
    extra_pnginfo: dict[str, Any] | None = None
    #: Seconds from its end for which it is kept with its files; None means the fleet's rule.
    retention_s: float | None = None
    #: JSON-able, by their names in `core.ledger.secrets.PURPOSES`; sealed before they reach the database.
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class AcceptedJob:
    """A request that was checked: some instance can run it. Ready to be recorded."""

    request: JobRequest
    id: str
    #: What will run, as JSON text: the request's graph in which files have the names they will have.
    graph_text: str
    #: The graph that others have in common with it, from which `graph_text` then says what is different.
    shared_graph: str | None = None
    #: How many nodes of the graph will run.
    nodes_total: int
    #: Digests of the /object_info that accept the graph; None when every instance of the fleet can run it.
    catalogues: tuple[str, ...] | None = None
    #: What its duration is learned under: jobs of one shape take about as long.
    shape: str | None = None
    #: Names of the model files that its graph loads, sorted.
    models: tuple[str, ...] = ()
    inputs: tuple[InputRef, ...] = ()
