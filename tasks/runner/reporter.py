"""What a running prompt tells the world: progress into the ledger now and then, notices to those who watch."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from comfy.client.outputs import ReportedOutput
from core.errors import LedgerUnavailable
from core.ledger.claims import Claim
from core.messaging.notices import Notice
from core.records.progress import Progress
from core.texts.json_types import JsonObject
from tasks.runtime import Runtime
from workflows.graphs.graph import Graph

log = logging.getLogger(__name__)

#: At most so often, in seconds; the last point of a prompt is told by its end.
NOTICE_EVERY_S = 0.25
LEDGER_EVERY_S = 1.0
PREVIEW_EVERY_S = 1.0
#: Larger previews are not worth the broker's time.
PREVIEW_MAX_BYTES = 256 * 1024
#: ComfyUI's node that sends PNGs over the websocket as previews, and writes nothing into the history.
SENDING_CLASS = "SaveImageWebsocket"

Early: TypeAlias = Callable[[Sequence[ReportedOutput]], list[JsonObject] | None]


class ProgressReporter:
    """Listens to one prompt. Called by the thread that waits for it, so it must be quick."""

    def __init__(
        self, runtime: Runtime, claim: Claim, graph: Graph, *, on_life: Callable[[], None], early: Early
    ) -> None:
        """Parameters:
        on_life: called at every sign of life.
        early: brings what a node has made to where clients find it, and returns what to tell of it, or None: nothing.
        """
        self._graph, self._early = graph, early
        #: Pictures that were sent instead of saved, with their nodes: they exist nowhere else.
        self.sent: list[tuple[str, bytes]] = []
        self._runtime = runtime
        self._claim = claim
        self._on_life = on_life
        self._previewed_s = 0.0
        # A job's first moments are worth neither a notice nor a write: many are over by then.
        self._noticed_s = self._written_s = time.monotonic()

    def on_started(self) -> None:
        self._on_life()

    def on_progress(self, progress: Progress) -> None:
        self._on_life()
        now_s = time.monotonic()
        if now_s - self._noticed_s >= NOTICE_EVERY_S:
            self._noticed_s = now_s
            self._runtime.notices.send(Notice(job_id=self._claim.job_id, kind="progress", data=progress.to_json()))
        if now_s - self._written_s >= LEDGER_EVERY_S:
            self._written_s = now_s
            self._write(progress)

    def on_cached(self, nodes: Sequence[str]) -> None:
        self._on_life()
        known = [node_id for node_id in nodes if node_id in self._graph]
        self._runtime.notices.send(Notice(job_id=self._claim.job_id, kind="cached", data={"nodes": known}))

    def on_executed(self, node_id: str, outputs: Sequence[ReportedOutput]) -> None:
        self._on_life()
        told = self._early(outputs)
        if told is not None:
            data = {"node": node_id, "outputs": told}
            self._runtime.notices.send(Notice(job_id=self._claim.job_id, kind="executed", data=data))

    def on_preview(self, node_id: str | None, content_type: str, data: bytes) -> None:
        is_output = node_id in self._graph and self._graph[node_id]["class_type"] == SENDING_CLASS
        if node_id is not None and is_output:
            self.sent.append((node_id, data))
        now_s = time.monotonic()
        is_picture = content_type.startswith("image/") and len(data) <= PREVIEW_MAX_BYTES
        if not is_picture or now_s - self._previewed_s < PREVIEW_EVERY_S:
            return
        self._previewed_s = now_s
        picture: dict[str, Any] = {"node_id": node_id or "", "content_type": content_type}
        picture["data_base64"] = base64.b64encode(data).decode()
        if is_output:
            picture["is_output"] = True
        self._runtime.notices.send(Notice(job_id=self._claim.job_id, kind="preview", data=picture))

    def _write(self, progress: Progress) -> None:
        try:
            self._runtime.ledger.claims.progress(self._claim, progress)
        except LedgerUnavailable as exc:
            log.info("progress of job %s not written: %s", self._claim.job_id, exc)
