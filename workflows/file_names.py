"""Which strings are safe as the name of an input file, below ComfyUI's input folder and nowhere else."""

from __future__ import annotations

import re

_MAX_CHARS = 255
#: Percent-encoded dot, slash, backslash or NUL: harmless to ComfyUI, but not to whatever decodes a name on the way.
_ENCODED = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")
_JOB_FOLDER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?:/|$)", re.IGNORECASE)
_INPUT_ANNOTATION = " [input]"
#: File systems stop at 255 bytes; this leaves room for a number in front.
_MAX_NAME_CHARS = 120


def is_safe_file_name(name: object) -> bool:
    """Whether a value names a file below the input folder: relative, no `..`, nothing that could be read as another.

    ComfyUI resolves `name [output]` and `name [temp]` in folders that hold other jobs' results, and in 0.3.x it follows
    absolute names and `..` out of the input folder.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > _MAX_CHARS:
        return False
    if name.startswith(("/", "~")) or "\\" in name or _DRIVE.match(name):
        return False
    if _CONTROL.search(name) or _ENCODED.search(name):
        return False
    # ComfyUI looks only at the end of the name and cuts a fixed length, blank or no blank before the bracket.
    base = without_annotation(name)
    if base.endswith(("[input]", "[output]", "[temp]")):
        return False
    return all(part not in ("", ".", "..") for part in base.split("/"))


def leads_elsewhere(name: str) -> bool:
    """Whether a text that may be a file's name, or just a text, is a path out of the folder it would be looked for in.

    Says less than `is_safe_file_name`: an option's text may hold most of what a safe name may not.
    """
    if name.startswith(("/", "~/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name) or "\0" in name:
        return True
    if without_annotation(name).endswith(("[input]", "[output]", "[temp]")):
        return True
    return ".." in re.split(r"[\\/]", name)


def names_a_jobs_file(name: str) -> bool:
    """Whether a name leads into a folder that is called like a job: there lie the files that were staged for it."""
    return _JOB_FOLDER.match(name) is not None


def without_annotation(name: str) -> str:
    """The name without ` [input]`, which only says what is so anyway."""
    return name.removesuffix(_INPUT_ANNOTATION)


def safe_name(name: str) -> str:
    """A file name without folders or characters that mean something in paths, URLs or ComfyUI's `name [folder]`.

    The extension survives, since nodes go by it.
    """
    last = re.split(r"[\\/]", name)[-1]
    stem, dot, extension = last.rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem = re.sub(r"[^\w-]+", "_", stem, flags=re.ASCII).strip("_") or "file"
    extension = re.sub(r"[^A-Za-z0-9]+", "", extension)[:10]
    return stem[:_MAX_NAME_CHARS] + (f".{extension}" if extension else "")
