"""The life of one prompt, told as ComfyUI tells it: from the job's event log, and from notices of its progress."""

from __future__ import annotations

from collections.abc import Iterator

from api.contracts.comfyui.entries import ReadText, beginning, end_message, outputs_by_node, prompt_id_of
from api.contracts.comfyui.messages import Frame, executing, message, node_state, preview
from api.http.time_limits import ledger_time_limit
from api.service.waiting import Watch
from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.event_log import JobEvent
from core.records.job import QUEUED, RUNNING, TERMINAL, Job
from core.records.progress import Progress


class PromptStory:
    """What one client is told of one of its jobs.

    Parameters:
      job: as it was when the client was first told of it.
      from_start: its whole log is told; else what comes from now on, as to a client that comes back.
    """

    def __init__(self, job: Job, watch: Watch, ledger: Ledger, read_text: ReadText, *, from_start: bool) -> None:
        self._job_id, self._prompt_id = job.id, prompt_id_of(job)
        self._watch = watch
        self._jobs = ledger.jobs
        self._read_text = read_text
        self._seq = 0 if from_start else job.last_seq
        self._is_behind = True
        self._has_begun = not from_start and job.status != QUEUED
        self._node: str | None = None
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
        progress, picture = self._watch.take_progress(), self._watch.take_preview()
        if self._is_behind or self._watch.seq > self._seq:
            self._is_behind = True
            with ledger_time_limit():
                events = self._jobs.events(self._job_id, after_seq=self._seq)
            for event in events:
                if self._ends(event):
                    # Before the end, which nothing follows.
                    yield from self._ended()
                else:
                    yield from self._begun(event)
                self._seq = event.seq
            self._is_behind = False
            if self.is_over:
                return
        if progress is not None and self._has_begun:
            yield from self._progress(progress)
        if picture is not None and self._has_begun:
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
        self._node, self._states = None, {}
        told = {"prompt_id": self._prompt_id, "timestamp": event.at_ms}
        yield message("execution_start", told)
        yield message("execution_cached", {"nodes": [], **told})

    def _ended(self) -> Iterator[Frame]:
        self.is_over = True
        try:
            with ledger_time_limit():
                job = self._jobs.get(self._job_id, of=self._known.tenant)
        except NotFound:
            return
        if not beginning(job):
            # It never ran: ComfyUI forgets such a prompt without a word.
            return
        for node, output in outputs_by_node(job.outputs, self._read_text).items():
            told = {"node": node, "display_node": node, "output": output, "prompt_id": self._prompt_id}
            yield message("executed", told)
        kind, data = end_message(job)
        if kind == "execution_success" and self._states:
            self._finish(*self._states)
            yield self._state()
        yield message(kind, data)
        yield executing(self._prompt_id, None)

    def _progress(self, progress: Progress) -> Iterator[Frame]:
        node = progress.current_node
        if node is None:
            return
        if node != self._node:
            if self._node is not None:
                self._finish(self._node)
            self._node = node
            self._states[node] = (0.0, 1.0, "running")
            yield executing(self._prompt_id, node)
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
