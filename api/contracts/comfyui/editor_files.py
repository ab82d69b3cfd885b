"""The official editor, where it is installed: files of the package `comfyui-frontend-package`, and what it asks beside.

It is GPL-3.0, and no part of this project: an operator installs it (`pip install 'comfyline[editor]'`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flask import Response, redirect, send_file

from api.contracts.comfyui.answers import ComfyuiAnswerView
from api.contracts.comfyui.node_lists import FOLDERS, NodeLists
from api.contracts.comfyui.refused import COMFYUI
from api.contracts.comfyui.template_files import FOLDER, template_files
from api.http.error_shapes import ContractBlueprint
from api.http.errors import json_response
from api.http.time_limits import bounded
from api.schema.described import ANY_TYPE, Described
from api.schema.described import COMFYUI as TAG
from core.errors import LedgerUnavailable, NotFound

PACKAGE = "comfyui_frontend_package"
INDEX = "index.html"
#: Names of these hold a hash of their content.
_HASHED = "assets/"
KEPT_S = 24 * 3600
#: A style of the operator's, of which ComfyUI has an empty one.
USER_STYLE = "user.css"
_LACKING = (
    "ComfyUI's own protocol is served here, without the editor. To have it, install it beside Comfyline, "
    "pip install 'comfyline[editor]', and start the API again.\n"
)


def editor_blueprint(nodes: NodeLists) -> ContractBlueprint:
    """Return the routes of the editor."""
    blueprint = ContractBlueprint("comfyui_editor", __name__, errors=COMFYUI)
    files = installed_files()
    served = {} if files is None else _files_below(files)
    served |= {f"{FOLDER}/{name}": path for name, path in template_files().items()}
    plain: dict[str, Any] = {"tag": TAG, "scope": "read", "answers": {200: ComfyuiAnswerView}}

    @blueprint.get("/comfyui")
    @Described(summary="Leads to the editor", tag=TAG, scope="read", answers={302: None})
    def root() -> Any:
        # The editor's addresses are relative.
        return redirect("comfyui/")

    @blueprint.get("/comfyui/")
    @Described(summary="The editor", tag=TAG, scope="read", answers={200: ANY_TYPE})
    def index() -> Response:
        if files is None:
            return Response(_LACKING, content_type="text/plain; charset=utf-8")
        return _sent(files / INDEX, INDEX)

    @blueprint.get("/comfyui/<path:file>")
    @Described(summary="A file of the editor", tag=TAG, scope="read", answers={200: ANY_TYPE}, errors=(NotFound,))
    def one(file: str) -> Response:
        if file == USER_STYLE:
            return Response("", content_type="text/css")
        path = served.get(file)
        if path is None:
            raise NotFound(f"There is no {file[:200]} here.")
        return _sent(path, file)

    @blueprint.get("/comfyui/workflow_templates")
    @Described(summary="Templates of node packs; there are none. The official ones are files", **plain)
    def workflow_templates() -> Response:
        return json_response({})

    @blueprint.get("/comfyui/i18n")
    @Described(summary="Translations of node packs; there are none", **plain)
    def translations() -> Response:
        return json_response({})

    @blueprint.get("/comfyui/global_subgraphs")
    @Described(summary="Subgraphs of node packs; there are none", **plain)
    def subgraphs() -> Response:
        return json_response({})

    @blueprint.get("/comfyui/node_replacements")
    @Described(
        summary="Node classes that are gone, and what stands for them, of all instances together",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def replacements() -> Response:
        return json_response(nodes.get().replacements)

    @blueprint.get("/comfyui/experiment/models")
    @Described(summary="The folders of models, as the editor's library lists them", **plain)
    def model_folders() -> Response:
        return json_response([{"name": name, "folders": []} for name in FOLDERS])

    @blueprint.get("/comfyui/experiment/models/<folder>")
    @Described(
        summary="The models in a folder, as the editor's library lists them",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def models_in_folder(folder: str) -> Response:
        found = nodes.get().model_files(folder)
        if found is None:
            raise NotFound(f"There is no folder {folder}.")
        return json_response([{"name": name, "pathIndex": 0} for name in found])

    return blueprint


def installed_files() -> Path | None:
    """Return the directory of the editor's files; None: it is not installed."""
    found = find_spec(PACKAGE)
    places = (found.submodule_search_locations if found is not None else None) or ()
    return next((folder for place in places if (folder := Path(place) / "static").is_dir()), None)


def _files_below(folder: Path) -> dict[str, Path]:
    """Return the files that there are, by their names: no path of a client's is ever looked up."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _sent(path: Path, name: str) -> Response:
    # Whole each time: what is large is kept by its name.
    answer = send_file(path, conditional=False, max_age=KEPT_S if name.startswith(_HASHED) else None)
    answer.headers["X-Content-Type-Options"] = "nosniff"
    if not name.startswith(_HASHED):
        answer.headers["Cache-Control"] = "private, no-cache"
    return answer
