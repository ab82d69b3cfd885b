"""Serves the model files with their sizes, and `/simulator/models`: what is loaded, and how often it was."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from aiohttp import web

from comfy.simulator.machine import model_list as catalogue
from comfy.simulator.machine.machine import Machine
from comfy.simulator.routes.ordered_faults import require_loopback

#: Folders that ComfyUI leaves out where it lists them with their paths.
_NOT_MODELS = ("configs", "custom_nodes")


class ModelRoutes:
    """The handlers."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        told = (kind for kind, _ in machine.options.extra_paths)
        self._folders = list(dict.fromkeys((*catalogue.folders(machine.options.release), *told)))
        #: The age of files that are only claimed.
        self._started_s = time.time()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/models", self.folder_names),
            web.get("/models/{folder}", self.names),
            web.get("/experiment/models", self.folders),
            web.get("/experiment/models/{folder}", self.files),
        ]

    def simulator_routes(self) -> list[web.RouteDef]:
        """Those that ComfyUI lacks; they answer this machine only."""
        path = "/simulator/models"
        return [web.get(path, self.loaded), web.delete(path, self.forget_counts)]

    async def folder_names(self, _request: web.Request) -> web.Response:
        return web.json_response(self._folders)

    async def names(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in self._folders:
            return web.Response(status=404)
        return web.json_response(self._machine.names(folder))

    async def folders(self, _request: web.Request) -> web.Response:
        return web.json_response([self._folder(name) for name in self._folders if name not in _NOT_MODELS])

    async def files(self, request: web.Request) -> web.Response:
        """`[{"name", "pathIndex", "modified", "created", "size"}]`, times in seconds, sizes in bytes."""
        folder = request.match_info["folder"]
        if folder not in self._folders:
            return web.Response(status=404)
        names = [name for name in self._machine.names(folder) if name.endswith(catalogue.SUFFIXES)]
        return web.json_response([self._file(folder, name) for name in names])

    async def loaded(self, request: web.Request) -> web.Response:
        """Loads by way (`disk`, `ram`, `vram`, `stream`), evictions by tier, and each file that is in RAM or VRAM."""
        require_loopback(request)
        gpu = self._machine.gpu
        body = {
            "simulated": True,
            "loads": gpu.loads(),
            "evictions": gpu.evictions(),
            "files": [dataclasses.asdict(file) for file in gpu.files()],
        }
        return web.json_response(body)

    async def forget_counts(self, request: web.Request) -> web.Response:
        """Count from nothing; what is loaded stays."""
        require_loopback(request)
        self._machine.gpu.forget_counts()
        return await self.loaded(request)

    def _folder(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": name, "folders": [str(self._machine.model_folder(name))]}
        # When upstream began to tell them is not known to the release.
        return {**shown, "extensions": list(catalogue.SUFFIXES)} if self._machine.options.release.assets_flag else shown

    def _file(self, folder: str, name: str) -> dict[str, Any]:
        path = self._machine.model_path(folder, name)
        status = None if path is None else path.stat()
        return {
            "name": name,
            "pathIndex": 0,
            "modified": self._started_s if status is None else status.st_mtime,
            "created": self._started_s if status is None else status.st_ctime,
            "size": self._machine.model_size_bytes(folder, name),
        }
