"""The HTTP side of one ComfyUI server, one method per route we need."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

import requests

from comfy.client.capabilities import Capabilities, detect
from comfy.client.history import History, parse_entry
from comfy.client.outputs import ReportedOutput
from comfy.client.printed import PrintedEntry, parse_entries
from comfy.client.rejection import rejected_graph, rejected_upload
from comfy.client.replacements import Replacement, parse_replacements
from comfy.client.transport import Transport, json_of, unexpected
from core.errors import ComfyUnavailable, NodeErrors

Place = Literal["pending", "running", "finished"]

_JOB_PLACES: dict[str, Place] = {
    "pending": "pending",
    "in_progress": "running",
    "completed": "finished",
    "failed": "finished",
    "cancelled": "finished",
}


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The answer to a prompt that was queued."""

    prompt_id: str
    #: Place in the queue's order; it starts again at 0 with each ComfyUI process.
    number: float
    #: Not empty: these nodes failed validation, their outputs were dropped, and the rest runs.
    node_errors: NodeErrors = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """Where ComfyUI put an uploaded file; `name` differs from the one sent if that was taken."""

    name: str
    subfolder: str
    type: str

    @property
    def reference(self) -> str:
        """How a graph names the file: `subfolder/name`."""
        return f"{self.subfolder}/{self.name}" if self.subfolder else self.name


