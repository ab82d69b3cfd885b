"""Serves the routes that queue, interrupt and look up prompts."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from aiohttp import web

from comfy.simulator.execution.graph_validation import make_error, validate_prompt
from comfy.simulator.execution.prompt_queue import PromptQueue
from comfy.simulator.execution.replacements import replace_classes
from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import NodeClasses

#: Keys of a user's accounts, which newer releases keep out of `/queue` and history.
_SECRET_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")
_PROMPT_ID_RULE = (
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one"
)


class PromptRoutes:
    """The handlers. Like ComfyUI's they do not guard their parsing: what is malformed ends in a 500."""

    def __init__(self, machine: Machine, classes: NodeClasses, prompts: PromptQueue) -> None:
        self._machine = machine
        self._release = machine.options.release
        self._classes = classes
        self._prompts = prompts
        #: The priority of the next prompt that brings none; restarts at 0 with the process.
        self._number = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/prompt", self.depth),
            web.post("/prompt", self.submit),
            web.get("/queue", self.queue),
            web.post("/queue", self.edit_queue),
            web.post("/interrupt", self.interrupt),
            web.post("/free", self.free),
            web.get("/history", self.history),
            web.get("/history/{prompt_id}", self.history_of),
            web.post("/history", self.edit_history),
        ]

    async def depth(self, _request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self._prompts.remaining()}})

    async def submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._machine.log("got prompt")
        number = self._take_number(body)
        if "prompt" not in body:
            error = make_error("no_prompt", "No prompt provided", "No prompt provided")
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        prompt_id = self._prompt_id(body)
        if prompt_id is None:
            error = make_error("invalid_prompt_id", "prompt_id must be a valid UUID", _PROMPT_ID_RULE)
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        prompt = body["prompt"]
        if self._release.replaces_nodes:
            replace_classes(prompt, self._classes)
        targets = body.get("partial_execution_targets") if self._release.partial_targets else None
        verdict = validate_prompt(prompt, targets, self._classes, self._machine)
        if verdict.error is not None:
            self._machine.log(f"invalid prompt: {verdict.error}")
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        extra_data = self._extra_data(body, request.headers.get("Comfy-Usage-Source"))
        self._prompts.put((number, prompt_id, prompt, extra_data, verdict.outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    def _take_number(self, body: dict[str, Any]) -> float:
        if "number" in body:
            return float(body["number"])
        number = -self._number if body.get("front") else self._number
        self._number += 1
        return number

    def _prompt_id(self, body: dict[str, Any]) -> str | None:
        given = body.get("prompt_id")
        if not self._release.strict_prompt_ids:
            # A null is turned into text like anything else: the id is then "None".
            return str(given) if "prompt_id" in body else str(uuid.uuid4())
        if given is None:
            return str(uuid.uuid4())
        return given if is_canonical_uuid(given) else None

    def _extra_data(self, body: dict[str, Any], usage_source: str | None) -> dict[str, Any]:
        extra_data: dict[str, Any] = body.get("extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        if usage_source and self._release.is_current:
            extra_data.setdefault("comfy_usage_source", usage_source)
        if self._release.hides_api_keys:
            for key in _SECRET_KEYS:
                extra_data.pop(key, None)
        if self._release.create_time:
            extra_data["create_time"] = int(time.time() * 1000)
        return extra_data

    async def queue(self, _request: web.Request) -> web.Response:
        running, pending = self._prompts.current()
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def edit_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self._prompts.clear()
        for prompt_id in body.get("delete", ()):
            self._prompts.delete(prompt_id)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except json.JSONDecodeError:
            body = {}
        prompt_id = body.get("prompt_id")
        if not prompt_id or not self._release.interrupt_by_id or self._prompts.is_running(prompt_id):
            self._machine.interrupt.set()
        return web.Response()

    async def free(self, request: web.Request) -> web.Response:
        body = await request.json()
        for name in ("unload_models", "free_memory"):
            if body.get(name, False):
                self._prompts.set_flag(name, True)
        return web.Response()

    async def history(self, request: web.Request) -> web.Response:
        query = request.query
        max_items = int(query["max_items"]) if "max_items" in query else None
        offset = int(query["offset"]) if "offset" in query and self._release.history_offset else -1
        return web.json_response(self._prompts.history(max_items, offset))

    async def history_of(self, request: web.Request) -> web.Response:
        return web.json_response(self._prompts.history_of(request.match_info["prompt_id"]))

    async def edit_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self._prompts.forget()
        if "delete" in body:
            self._prompts.forget(body["delete"])
        return web.Response()


def is_canonical_uuid(text: Any) -> bool:
    """Whether this is a UUID in lowercase with hyphens."""
    try:
        return isinstance(text, str) and str(uuid.UUID(text)) == text
    except ValueError:
        return False
