"""The life of one prompt, told as ComfyUI tells it: from the job's event log, and from notices of its progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from api.contracts.comfyui.entries import beginning, end_message, outputs_by_node, prompt_id_of
from api.contracts.comfyui.messages import Frame, executing, message, node_state, picture_frame, preview
from api.contracts.comfyui.stored_results import StoredResults
from api.http.time_limits import ledger_time_limit
from api.service.waiting import Watch
from core.clock import now_ms
from core.errors import LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.ledger.event_log import JobEvent
from core.messaging.notices import Notice
from core.records.job import QUEUED, RUNNING, TERMINAL, Job
from core.records.output import Output
from core.records.progress import Progress
from core.texts.json_types import JsonObject


class PromptStory:
    """What one client is told of one of its jobs.

    Parameters:
      job: as it was when the client was first told of it.
      from_start: its whole log is told; else what comes from now on, as to a client that comes back.
    """

    def __init__(self, job: Job, watch: Watch, ledger: Ledger, results: StoredResults, *, from_start: bool) -> None:
        self._job_id, self._prompt_id = job.id, prompt_id_of(job)
        self._watch = watch
        self._jobs = ledger.jobs
        self._results = results
        self._seq = 0 if from_start else job.last_seq
        self._is_behind = True
        self._has_begun = not from_start and job.status != QUEUED
        #: It has been told what the cache spares; that is told once, and before anything else of a run.
        self._has_told_cached = not from_start
        self._node: str | None = None
        #: What nodes have made, by node, as it was told while the job ran.
        self._executed: dict[str, JsonObject] = {}
        #: By node, how far it is: value, maximum, and ComfyUI's word for it.
        self._states: dict[str, tuple[float, float, str]] = {}
        self._known = job
        self.is_over = False

    def so_far(self) -> Iterator[Frame]:
        """Yield what a client that comes back sees of a prompt that runs."""
        if self._has_begun and self._known.progress is not None:
            yield from self._progress(self._known.progress)

    def news(self, *, has_metadata: bool) -> Iterator[Frame]:
        """Yield what has happened since. Raises LedgerUnavailable: it will be told later."""
        if self._watch.is_gone:
            self.is_over = True
            return
        progress, picture, nodes = self._watch.take_progress(), self._watch.take_preview(), self._watch.take_nodes()
        if self._is_behind or self._watch.seq > self._seq:
            self._is_behind = True
            with ledger_time_limit():
                events = self._jobs.events(self._job_id, after_seq=self._seq)
            for event in events:
                if self._ends(event):
                    # Before the end, which nothing follows.
                    yield from self._nodes(nodes)
                    yield from self._ended(has_metadata=has_metadata)
                else:
                    yield from self._begun(event)
                self._seq = event.seq
            self._is_behind = False
            if self.is_over:
                return
        if not self._has_begun:
            return
        yield from self._nodes(nodes)
        if progress is not None:
            yield from self._progress(progress)
        # What a node sends instead of saving it is told when it is stored, all of it.
        if picture is not None and not picture.get("is_output"):
            frame = preview(self._prompt_id, picture, has_metadata=has_metadata)
            if frame is not None:
                yield frame

    @staticmethod
    def _ends(event: JobEvent) -> bool:
        return event.type == "status" and event.data.get("status") in TERMINAL

    def _begun(self, event: JobEvent) -> Iterator[Frame]:
        if event.type != "status" or event.data.get("status") != RUNNING:
            return
        # Once more after an attempt that was lost: it begins anew.
        self._has_begun = True
        self._node, self._states, self._executed, self._has_told_cached = None, {}, {}, False
        yield message("execution_start", {"prompt_id": self._prompt_id, "timestamp": event.at_ms})

    def _nodes(self, notices: list[Notice]) -> Iterator[Frame]:
        """Yield what is told of single nodes: what the cache spares, and what others have made."""
        for notice in notices if self._has_begun else ():
            data = notice.data or {}
            if notice.kind == "cached":
                yield from self._cached([str(node) for node in data.get("nodes") or ()])
            else:
                yield from self._made(str(data.get("node")), results_told(self._job_id, data))

    def _cached(self, nodes: list[str] | None = None) -> Iterator[Frame]:
        if not self._has_told_cached:
            self._has_told_cached = True
            told = {"nodes": nodes or [], "prompt_id": self._prompt_id, "timestamp": now_ms()}
            yield message("execution_cached", told)

    def _made(self, node: str, results: list[tuple[Output, str]]) -> Iterator[Frame]:
        """Yield what a node has made while the job runs. `results`: each with its text, if it is one."""
        texts = {output.id: text for output, text in results}
        found = outputs_by_node([output for output, _ in results], lambda output: texts[output.id])
        if node not in found or node in self._executed:
            return
        yield from self._enters(node)
        yield from self._tell_executed(node, found[node])

    def _tell_executed(self, node: str, output: JsonObject) -> Iterator[Frame]:
        self._executed[node] = output
        told = {"node": node, "display_node": node, "output": output, "prompt_id": self._prompt_id}
        yield message("executed", told)

    def _ended(self, *, has_metadata: bool) -> Iterator[Frame]:
        self.is_over = True
        try:
            with ledger_time_limit():
                job = self._jobs.get(self._job_id, of=self._known.tenant)
        except NotFound:
            return
        if not beginning(job):
            # It never ran: ComfyUI forgets such a prompt without a word.
            return
        yield from self._cached()
        yield from self._sent(job, has_metadata=has_metadata)
        for node, output in outputs_by_node(job.outputs, self._results.text).items():
            # Told already, unless it came to another name in storage.
            if self._executed.get(node) != output:
                yield from self._tell_executed(node, output)
        kind, data = end_message(job)
        if kind == "execution_success" and self._states:
            self._finish(*self._states)
            yield self._state()
        yield message(kind, data)
        yield executing(self._prompt_id, None)

    def _sent(self, job: Job, *, has_metadata: bool) -> Iterator[Frame]:
        """Yield the pictures that nodes send instead of saving them, as clients wait for them: while the node runs."""
        try:
            sent = self._results.sent_pictures(job)
        except LedgerUnavailable:
            return
        for output, picture in sent:
            yield from self._enters(output.node_id)
            names = (self._prompt_id, output.node_id)
            yield picture_frame(*names, picture, output.content_type, has_metadata=has_metadata)

    def _enters(self, node: str) -> Iterator[Frame]:
        """Yield that a node runs, where another did."""
        yield from self._cached()
        if node != self._node:
            if self._node is not None:
                self._finish(self._node)
            self._node = node
            self._states[node] = (0.0, 1.0, "running")
            yield executing(self._prompt_id, node)

    def _progress(self, progress: Progress) -> Iterator[Frame]:
        node = progress.current_node
        if node is None:
            return
        yield from self._enters(node)
        if progress.step is not None and progress.steps:
            self._states[node] = (float(progress.step), float(progress.steps), "running")
            yield self._state()
            told = {"value": progress.step, "max": progress.steps, "prompt_id": self._prompt_id, "node": node}
            yield message("progress", told)
        else:
            yield self._state()

    def _finish(self, *nodes: str) -> None:
        for node in nodes:
            most = self._states[node][1]
            self._states[node] = (most, most, "finished")

    def _state(self) -> Frame:
        nodes = {node: node_state(self._prompt_id, node, *state) for node, state in self._states.items()}
        return message("progress_state", {"prompt_id": self._prompt_id, "nodes": nodes})


def results_told(job_id: str, data: Mapping[str, Any]) -> list[tuple[Output, str]]:
    """Read what a notice says of a node's results, each with its text; what is no result is left out."""
    found = []
    for number, each in enumerate(data.get("outputs") or ()):
        with suppress(LookupError, TypeError, AttributeError):
            facts = {
                name: str(each[name]) for name in ("node_id", "name", "kind", "content_type", "folder", "comfy_key")
            }
            key, text = each.get("storage_key"), str(each.get("text") or "")
            known: Any = facts | {"storage_key": None if key is None else str(key)}
            found.append((Output(id=str(number), job_id=job_id, size_bytes=len(text), **known), text))
    return found
