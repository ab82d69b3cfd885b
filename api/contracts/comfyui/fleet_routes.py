"""ComfyUI's own protocol over HTTP: what the server is, has and can, all instances together."""

from __future__ import annotations

import platform
import sys
from typing import Any

from flask import Response

from api.contracts.comfyui.answers import ComfyuiAnswerView
from api.contracts.comfyui.node_lists import FOLDERS, NodeLists
from api.contracts.comfyui.refused import COMFYUI
from api.contracts.comfyui.template_files import templates_version
from api.http.error_shapes import ContractBlueprint
from api.http.errors import json_response
from api.http.time_limits import bounded
from api.schema.described import COMFYUI as TAG
from api.schema.described import Described
from core.errors import LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.ledger.instances import ANSWERING
from core.records.instance import InstanceRecord
from core.settings import Settings
from core.texts.json_types import JsonObject

#: The newest ComfyUI whose protocol is spoken here, whichever instances are up: clients go by it. Each device tells
#: which version its instance has.
VERSION = "0.38.1"


def features_of(settings: Settings) -> JsonObject:
    """Return what this server can beside what every ComfyUI can."""
    return {
        "supports_preview_metadata": True,
        "max_upload_size": settings.max_upload_bytes,
        "extension": {"manager": {"supports_v4": False}},
        "assets": False,
        "node_replacements": True,
    }


def fleet_blueprint(settings: Settings, ledger: Ledger, nodes: NodeLists) -> ContractBlueprint:
    """Return the routes that tell of the server."""
    blueprint = ContractBlueprint("comfyui_fleet", __name__, errors=COMFYUI)
    told: dict[str, Any] = {"tag": TAG, "scope": "read", "answers": {200: ComfyuiAnswerView}}
    asks_ledger = {**told, "errors": (LedgerUnavailable,)}

    @blueprint.get("/comfyui/object_info")
    @Described(summary="The node classes of all instances together", **asks_ledger)
    @bounded
    def object_info() -> Response:
        return Response(nodes.get().text, content_type="application/json")

    @blueprint.get("/comfyui/object_info/<class_type>")
    @Described(summary="One node class", **asks_ledger)
    @bounded
    def one_class(class_type: str) -> Response:
        return Response(nodes.get().class_text(class_type), content_type="application/json")

    @blueprint.get("/comfyui/models")
    @Described(summary="The folders of models", **told)
    def models() -> Response:
        return json_response(list(FOLDERS))

    @blueprint.get("/comfyui/models/<folder>")
    @Described(
        summary="The models in a folder, of all instances together",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def model_files(folder: str) -> Response:
        found = nodes.get().model_files(folder)
        if found is None:
            raise NotFound(f"There is no folder {folder}.")
        return json_response(found)

    @blueprint.get("/comfyui/embeddings")
    @Described(summary="The names of embeddings; instances do not tell them, so there are none", **told)
    def embeddings() -> Response:
        return json_response([])

    @blueprint.get("/comfyui/extensions")
    @Described(summary="The scripts of node packs for the editor; there are none", **told)
    def extensions() -> Response:
        return json_response([])

    @blueprint.get("/comfyui/features")
    @Described(summary="What this server can", **told)
    def features() -> Response:
        return json_response(features_of(settings))

    @blueprint.get("/comfyui/system_stats")
    @Described(summary="The server, with each GPU of the fleet as a device", **asks_ledger)
    @bounded
    def system_stats() -> Response:
        return json_response(_stats([each for each in ledger.instances.all() if each.state in ANSWERING]))

    return blueprint


def _stats(instances: list[InstanceRecord]) -> JsonObject:
    return {
        "system": {
            "os": sys.platform,
            "ram_total": 0,
            "ram_free": 0,
            "comfyui_version": VERSION,
            "required_frontend_version": None,
            "installed_templates_version": templates_version(),
            "required_templates_version": None,
            "python_version": platform.python_version(),
            "pytorch_version": "",
            "embedded_python": False,
            "argv": [],
        },
        "devices": [_device(number, each) for number, each in enumerate(instances)],
    }


def _device(number: int, instance: InstanceRecord) -> JsonObject:
    # How much is free is not known here; what a client does with a full one is better than with one it overrates.
    memory = {"vram_total": instance.vram_bytes or 0, "vram_free": 0, "torch_vram_total": 0, "torch_vram_free": 0}
    name = f"{instance.name} {instance.device or ''}".rstrip()
    return {"name": name, "type": "cuda", "index": number, **memory, "comfyui_version": instance.version}
