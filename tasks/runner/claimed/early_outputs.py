"""What a node has made is told when it has, and not when the job is over: its files are in storage by then."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.client.outputs import ReportedOutput
from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from core.records.output import OutputFile
from core.texts.json_types import JsonObject
from tasks.runner.direct_store import DirectStore
from tasks.runner.output_files import output_files
from workflows.graphs.graph import Graph

#: Nodes of one job, and results of one node, that are told of early; the others are told when the job is over.
MOST_NODES, MOST_RESULTS = 100, 16
#: A text goes with the notice.
MAX_TEXT_CHARS = 8 * 1024
#: Its files have names that nobody can choose, outside of the job's own folder.
PREVIEWING_CLASS = "PreviewImage"


class EarlyOutputs:
    """What the nodes of one prompt have made so far."""

    def __init__(self, store: DirectStore, claim: Claim, instance: InstanceRecord, graph: Graph) -> None:
        self._store, self._claim, self._instance, self._graph = store, claim, instance, graph
        self._left = MOST_NODES

    def take(self, outputs: Sequence[ReportedOutput]) -> list[JsonObject] | None:
        """Bring what one node has made into storage.

        Returns: what is told of each result; None where they are told of when the job is over.
        """
        if not self._left or len(outputs) > MOST_RESULTS:
            return None
        self._left -= 1
        files = output_files(self._claim.job_id, list(outputs), self._instance)
        if not all(map(self._is_plain, files)):
            return None
        placed = self._store.place_early(self._claim, files)
        return None if placed is None else [_told(file) for file in placed]

    def _is_plain(self, file: OutputFile) -> bool:
        """Whether a result is a short text, or a file that is this job's for sure."""
        if file.source.text is not None:
            return len(file.source.text) <= MAX_TEXT_CHARS
        if file.folder == "temp":
            node = self._graph.get(file.node_id) or {}
            return file.subfolder == "" and node.get("class_type") == PREVIEWING_CLASS
        return file.folder == "output" and f"{file.subfolder}/".startswith(f"{self._claim.job_id}/")


def _told(file: OutputFile) -> JsonObject:
    facts: JsonObject = {
        "node_id": file.node_id,
        "name": file.name,
        "kind": file.kind,
        "content_type": file.content_type,
        "folder": file.folder,
        "comfy_key": file.comfy_key,
        "storage_key": file.storage_key,
    }
    return facts if file.source.text is None else {**facts, "text": file.source.text}
