"""ComfyUI's own protocol over HTTP: what the editor keeps for its user, workflows and settings.

A user is a tenant: everybody with a key of it has the same workflows and settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import Response, request

from api.contracts.comfyui.answers import ComfyuiAnswerView, body_object, empty
from api.contracts.comfyui.refused import COMFYUI
from api.contracts.comfyui.user_paths import user_folder, user_path
from api.http.caller import caller
from api.http.error_shapes import ContractBlueprint
from api.http.errors import BadParameter, json_response
from api.http.json_body import read_body, read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema.described import ANY_TYPE, BODY_ERRORS, Described, Parameter
from api.schema.described import COMFYUI as TAG
from core.errors import AlreadyExists, LedgerUnavailable, LimitReached, NotFound
from core.ledger import Ledger
from core.ledger.user_files import MAX_FILE_BYTES, UserFile
from core.settings import Settings
from core.texts.json_types import JsonObject

#: Where ComfyUI itself keeps a user's settings.
SETTINGS_FILE = "comfy.settings.json"
#: Of a user who has set nothing: else the editor begins with a list of its own templates, of which there are none here.
FIRST_SETTINGS: Final[JsonObject] = {"Comfy.TutorialCompleted": True}
_FALSE = ("false", "0", "no", "")
FILE_ERRORS = (*BODY_ERRORS, LedgerUnavailable, LimitReached)


def _query(name: str, description: str) -> Parameter:
    return Parameter(name=name, place="query", description=description, schema={"type": "string"})


FOLDER = Parameter(
    name="dir",
    place="query",
    description="The folder.",
    schema={"type": "string", "minLength": 1, "examples": ["workflows"]},
    is_required=True,
)
OVERWRITE = _query("overwrite", "false: 409 where there is such a file already.")
FULL_INFO = _query("full_info", "true: size and times besides the path.")


def users_blueprint(settings: Settings, ledger: Ledger) -> ContractBlueprint:
    """Return the routes of what users keep."""
    blueprint = ContractBlueprint("comfyui_users", __name__, errors=COMFYUI)
    files = ledger.user_files
    read: dict[str, Any] = {"tag": TAG, "scope": "read", "errors": (LedgerUnavailable,)}

    @blueprint.get("/comfyui/users")
    @Described(
        summary="Where a user's files are: on the server", tag=TAG, scope="read", answers={200: ComfyuiAnswerView}
    )
    def users() -> Response:
        return json_response({"storage": "server", "migrated": True})

    @blueprint.get("/comfyui/userdata")
    @Described(
        summary="The files of a folder",
        answers={200: ComfyuiAnswerView},
        errors=(NotFound, BadParameter, LedgerUnavailable),
        parameters=(
            FOLDER,
            _query("recurse", "true: also of the folders in it."),
            _query("split", "true: each path as a list, whole and part by part."),
            FULL_INFO,
        ),
        tag=TAG,
        scope="read",
    )
    @bounded
    def listed() -> Response:
        if not request.args.get("dir"):
            raise BadParameter("dir must name a folder.")
        folder = user_folder(request.args["dir"])
        found = files.below(folder, tenant=caller().tenant)
        if not found:
            raise NotFound("There is no such folder.")
        start = len(folder) + 1 if folder else 0
        inner = {file.path[start:]: file for file in found}
        if not _is_set("recurse"):
            inner = {path: file for path, file in inner.items() if "/" not in path}
        if _is_set("full_info"):
            return json_response([{**_info(file), "path": path} for path, file in inner.items()])
        return json_response([[path, *path.split("/")] if _is_set("split") else path for path in inner])

    @blueprint.get("/comfyui/v2/userdata")
    @Described(
        summary="The files and folders below a folder",
        answers={200: ComfyuiAnswerView},
        parameters=(_query("path", "The folder; without it, all there is."),),
        tag=TAG,
        scope="read",
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def entries() -> Response:
        folder = user_folder(request.args.get("path", ""))
        found = files.below(folder, tenant=caller().tenant)
        if folder and not found:
            raise NotFound("There is no such folder.")
        return json_response(_entries(folder, found))

    @blueprint.get("/comfyui/userdata/<path:file>")
    @Described(summary="A file", tag=TAG, scope="read", answers={200: ANY_TYPE}, errors=(NotFound, LedgerUnavailable))
    def one(file: str) -> Response:
        with ledger_time_limit():
            content = files.read(user_path(file), tenant=caller().tenant)
        # A page of whoever wrote it must not run with the key of whoever looks at it.
        kind = "application/json" if file.endswith(".json") else "application/octet-stream"
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return Response(content, content_type=kind, headers=headers)

    @blueprint.post("/comfyui/userdata/<path:file>")
    @Described(
        summary="Keep a file",
        tag=TAG,
        scope="submit",
        answers={200: ComfyuiAnswerView},
        errors=(*FILE_ERRORS, AlreadyExists),
        parameters=(OVERWRITE, FULL_INFO),
    )
    def keep(file: str) -> Response:
        path, content = user_path(file), read_body(settings, limit_bytes=MAX_FILE_BYTES)
        with ledger_time_limit():
            kept = files.write(path, content, tenant=caller().tenant, overwrite=_is_set("overwrite", default=True))
        return json_response(_info(kept) if _is_set("full_info") else kept.path)

    @blueprint.delete("/comfyui/userdata/<path:file>")
    @Described(
        summary="Remove a file", tag=TAG, scope="submit", answers={204: None}, errors=(NotFound, LedgerUnavailable)
    )
    @bounded
    def remove(file: str) -> Response:
        files.remove(user_path(file), tenant=caller().tenant)
        return empty(204)

    @blueprint.post("/comfyui/userdata/<path:file>/move/<path:dest>")
    @Described(
        summary="Give a file another path",
        tag=TAG,
        scope="submit",
        answers={200: ComfyuiAnswerView},
        errors=(NotFound, LedgerUnavailable, AlreadyExists),
        parameters=(OVERWRITE, FULL_INFO),
    )
    @bounded
    def move(file: str, dest: str) -> Response:
        overwrite = _is_set("overwrite", default=True)
        moved = files.move(user_path(file), user_path(dest), tenant=caller().tenant, overwrite=overwrite)
        return json_response(_info(moved) if _is_set("full_info") else moved.path)

    @blueprint.get("/comfyui/settings")
    @Described(summary="The settings of the editor", answers={200: ComfyuiAnswerView}, **read)
    @bounded
    def all_settings() -> Response:
        return json_response(_settings())

    @blueprint.get("/comfyui/settings/<path:name>")
    @Described(summary="One of them; null where it is not set", answers={200: ComfyuiAnswerView}, **read)
    @bounded
    def one_setting(name: str) -> Response:
        return json_response(_settings().get(name))

    @blueprint.post("/comfyui/settings")
    @Described(summary="Set some of them", tag=TAG, scope="submit", answers={200: None}, errors=FILE_ERRORS)
    def set_some() -> Response:
        given = body_object(settings)
        with ledger_time_limit():
            files.change(SETTINGS_FILE, _merging(given), tenant=caller().tenant)
        return empty()

    @blueprint.post("/comfyui/settings/<path:name>")
    @Described(summary="Set one of them", tag=TAG, scope="submit", answers={200: None}, errors=FILE_ERRORS)
    def set_one(name: str) -> Response:
        value = read_json(settings, of_any_type=True)
        with ledger_time_limit():
            files.change(SETTINGS_FILE, _merging({name: value}), tenant=caller().tenant)
        return empty()

    def _settings() -> JsonObject:
        try:
            return FIRST_SETTINGS | _object(files.read(SETTINGS_FILE, tenant=caller().tenant))
        except NotFound:
            return dict(FIRST_SETTINGS)

    return blueprint


def _merging(given: Mapping[str, Any]) -> Callable[[bytes | None], bytes]:
    return lambda before: json.dumps({**({} if before is None else _object(before)), **given}).encode()


def _object(content: bytes) -> JsonObject:
    # A user may keep anything under that name.
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_set(name: str, *, default: bool = False) -> bool:
    value = request.args.get(name)
    return default if value is None else value.lower() not in _FALSE


def _info(file: UserFile) -> JsonObject:
    times = {"modified": file.modified_at_ms, "created": file.created_at_ms}
    return {"path": file.path, "size": file.size_bytes, **times}


def _entries(folder: str, found: list[UserFile]) -> list[JsonObject]:
    """All that is below a folder, whole paths, folders first. Times are in seconds here, and nowhere else."""
    start = len(folder) + 1 if folder else 0
    folders = {parent for file in found for parent in _parents(file.path) if len(parent) > start}
    shown: list[JsonObject] = [
        {"name": path.rpartition("/")[2], "path": path, "type": "directory"} for path in folders
    ] + [
        {
            "name": file.path.rpartition("/")[2],
            "path": file.path,
            "type": "file",
            "size": file.size_bytes,
            "modified": file.modified_at_ms / 1000,
        }
        for file in found
    ]
    return sorted(shown, key=lambda entry: (entry["type"] != "directory", entry["name"].lower(), entry["path"]))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]