class ComfyClient:
    """Talks to one server. Thread-safe; keeps one connection per thread.

    Every method raises `ComfyUnavailable` if the server does not answer or answers what no ComfyUI would.
    Source: ComfyUI 0.3.45 to 0.10.0 `server.py`, and files of its master branch up to 0.38.1.
    """

    def __init__(self, base_url: str, *, connect_timeout_s: float = 2.0, read_timeout_s: float = 30.0) -> None:
        """`read_timeout_s` is generous because the server's event loop stands still while a node holds the GIL."""
        self._http = Transport(base_url, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s)
        self.base_url = self._http.base_url
        self._capabilities: Capabilities | None = None
        self._capabilities_lock = threading.Lock()

    def close(self) -> None:
        self._http.close()

    def queue_remaining(self) -> int:
        """How many prompts are pending or running. The cheapest question there is, so also the liveness probe."""
        info = _object(_object(json_of(self._http.get("/prompt"))).get("exec_info"))
        if not isinstance(info.get("queue_remaining"), int):
            raise ComfyUnavailable("what answers GET /prompt is not a ComfyUI")
        return int(info["queue_remaining"])

    def system_stats(self) -> dict[str, Any]:
        """`{"system": {...}, "devices": [...]}`. Queries the GPU driver: not for frequent use."""
        return _object(json_of(self._http.get("/system_stats")))

    def features(self) -> dict[str, Any] | None:
        """What the server announces in `/features`; None before 0.3.45, which has no such route."""
        response = self._http.get("/features")
        return None if response.status_code == requests.codes.not_found else _object(json_of(response))

    def object_info(self, node_class: str | None = None) -> dict[str, Any]:
        """`{class: description}` of all node classes (megabytes, seconds), or of one; `{}` if that is unknown."""
        path = f"/object_info/{quote(node_class, safe='')}" if node_class else "/object_info"
        return _object(json_of(self._http.get(path)))

    def node_replacements(self) -> dict[str, Replacement]:
        """What newer servers put in the place of classes that are gone, by the class; `{}` from all others."""
        response = self._http.get("/node_replacements")
        try:
            found = _object(json_of(response)) if response.status_code == requests.codes.ok else {}
        except ComfyUnavailable:
            # Older servers have no such route, and some proxy answers for them.
            return {}
        return parse_replacements(found)

    def model_sizes(self) -> dict[str, int]:
        """`{name: bytes}` of the files in all model folders; `{}` from servers that do not tell.

        Each file stands there twice: under its name, as graphs have it, and with its folder before that
        (`checkpoints/x.safetensors`). Of files of one name in several folders the largest counts.
        Source: ComfyUI `app/model_manager.py` (`/experiment/models`); older versions list names alone.
        """
        sizes: dict[str, int] = {}
        for folder in self._listed("/experiment/models"):
            for file in self._listed(f"/experiment/models/{quote(str(folder.get('name')), safe='')}"):
                name, size = file.get("name"), file.get("size")
                if isinstance(name, str) and isinstance(size, int):
                    sizes[f"{folder.get('name')}/{name}"] = size
                    sizes[name] = max(size, sizes.get(name, 0))
        return sizes

    def capabilities(self, *, read_timeout_s: float | None = None) -> Capabilities:
        """What this server can do. Asked once, with four requests, until `forget_capabilities`."""
        with self._capabilities_lock:
            if self._capabilities is None:
                self._capabilities = self._detect(read_timeout_s)
            return self._capabilities

    def forget_capabilities(self) -> None:
        """Ask again next time: another process may now answer at this address."""
        with self._capabilities_lock:
            self._capabilities = None

    def post_prompt(
        self,
        graph: Mapping[str, Any],
        *,
        prompt_id: str,
        client_id: str,
        extra_data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Accepted:
        """Queue a prompt, sending it once at most.

        Parameters:
          prompt_id: a canonical lowercase UUID of ours; newer servers refuse anything else.
          client_id: never empty: without one there are no events, and ComfyUI 0.3.68 to mid 2026 leaves cached
            outputs out of the history.
          headers: further ones of the request.
        Raises:
          PromptRejected: validation refused the graph (400), or the body is over the server's limit (413).
          ComfyUnavailable: also when the reply was lost, in which case the prompt may be queued all the same.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id}
        if extra_data:
            body["extra_data"] = extra_data
        response = self._http.post_json("/prompt", body, repeatable=False, headers=headers)
        if response.status_code in (requests.codes.bad_request, requests.codes.request_entity_too_large):
            raise rejected_graph(response)
        answer = _object(json_of(response))
        node_errors = answer.get("node_errors")
        return Accepted(
            prompt_id=str(answer.get("prompt_id", prompt_id)),
            number=answer.get("number", 0),
            node_errors=node_errors if isinstance(node_errors, dict) else {},
        )

    def history(self, prompt_id: str, *, read_timeout_s: float | None = None) -> History | None:
        """The entry of a finished prompt; None for any other: unknown, pending, running, evicted."""
        answer = _object(json_of(self._http.get(f"/history/{prompt_id}", read_timeout_s=read_timeout_s)))
        entry = answer.get(prompt_id)
        return parse_entry(prompt_id, entry) if isinstance(entry, dict) else None

    def find(self, prompt_id: str, *, read_timeout_s: float | None = None) -> Place | None:
        """Where a prompt is; None if this process does not know it (any more)."""
        if self.capabilities(read_timeout_s=read_timeout_s).jobs_api:
            response = self._http.get(f"/api/jobs/{prompt_id}", read_timeout_s=read_timeout_s)
            if response.status_code == requests.codes.not_found:
                return None
            place = _JOB_PLACES.get(str(_object(json_of(response)).get("status")))
            if place is not None:
                return place
        # Queue first: a prompt that finishes between the two questions is then found by the second one.
        queue = _object(json_of(self._http.get("/queue", read_timeout_s=read_timeout_s)))
        if prompt_id in _prompt_ids(queue.get("queue_running")):
            return "running"
        if prompt_id in _prompt_ids(queue.get("queue_pending")):
            return "pending"
        return "finished" if self.history(prompt_id, read_timeout_s=read_timeout_s) is not None else None

    def waits_in_vain(self, prompt_id: str, *, read_timeout_s: float | None = None) -> bool:
        """Whether this prompt is pending although nothing runs: true for moments, unless the worker thread is dead."""
        queue = _object(json_of(self._http.get("/queue", read_timeout_s=read_timeout_s)))
        return not queue.get("queue_running") and prompt_id in _prompt_ids(queue.get("queue_pending"))

    def running_prompts(self) -> set[str]:
        """The ids of what runs now, whoever posted it: one at most."""
        return _prompt_ids(_object(json_of(self._http.get("/queue"))).get("queue_running"))

    def printed(self) -> list[PrintedEntry] | None:
        """The last writes of the process to its terminal, the oldest first; None: this server does not tell."""
        response = self._http.get("/internal/logs/raw")
        return parse_entries(json_of(response)) if response.status_code == requests.codes.ok else None

    def interrupt(self, prompt_id: str, *, read_timeout_s: float | None = None) -> None:
        """Stop this prompt, pending or running, and no other. Does nothing if it is neither.

        Stopping is cooperative: a running node notices at its next progress step, some never do; the history tells.
        """
        capabilities = self.capabilities(read_timeout_s=read_timeout_s)
        if capabilities.cancel_api:
            self._command(f"/api/jobs/{prompt_id}/cancel", {}, read_timeout_s)
            return
        # Pending first: if ComfyUI takes it from its queue in between, the second request still finds it running.
        self._command("/queue", {"delete": [prompt_id]}, read_timeout_s)
        if capabilities.interrupt_by_id:
            self._command("/interrupt", {"prompt_id": prompt_id}, read_timeout_s)
        elif self.find(prompt_id, read_timeout_s=read_timeout_s) == "running":
            # Before 0.3.57 the flag stops whatever runs; should the prompt end within this request's flight, the next
            # one is hit. Newer servers close the gap.
            self._command("/interrupt", {}, read_timeout_s)

    def clear(self) -> None:
        """Stop everything: empty the queue and interrupt whatever runs. For an instance nobody else uses."""
        self._command("/queue", {"clear": True})
        self._command("/interrupt", {})

    def free(self, *, unload_models: bool = True, free_memory: bool = False) -> None:
        """Ask for memory back, done after the current prompt.

        Parameters:
          unload_models: move all models out of VRAM.
          free_memory: also forget cached node results, and with them the weights in RAM; implies `unload_models`.
        """
        self._command("/free", {"unload_models": unload_models, "free_memory": free_memory})

    def upload_image(
        self,
        source: Path | bytes | BinaryIO,
        *,
        name: str,
        subfolder: str = "",
        folder_type: str = "input",
        overwrite: bool = False,
    ) -> UploadedFile:
        """Upload an input file, of any kind despite the route's name. Use the returned name, not the one asked for.

        Raises:
          PromptRejected: the server refuses the name or the size.
        """
        fields = {"type": folder_type, "subfolder": subfolder, "overwrite": "true" if overwrite else "false"}
        with contextlib.ExitStack() as stack:
            content = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            response = self._http.post_form("/upload/image", fields=fields, files={"image": (name, content)})
        if response.status_code in (requests.codes.bad_request, requests.codes.request_entity_too_large):
            raise rejected_upload(response, name)
        answer = _object(json_of(response))
        return UploadedFile(
            name=str(answer.get("name", name)),
            subfolder=str(answer.get("subfolder", subfolder)),
            type=str(answer.get("type", folder_type)),
        )

    def has(self, item: ReportedOutput) -> bool:
        """Whether the server would hand this output file out."""
        params = {"filename": item.filename or "", "subfolder": item.subfolder or "", "type": item.folder or "output"}
        with self._http.get("/view", params=params, stream=True) as response:
            if response.status_code >= requests.codes.server_error:
                raise unexpected(response)
            return bool(response.status_code == requests.codes.ok)

    def _listed(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list; none where a server has no such route, or something else answers in its place."""
        response = self._http.get(path)
        try:
            found = json_of(response) if response.status_code == requests.codes.ok else []
        except ComfyUnavailable:
            return []
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def _command(self, path: str, payload: Mapping[str, Any], read_timeout_s: float | None = None) -> None:
        """POST something that answers 200 whether or not it had any effect."""
        response = self._http.post_json(path, payload, read_timeout_s=read_timeout_s)
        if response.status_code != requests.codes.ok:
            raise unexpected(response)

    def _detect(self, read_timeout_s: float | None) -> Capabilities:
        # The first question may go unanswered, then none of the others is asked.
        answer = self._http.get("/system_stats", read_timeout_s=read_timeout_s)
        system = _object(_object(json_of(answer)).get("system"))
        jobs_api = self._http.get("/api/jobs", params={"limit": "1"}).status_code == requests.codes.ok
        cancel_api = False
        if jobs_api:
            # Nobody has this id, so nothing is cancelled; servers without the route answer 404 or 405.
            probe = self._http.post_json(f"/api/jobs/{uuid.uuid4()}/cancel", {})
            cancel_api = probe.status_code == requests.codes.ok
        return detect(
            version_text=system.get("comfyui_version"),
            features=self.features(),
            jobs_api=jobs_api,
            cancel_api=cancel_api,
        )


def _prompt_ids(items: object) -> set[str]:
    """Queue items are `[number, prompt_id, graph, extra_data, outputs]`."""
    rows = items if isinstance(items, list) else []
    return {str(row[1]) for row in rows if isinstance(row, list) and len(row) > 1}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
