"""What nodes made and ComfyUI would send, which are files here, read again for answers and messages that hold them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

from api.http.files import open_output
from api.http.time_limits import ledger_time_limit
from core.errors import OutputUnavailable
from core.ledger import Ledger
from core.records.job import Job
from core.records.output import Output
from core.settings import Settings
from core.storage.backend import output_storage

log = logging.getLogger(__name__)

#: ComfyUI's node that sends its pictures over the websocket, and what they are called where they are kept.
SENDING_CLASS = "SaveImageWebsocket"
_SENT_NAME = re.compile(r"websocket_\d{5}_\.png")
#: Of one picture: larger ones are in the history alone.
MAX_PICTURE_BYTES = 64 * 1024 * 1024


class StoredResults:
    """The results in the fleet's storage."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._storage, self._pages = output_storage(settings), ledger.job_pages

    def text(self, output: Output) -> str | None:
        """Return the text of an output; None of one that is not to be had now."""
        content = self._read(output)
        return None if content is None else content.decode("utf-8", "replace")

    def sent_pictures(self, job: Job) -> Iterator[tuple[Output, bytes]]:
        """Yield the pictures that nodes of a job sent instead of saving them. Raises LedgerUnavailable."""
        found = [output for output in job.outputs if _SENT_NAME.fullmatch(output.name)]
        graph = self._graph(job) if found else {}
        for output in found:
            is_sent = (graph.get(output.node_id) or {}).get("class_type") == SENDING_CLASS
            if is_sent and output.size_bytes <= MAX_PICTURE_BYTES and (picture := self._read(output)) is not None:
                yield output, picture

    def _graph(self, job: Job) -> dict[str, dict[str, object]]:
        with ledger_time_limit():
            submitted = self._pages.submitted([job.id], of=job.tenant).get(job.id)
        graph: dict[str, dict[str, object]] = {} if submitted is None else json.loads(submitted.graph)
        return graph

    def _read(self, output: Output) -> bytes | None:
        try:
            with open_output(output, self._storage) as file:
                return bytes(file.read())
        except (OutputUnavailable, OSError) as exc:
            log.info("the result %s of job %s is left out: %s", output.name, output.job_id, exc)
            return None
