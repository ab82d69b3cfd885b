"""Serves the websocket."""

from __future__ import annotations

import json
import uuid
from typing import Any

import aiohttp
from aiohttp import web

from comfy.simulator.execution.prompt_queue import PromptQueue
from comfy.simulator.machine.hub import Connection
from comfy.simulator.machine.machine import Machine


class SocketRoute:
    """The handler of `/ws`."""

    def __init__(self, machine: Machine, prompts: PromptQueue, features: dict[str, Any]) -> None:
        self._machine = machine
        self._prompts = prompts
        self._features = features

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/ws", self.connect)]

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        hub = self._machine.hub
        if self._machine.faults.take("socket_refused") is not None:
            raise web.HTTPNotFound
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        connection = Connection(socket=socket, request=request)
        hub.connect(client_id, connection)
        try:
            status = {"exec_info": {"queue_remaining": self._prompts.remaining()}}
            await hub.send_now("status", {"status": status, "sid": client_id}, connection)
            if hub.client_id == client_id and hub.last_node_id is not None:
                # A returning client is told where its prompt is, though not which prompt that is.
                await hub.send_now("executing", {"node": hub.last_node_id}, connection)
            await self._listen(connection)
        finally:
            hub.disconnect(client_id, connection, only_itself=not self._machine.options.socket_bug)
        return socket

    async def _listen(self, connection: Connection) -> None:
        first = True
        async for message in connection.socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            try:
                data = json.loads(message.data)
            except json.JSONDecodeError:
                continue
            if first and isinstance(data, dict) and data.get("type") == "feature_flags":
                connection.features.update(data.get("data") or {})
                await self._machine.hub.send_now("feature_flags", self._features, connection)
            first = False
