"""The graphs of jobs as they stand in their rows: whole, or as what is different from one that is shared."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select

from core.graph_differences import Graph, with_differences
from core.ledger.database.batch_tables import shared_graphs
from core.ledger.database.tables import jobs
from core.texts.stored_json import json_text

#: Columns of a job that this reads.
GRAPH_COLUMNS = (jobs.c.graph, jobs.c.shared_graph)
#: Shared graphs that one process remembers; most jobs that come after another are of the same batch.
KEPT = 32

_SHARED = select(shared_graphs.c.id, shared_graphs.c.graph).where(
    shared_graphs.c.id.in_(bindparam("wanted", expanding=True))
)


class _Kept:
    """The shared graphs that were read last, parsed. They never change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graphs: OrderedDict[str, Graph] = OrderedDict()

    def get(self, graph_id: str) -> Graph | None:
        with self._lock:
            found = self._graphs.get(graph_id)
            if found is not None:
                self._graphs.move_to_end(graph_id)
            return found

    def add(self, graph_id: str, graph: Graph) -> None:
        with self._lock:
            self._graphs[graph_id] = graph
            while len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)


_kept = _Kept()


def whole_graph(connection: Connection, graph: str, shared_graph: str | None) -> str:
    """Return a job's graph as JSON text. Parameters: `GRAPH_COLUMNS` of its row."""
    if shared_graph is None:
        return graph
    return json_text(with_differences(_bases(connection, {shared_graph})[shared_graph], graph))


def whole_graphs(connection: Connection, rows: Mapping[str, tuple[str, str | None]]) -> dict[str, str]:
    """Return the graphs of several jobs, by id. Parameters: rows - `GRAPH_COLUMNS` of each."""
    bases = _bases(connection, {shared for _, shared in rows.values() if shared is not None})
    return {
        job_id: graph if shared is None else json_text(with_differences(bases[shared], graph))
        for job_id, (graph, shared) in rows.items()
    }


def _bases(connection: Connection, wanted: Collection[str]) -> dict[str, Graph]:
    found: dict[str, Graph] = {}
    for graph_id in wanted:
        graph = _kept.get(graph_id)
        if graph is not None:
            found[graph_id] = graph
    missing = [graph_id for graph_id in wanted if graph_id not in found]
    for row in connection.execute(_SHARED, {"wanted": missing}) if missing else ():
        # Not the fastest parser: integers beyond 64 bits keep their digits in this one.
        graph_of: dict[str, Any] = json.loads(row.graph)
        found[row.id] = graph_of
        _kept.add(row.id, graph_of)
    return found
