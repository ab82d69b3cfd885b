"""ComfyUI's own protocol over HTTP: files of jobs to look at, and files that come in."""

from __future__ import annotations

import json
import os
import posixpath
import re
from functools import partial
from typing import Any

from flask import Response, request

from api.contracts.comfyui.answers import ComfyuiAnswerView
from api.contracts.comfyui.pictures import PLAIN, Shown, shown_as, with_mask
from api.contracts.comfyui.refused import COMFYUI
from api.http.caller import caller
from api.http.error_shapes import ContractBlueprint
from api.http.errors import BadParameter, PreconditionFailed, json_response
from api.http.files import content_response, open_output
from api.http.forms import UploadForm, upload_form
from api.http.time_limits import ledger_time_limit
from api.schema.conditions import CONDITIONS
from api.schema.described import ANY_TYPE, FORM_ERRORS, Described, Parameter
from api.schema.described import COMFYUI as TAG
from api.service.input_files import Intake
from api.service.jobs import JobService, check_id
from core.errors import InvalidRequest, LedgerUnavailable, NotFound, OutputUnavailable, RangeNotSatisfiable
from core.job_files import job_path
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.records.output import Output
from core.settings import Settings
from core.storage.backend import StorageBackend, input_storage, output_storage
from core.storage.media import HEAD_BYTES, content_type_of
from workflows.graphs.file_names import is_safe_file_name, safe_name

_ANNOTATED = re.compile(r"(.*?) ?\[(input|output|temp)\]", re.DOTALL)
_FOLDERS = ("input", "output", "temp")
#: A picture that is looked at in another form is read whole.
MAX_SHOWN_BYTES = 64 * 1024 * 1024
_NO_FILE = "The form needs a part image that is a file, with a name that stays below the input folder."


def _query(name: str, description: str) -> Parameter:
    return Parameter(name=name, place="query", description=description, schema={"type": "string"})


VIEW_PARAMETERS = (
    _query("filename", "As in a history."),
    _query("subfolder", "As in a history."),
    _query("type", "output, temp or input. Default: output."),
    _query("preview", "webp or jpeg, with ;quality: a picture in that format."),
    _query("channel", "rgb or a: of a picture that alone, as PNG."),
    *CONDITIONS,
)


def files_blueprint(settings: Settings, ledger: Ledger, service: JobService, intake: Intake) -> ContractBlueprint:
    """Return the routes of files."""
    blueprint = ContractBlueprint("comfyui_files", __name__, errors=COMFYUI)
    outputs, inputs = output_storage(settings), input_storage(settings)
    find = partial(found_file, ledger, outputs)

    @blueprint.get("/comfyui/view")
    @Described(
        summary="A file",
        tag=TAG,
        scope="read",
        answers={200: ANY_TYPE, 206: ANY_TYPE, 304: None},
        errors=(NotFound, OutputUnavailable, RangeNotSatisfiable, PreconditionFailed, LedgerUnavailable),
        parameters=VIEW_PARAMETERS,
    )
    def view() -> Response:
        name, subfolder, folder = _named()
        if folder not in _FOLDERS or name.startswith("/") or ".." in name:
            raise BadParameter("filename must be as in a history, and type output, temp or input.")
        found = find(posixpath.basename(name), subfolder, folder)
        storage = outputs if isinstance(found, Output) else inputs
        wanted = shown_as(request.args)
        if wanted is PLAIN or not found.content_type.startswith("image/"):
            return content_response(found, storage)
        if found.size_bytes > MAX_SHOWN_BYTES:
            raise InvalidRequest(f"The picture is over {MAX_SHOWN_BYTES} bytes, and is shown as it is only.")
        with open_output(found, storage) as source:
            return _picture(wanted, bytes(source.read()), found.name)

    def _picture(wanted: Shown, content: bytes, name: str) -> Response:
        data, content_type = wanted.made_of(content, max_pixels=settings.max_image_pixels)
        headers = {"Content-Disposition": f'filename="{safe_name(name)}"', "Cache-Control": "private, no-cache"}
        return Response(data, content_type=content_type, headers=headers | {"X-Content-Type-Options": "nosniff"})

    @blueprint.post("/comfyui/upload/image")
    @Described(
        summary="Upload a file for graphs to load",
        tag=TAG,
        form=_FORM,
        scope="submit",
        answers={200: ComfyuiAnswerView},
        errors=FORM_ERRORS,
        text="Its name in the answer is the one that graphs may use.",
    )
    def upload_image() -> Response:
        with upload_form(settings) as form:
            part = form.optional_file("image")
            if part is None or not _is_safe(form, part.filename):
                raise InvalidRequest(_NO_FILE)
            upload, _ = intake.receive(part.stream, name=safe_name(part.filename or ""), declared=part.mimetype)
        return _uploaded(upload)

    @blueprint.post("/comfyui/upload/mask")
    @Described(
        summary="Upload a mask: a picture of before gets its alpha",
        tag=TAG,
        form=_FORM,
        scope="submit",
        answers={200: ComfyuiAnswerView},
        errors=(*FORM_ERRORS, NotFound),
    )
    def upload_mask() -> Response:
        with upload_form(settings) as form:
            part, original = form.optional_file("image"), _original(form)
            if part is None or original is None or not _is_safe(form, part.filename):
                raise InvalidRequest(f"{_NO_FILE} A mask needs original_ref, JSON with a filename, as well.")
            found = find(*original)
            storage = outputs if isinstance(found, Output) else inputs
            if found.size_bytes > settings.max_image_bytes:
                raise InvalidRequest("The picture is too large for a mask.")
            with open_output(found, storage) as source:
                made = with_mask(bytes(source.read()), part.stream, max_pixels=settings.max_image_pixels)
            name = safe_name(part.filename or "").rpartition(".")[0] or "mask"
            upload, _ = intake.receive(made, name=f"{name}.png", declared="image/png")
        return _uploaded(upload)

    def _uploaded(upload: InputFile) -> Response:
        named = service.settle_name(upload)
        return json_response({"name": named.name, "subfolder": "", "type": "input"})

    return blueprint


