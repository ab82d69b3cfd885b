"""Multipart forms: files on their way in, written to disk while they arrive, with limits on size and time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from api.http.errors import NO_ROOM, RequestTimeout
from api.http.json_body import check_codings, has_body
from api.http.time_limits import at_most
from core.errors import BodyTooLarge, InvalidBody, InvalidRequest, StorageFull, UnsupportedMediaType
from core.settings import Settings
from core.storage.folders import is_out_of_room
from workflows.graphs.file_names import is_safe_file_name

#: Longest time a form may take to arrive: 100 MiB at 2 Mbit/s.
FORM_S = 420.0
#: What a form holds beside its file.
MAX_FIELD_BYTES = 256 * 1024
MAX_PARTS = 200
SHORTEST_LIFE_S, LONGEST_LIFE_S = 60, 604_800


class UploadForm:
    """The parts of a form that has arrived."""

    def text(self, name: str) -> str | None:
        """Return a field; None when it is missing or blank."""
        return request.form.get(name) or None

    def texts(self) -> dict[str, str]:
        """Return every field. Raises InvalidRequest: one is given twice."""
        for name, values in request.form.lists():
            if len(values) > 1 or name in request.files:
                raise InvalidRequest(f"The form has the part {name[:60]!a} twice.")
        return request.form.to_dict()

    def files(self) -> dict[str, FileStorage]:
        """Return every file, by the name of its part."""
        return request.files.to_dict()

    def optional_file(self, *names: str) -> FileStorage | None:
        """Return the file of the first part with one of these names."""
        return next((request.files[name] for name in names if name in request.files), None)

    def file(self, *names: str) -> FileStorage:
        """Return the file of the first part with one of these names. Raises InvalidRequest: there is none."""
        found = self.optional_file(*names)
        if found is None:
            raise InvalidRequest(f"The form needs a part {names[0]} that is a file.")
        return found


@contextmanager
def upload_form(settings: Settings) -> Iterator[UploadForm]:
    """Read the request's body as a form.

    Raises:
      UnsupportedMediaType: it is not declared as multipart/form-data.
      BodyTooLarge, RequestTimeout: it is larger, or slower, than files may be.
      InvalidBody: it broke off, or its parts are malformed.
    """
    if request.mimetype != "multipart/form-data" or not request.mimetype_params.get("boundary"):
        raise UnsupportedMediaType("Send the file as multipart/form-data, with its boundary.")
    check_codings()
    limit_bytes = settings.max_upload_bytes + MAX_FIELD_BYTES
    too_large = BodyTooLarge(f"The form is over the limit of {settings.max_upload_bytes} bytes for files.")
    if request.content_length is not None and request.content_length > limit_bytes:
        raise too_large
    if not has_body():
        raise InvalidBody("The body is empty; a form with a file is needed.")
    request.max_content_length = limit_bytes
    request.max_form_memory_size = MAX_FIELD_BYTES
    request.max_form_parts = MAX_PARTS
    with at_most(FORM_S, RequestTimeout(f"The form did not arrive within {FORM_S:.0f} s.")):
        try:
            files = request.files
        except RequestEntityTooLarge as exc:
            raise too_large from exc
        except (OSError, ParseException, ValueError) as exc:
            if is_out_of_room(exc):
                # It was spooled to the temporary directory, and that is full.
                raise StorageFull(NO_ROOM) from exc
            raise InvalidBody("The form broke off, or its parts are malformed.") from exc
    if not files and not request.form:
        raise InvalidBody("The form broke off, or its parts are malformed.")
    try:
        yield UploadForm()
    finally:
        for file in files.values():
            file.close()


def input_path(value: str) -> str:
    """Return an uploaded file's path below the input folder: `photo.png`, `rooms/photo.png`. Raises InvalidRequest."""
    path = value.removeprefix("input/")
    if path.partition("/")[0] in ("models", "output", "temp"):
        raise InvalidRequest("file_path: only input files can be uploaded, not models or outputs.")
    if not is_safe_file_name(path):
        raise InvalidRequest("file_path must be a relative path of an input file, such as photo.png, without .. in it.")
    return path


def lifetime_s(value: Any) -> float | None:
    """Return `expires_in`, as text or as a number; None when absent. Raises InvalidRequest."""
    if value is None:
        return None
    text = str(value)
    if isinstance(value, (bool, float)) or not re.fullmatch(r"[0-9]{1,7}", text, re.ASCII):
        raise InvalidRequest("expires_in must be a whole number of seconds.")
    if not SHORTEST_LIFE_S <= int(text) <= LONGEST_LIFE_S:
        raise InvalidRequest(f"expires_in must be from {SHORTEST_LIFE_S} to {LONGEST_LIFE_S} seconds.")
    return float(text)
