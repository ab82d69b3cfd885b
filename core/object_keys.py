"""Keys of objects in a bucket, made from a template, and which of them nobody can read as a path to elsewhere."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, dataclass, fields, replace
from string import Formatter
from urllib.parse import unquote

DEFAULT_TEMPLATE = "{prefix}/{job_id}/{filename}"
#: Of the 1,024 that S3 allows for a key.
MAX_PREFIX_BYTES = 512

#: Control characters, halves of characters, the mark of bytes that are no UTF-8, backslashes, `%u002e`.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd\\]|%u[0-9a-f]{4}", re.IGNORECASE)
#: Decoding more often than this finds nothing that a server behind a proxy would still find.
_DECODINGS = 5


@dataclass(frozen=True, kw_only=True)
class KeyFields:
    """What a template may name."""

    #: Folders joined by `/`, without one at either end; may be empty.
    prefix: str
    job_id: str
    #: The job's id for a job without one.
    request_id: str
    filename: str
    node_id: str
    #: The file's number among the outputs of its job, from 1.
    ordinal: int
    #: When the job was submitted, `2026-11-22`, UTC.
    date: str


NAMES = tuple(field.name for field in fields(KeyFields))
_SAMPLE = KeyFields(
    prefix="", job_id="0" * 36, request_id="0" * 36, filename="image.png", node_id="1", ordinal=1, date="2026-11-22"
)


def object_key(template: str, values: KeyFields) -> str:
    """Return the key of one file. What is empty leaves no empty folder behind."""
    # Node ids are any text; a file's name has been made safe when it was stored.
    node_id = re.sub(r"[^A-Za-z0-9_-]", "_", values.node_id)
    key = template.format(**{**asdict(values), "node_id": node_id})
    return "/".join(part for part in key.split("/") if part)


def check_template(template: str, prefix: str = "") -> None:
    """Refuse a template whose keys could not be used. Raises ValueError: what it must be, in words."""
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as exc:
        raise ValueError("must have braces only in pairs around a field") from exc
    names = {name for _, name, *_ in parts}
    if not names <= set(NAMES) or any(form or conversion for *_, form, conversion in parts):
        raise ValueError(f"must name no other fields than {', '.join(f'{{{name}}}' for name in NAMES)}")
    if not names & {"filename", "ordinal"}:
        raise ValueError("must name {filename} or {ordinal}, or the files of one job would overwrite each other")
    if not is_safe_prefix(object_key(template, replace(_SAMPLE, prefix=prefix))):
        raise ValueError(
            f"must make relative paths of at most {MAX_PREFIX_BYTES} bytes, without .. and control characters in any "
            "encoding"
        )


def is_safe_prefix(prefix: str) -> bool:
    """Return whether a prefix, empty or not, is a relative path that every decoder reads alike."""
    if len(prefix.encode(errors="replace")) > MAX_PREFIX_BYTES:
        return False
    for _ in range(_DECODINGS):
        if not _is_plain_path(prefix):
            return False
        # Wide and small dots and slashes become plain ones where names are normalised.
        decoded = unicodedata.normalize("NFKC", unquote(prefix))
        if decoded == prefix:
            return True
        prefix = decoded
    return False


def _is_plain_path(path: str) -> bool:
    if not path:
        return True
    if path.startswith(("/", "~")) or _UNSAFE.search(path):
        return False
    return all(part not in ("", ".", "..") for part in path.removesuffix("/").split("/"))
