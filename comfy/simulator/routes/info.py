"""Serves what a client may ask about the server itself and its nodes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from comfy.simulator.execution.replacements import REPLACEMENTS
from comfy.simulator.machine import model_list as catalogue
from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import NodeClasses, object_info


class InfoRoutes:
    """The handlers."""

    def __init__(self, machine: Machine, classes: NodeClasses) -> None:
        self._machine = machine
        self._release = machine.options.release
        self._classes = classes

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/system_stats", self.system_stats),
            web.get("/features", self.show_features),
            web.get("/object_info", self.all_nodes),
            web.get("/object_info/{name}", self.one_node),
            *([web.get("/node_replacements", self.replacements)] if self._release.replaces_nodes else []),
            web.get("/embeddings", self.nothing),
            web.get("/extensions", self.nothing),
        ]

    def internal_routes(self) -> list[web.RouteDef]:
        """Those that have no twin below /api."""
        return [
            web.get("/internal/logs", self.logs),
            web.get("/internal/logs/raw", self.raw_logs),
            web.patch("/internal/logs/subscribe", self.subscribe_logs),
            web.get("/internal/folder_paths", self.folder_paths),
            web.get("/internal/files/{kind}", self.files),
        ]

    def features(self) -> dict[str, Any]:
        """What the server can do, as `/features` and the websocket say it."""
        features: dict[str, Any] = {
            "supports_preview_metadata": True,
            "max_upload_size": self._machine.options.announced_body_bytes,
        }
        if self._release.names_platform:
            features["extension"] = {"manager": {"supports_v4": True}}
        if self._release.replaces_nodes:
            features["node_replacements"] = True
        if self._release.assets_flag:
            features |= {"supports_model_type_tags": True, "assets": False}
        return features

    async def show_features(self, _request: web.Request) -> web.Response:
        return web.json_response(self.features())

    async def system_stats(self, _request: web.Request) -> web.Response:
        gpu = self._machine.gpu
        system = {
            "os": sys.platform if self._release.names_platform else os.name,
            "ram_total": gpu.room.ram_bytes,
            "ram_free": gpu.ram_available_bytes(),
            "comfyui_version": self._release.text,
            "required_frontend_version": None,
            "installed_templates_version": None,
            "required_templates_version": None,
            "python_version": sys.version,
            "pytorch_version": "none (simulated)",
            "embedded_python": False,
            "argv": list(self._machine.options.argv),
            "simulated": True,
        }
        if self._release.is_current:
            system |= {"comfy_package_versions": [], "deploy_environment": "local-git"}
        shown = self._machine.options.gpu_count if self._release.is_current else 1
        return web.json_response({"system": system, "devices": [self._device(index) for index in range(shown)]})

    def _device(self, index: int) -> dict[str, Any]:
        """One GPU of the process. Prompts run on the first one, and nothing here gives the others any work."""
        gpu = self._machine.gpu
        used_bytes = 0 if index else gpu.used_bytes()
        return {
            "name": f"cuda:{index} {self._machine.options.card} : simulated",
            "type": "cuda",
            # Whatever the physical card: a process started with --cuda-device counts those that it sees from 0.
            "index": index,
            "vram_total": gpu.room.vram_bytes,
            "vram_free": gpu.room.vram_bytes - used_bytes,
            "torch_vram_total": used_bytes,
            "torch_vram_free": 0,
            "simulated_resident_models": [] if index else gpu.resident_names(),
        }

    async def all_nodes(self, _request: web.Request) -> web.Response:
        return web.json_response({name: object_info(node, self._machine) for name, node in self._classes.items()})

    async def one_node(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        node = self._classes.get(name)
        return web.json_response({} if node is None else {name: object_info(node, self._machine)})

    async def replacements(self, _request: web.Request) -> web.Response:
        return web.json_response({each["old_node_id"]: [each] for each in REPLACEMENTS})

    async def nothing(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def logs(self, _request: web.Request) -> web.Response:
        return web.json_response("".join(f"{entry['t']} - {entry['m']}" for entry in self._machine.log_entries))

    async def raw_logs(self, _request: web.Request) -> web.Response:
        return web.json_response({"entries": list(self._machine.log_entries), "size": {"cols": 80, "rows": 24}})

    async def subscribe_logs(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._machine.hub.watch_logs(body["clientId"], enabled=bool(body["enabled"]))
        return web.Response(status=200)

    async def folder_paths(self, _request: web.Request) -> web.Response:
        folders = catalogue.folders(self._release)
        return web.json_response({folder: [str(self._machine.model_folder(folder))] for folder in folders})

    async def files(self, request: web.Request) -> web.Response:
        """The names lying directly in one folder, the newest first."""
        folder = self._machine.paths.by_type(request.match_info["kind"])
        if folder is None:
            return web.json_response({"error": "Invalid directory type"}, status=400)
        return web.json_response([path.name for path in sorted(_files(folder), key=_age)])


def _files(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]


def _age(path: Path) -> float:
    return -path.stat().st_mtime