_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {
                "image": {"type": "string", "contentMediaType": "application/octet-stream"},
                "subfolder": {"type": "string", "description": "Taken, and not kept: a name means one file here."},
                "overwrite": {"type": "string", "description": "Taken, and of no effect: no file is written over."},
                "type": {"type": "string", "description": "Taken, and of no effect: every upload is an input file."},
                "original_ref": {"type": "string", "description": "Of a mask: JSON, the file it belongs to."},
            },
            "required": ["image"],
        }
    }
}


def found_file(ledger: Ledger, outputs: StorageBackend, name: str, subfolder: str, folder: str) -> Output | InputFile:
    """Return a file of the caller's tenant by what a history, or an upload, calls it. Raises NotFound."""
    with ledger_time_limit():
        if folder == "input":
            found = ledger.input_files.named([name], of=caller().tenant).get(name)
            if found is None:
                raise NotFound("There is no such file.")
            return found
        job = ledger.jobs.get(check_id(subfolder.strip("/")), of=caller().tenant)
    for output in job.outputs:
        if output.stored_name == name:
            return output
    if not job.is_terminal and (early := early_output(job.id, name, folder, outputs)) is not None:
        return early
    raise NotFound("There is no such file.")


def early_output(job_id: str, name: str, folder: str, outputs: StorageBackend) -> Output | None:
    """Return a file of a job that still runs: its node was told of, and the file is in a directory by then."""
    if outputs.is_remote or name.startswith(".") or not is_safe_file_name(name):
        return None
    key = job_path(job_id, name)
    try:
        with outputs.local(key) as path, path.open("rb") as file:
            head, size_bytes = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return None
    kind: Any = {"storage_key": key, "size_bytes": size_bytes, "folder": "temp" if folder == "temp" else "output"}
    return Output(
        id=key, job_id=job_id, node_id="", name=name, kind="file", content_type=content_type_of(head, ""), **kind
    )


def _named() -> tuple[str, str, str]:
    """The file that a query means: its name, its subfolder, and ComfyUI's folder."""
    name, folder = request.args.get("filename", ""), request.args.get("type", "output")
    if (found := _ANNOTATED.fullmatch(name)) is not None:
        name, folder = found[1], found[2]
    subfolder = request.args.get("subfolder", "")
    if not subfolder and "/" in name:
        # As graphs and 3D previews spell it.
        subfolder = posixpath.dirname(name)
    return name, subfolder, folder


def _original(form: UploadForm) -> tuple[str, str, str] | None:
    try:
        said = json.loads(form.text("original_ref") or "")
        name, folder = str(said["filename"]), str(said.get("type") or "output")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    if (found := _ANNOTATED.fullmatch(name)) is not None:
        name, folder = found[1], found[2]
    return posixpath.basename(name), str(said.get("subfolder") or ""), folder


def _is_safe(form: UploadForm, name: str | None) -> bool:
    subfolder = form.text("subfolder")
    return bool(name) and is_safe_file_name(name) and (subfolder is None or is_safe_file_name(subfolder))
