"""The official editor, its own package, served with just enough of ComfyUI's routes to start."""

from __future__ import annotations

import asyncio
import json
import threading
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from tests.ports import free_port

PACKAGE = "comfyui_frontend_package"
_LISTS = ("/api/extensions", "/api/embeddings", "/api/users", "/api/userdata", "/api/jobs", "/api/experiment/models")


def lacking() -> list[str]:
    """What has to be installed for it."""
    return [] if find_spec(PACKAGE) else [PACKAGE]


class StubServer:
    """Serves the editor, and an `/object_info`, from a thread of its own."""

    def __init__(self, object_info: Any) -> None:
        self.port = free_port()
        self._object_info = json.dumps(object_info)
        self._static = Path(str(files(PACKAGE))) / "static"
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="editor-stub", daemon=True)

    def __enter__(self) -> StubServer:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path in ("/ws", "/api/ws"):
            return await self._websocket(request)
        if path in ("/api/object_info", "/object_info"):
            return web.Response(text=self._object_info, content_type="application/json")
        if path.startswith("/api/"):
            return self._api(path)
        file = (self._static / path.lstrip("/")).resolve()
        if path == "/":
            file = self._static / "index.html"
        if file.is_relative_to(self._static) and file.is_file():
            return web.FileResponse(file)
        return web.Response(status=404)

    def _api(self, path: str) -> web.Response:
        if path == "/api/settings":
            return web.json_response(
                {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.58.1", "Comfy.VueNodes.Enabled": False}
            )
        if path == "/api/system_stats":
            return web.json_response(
                {"system": {"comfyui_version": "0.30.0", "argv": [], "os": "posix"}, "devices": []}
            )
        if path == "/api/queue":
            return web.json_response({"queue_running": [], "queue_pending": []})
        if path in _LISTS:
            return web.json_response({"storage": "server", "migrated": True} if path == "/api/users" else [])
        if path in ("/api/features", "/api/i18n", "/api/workflow_templates", "/api/history", "/api/node_replacements"):
            return web.json_response({})
        return web.Response(status=404)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(
            {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "s"}}
        )
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        return socket
