"""The manifest of model files over HTTP, for operators: look, enter, forget."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field
from typing_extensions import TypedDict

from api.http.caller import actor
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema.described import SERVER, Described
from api.schema.model_bodies import ModelFilesBody
from api.schema.validation import read
from core.contracts.comfy_v2 import timestamp
from core.errors import InvalidRequest, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.model_files.entries import MAX_PATH_CHARS, Rules, check_entry
from core.records.model_file import ModelCopy, ModelFile
from core.settings import Settings

#: So many a second a busy database takes at least.
ENTRIES_S = 500


class ModelCopyView(TypedDict):
    """What a host has of a model file."""

    host: str
    state: Annotated[str, Field(json_schema_extra={"enum": ["fetching", "ready", "failed"]})]
    done_bytes: int
    error: Annotated[str | None, Field(description="Why it failed; it is tried again.")]


class ModelFileView(TypedDict):
    """A model file that the fleet may fetch."""

    path: Annotated[str, Field(description="As ComfyUI sees it.")]
    source: str
    sha256: Annotated[str | None, Field(description="Null where its hub says it.")]
    size_bytes: int | None
    tags: list[str]
    pools: list[str]
    token: Annotated[str | None, Field(description="The name of a token, never the token.")]
    created_at: str
    updated_at: str
    copies: Annotated[list[ModelCopyView], Field(description="What hosts have of it.")]


class ModelFilesView(TypedDict):
    model_files: list[ModelFileView]


class RemovedView(TypedDict):
    removed: Annotated[str, Field(description="The path that is in the manifest no more.")]


def model_files_blueprint(settings: Settings, ledger: Ledger) -> Blueprint:
    """Return the routes under /api/v2/model-files: an extension, for operators."""
    blueprint = Blueprint("model_files", __name__, url_prefix="/api/v2/model-files")
    rules = Rules.of(settings)

    @blueprint.get("")
    @Described(
        summary="The model files that the fleet may fetch",
        tag=SERVER,
        scope="models",
        answers={200: ModelFilesView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def every() -> Response:
        return _listed(ledger.manifest.all(), ledger.copies.all())

    @blueprint.post("")
    @Described(
        summary="Enter model files, all or none",
        tag=SERVER,
        body=ModelFilesBody,
        scope="models",
        answers={200: ModelFilesView},
        errors=(InvalidRequest, LedgerUnavailable),
        text="One whose path is there already takes its place. The answer has those that were sent.",
    )
    def enter() -> Response:
        body = read(ModelFilesBody, read_json(settings))
        entries = [each.to_entry() for each in body.model_files]
        for entry in entries:
            check_entry(entry, rules)
        _refuse_twice(entries)
        with ledger_time_limit(more_s=len(entries) / ENTRIES_S):
            entered, copies = ledger.manifest.put(entries, by=actor()), ledger.copies.all()
        return _listed(entered, copies)

    @blueprint.get("/<path:model_path>")
    @Described(
        summary="One model file that the fleet may fetch",
        tag=SERVER,
        scope="models",
        answers={200: ModelFileView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def one(model_path: str) -> Response:
        entry = ledger.manifest.get(_checked(model_path))
        return json_response(_view(entry, [copy for copy in ledger.copies.all() if copy.path == entry.path]))

    @blueprint.delete("/<path:model_path>")
    @Described(
        summary="Forget a model file",
        tag=SERVER,
        scope="models",
        answers={200: RemovedView},
        errors=(NotFound, LedgerUnavailable),
        text="Copies that hosts have of it stay until their room is needed.",
    )
    @bounded
    def remove(model_path: str) -> Response:
        ledger.manifest.remove(_checked(model_path), by=actor())
        view: RemovedView = {"removed": model_path}
        return json_response(view)

    return blueprint


def _checked(path: str) -> str:
    """Return a path as it may be looked up. Raises NotFound for what can be none: databases refuse some characters."""
    if len(path) > MAX_PATH_CHARS or not path.isprintable():
        raise NotFound("There is no such model file in the manifest.")
    return path


def _refuse_twice(entries: list[ModelFile]) -> None:
    paths = [entry.path for entry in entries]
    twice = next((path for path in paths if paths.count(path) > 1), None) if len(set(paths)) < len(paths) else None
    if twice is not None:
        raise InvalidRequest(f"{twice!a} is there twice; which of the two is meant?")


def _listed(entries: list[ModelFile], copies: list[ModelCopy]) -> Response:
    by_path: dict[str, list[ModelCopy]] = {}
    for copy in copies:
        by_path.setdefault(copy.path, []).append(copy)
    view: ModelFilesView = {"model_files": [_view(entry, by_path.get(entry.path, [])) for entry in entries]}
    return json_response(view)


def _view(entry: ModelFile, copies: list[ModelCopy]) -> ModelFileView:
    return {
        "path": entry.path,
        "source": entry.source,
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
        "tags": list(entry.tags),
        "pools": list(entry.pools),
        "token": entry.token,
        "created_at": timestamp(entry.created_at_ms),
        "updated_at": timestamp(entry.updated_at_ms),
        "copies": [
            {"host": copy.host, "state": copy.state, "done_bytes": copy.done_bytes, "error": copy.error}
            for copy in copies
        ],
    }
