"""Refuses graphs that reach for what is not their job's."""

from __future__ import annotations

from api.http.time_limits import ledger_time_limit
from core.errors import InvalidRequest
from core.ledger import Ledger
from core.settings import Settings
from workflows.graphs.boundaries import Paths, absolute_paths, jobs_named


def refuse_foreign(paths: Paths, job_id: str, settings: Settings, ledger: Ledger, *, of: str) -> None:
    """Refuse a graph that reads of another job: by its place on a disk, or from where the fleet keeps files.

    Parameters:
      paths: those of the graph, see `GraphFacts`.
      of: the tenant whose jobs there are for who asks.
    Raises:
      InvalidRequest, LedgerUnavailable.
    """
    refuse_other_jobs(paths, job_id, ledger, of=of)
    _refuse_kept_folders(paths, settings)


def refuse_other_jobs(paths: Paths, job_id: str, ledger: Ledger, *, of: str) -> None:
    """Refuse a graph that reads of another job of a tenant, or of any; parameters and errors as `refuse_foreign`."""
    named = jobs_named(paths)
    named.pop(job_id, None)
    if not named:
        return
    with ledger_time_limit():
        others = ledger.jobs.states(list(named), of=of)
    for other in others:
        raise InvalidRequest(
            f"Node {named[other][0]}, input {named[other][1]}: this path leads to files of another job. "
            "To use one of its outputs, name that by its id."
        )


def _refuse_kept_folders(paths: Paths, settings: Settings) -> None:
    kept = (settings.data_dir, settings.outputs_dir, settings.inputs_dir)
    for node_id, input_name, path in absolute_paths(paths):
        if any(path == place or place in path.parents or path in place.parents for place in kept):
            raise InvalidRequest(f"Node {node_id}, input {input_name}: there lie the files of all jobs.")
