"""Which strings are safe as the name of an input file, below ComfyUI's input folder and nowhere else."""

from __future__ import annotations

import re
from typing import Any

from core.job_files import job_named_in, leads_to_a_job, staged_beside, staged_in_folder
from workflows.graphs.model_files import SUFFIXES

_MAX_CHARS = 255
#: Percent-encoded dot, slash, backslash or NUL: harmless to ComfyUI, but not to whatever decodes a name on the way.
_ENCODED = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,9}$|\.3mf$")
_DRIVE = re.compile(r"[A-Za-z]:")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_INPUT_ANNOTATION = " [input]"
MAX_PATH_CHARS = 1024
#: Classes that load any file that exists below the input folder, listed or not.
FIND_IN_FOLDERS = frozenset(
    {
        *("LoadImage", "LoadImageMask", "LoadImageOutput", "LoadAudio", "LoadVideo", "LoadLatent"),
        *("VHS_LoadVideo", "VHS_LoadVideoFFmpeg", "VHS_LoadAudioUpload", "VHS_LoadImages"),
    }
)
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
    # Windows drops blanks and dots from the end of a name.
    return all(part.strip(" .") for part in base.split("/"))


def refers_to_more(name: str) -> bool:
    """Whether a name looks like a reference, such as `blake3:...` or `asset:...`, more than like that of a file."""
    return _SCHEME.match(name) is not None


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
    """Whether a name leads to where files are that were staged for a job: see `staged_name`."""
    return leads_to_a_job(without_annotation(name))


def job_in_path(text: str) -> str | None:
    """The id that a path leads to the files of, if it may be one of a job; None for a URL and for longer texts."""
    if len(text) > MAX_PATH_CHARS or "\n" in text or "://" in text:
        return None
    return job_named_in(text)


def staged_name(job_id: str, number: int, name: str, class_type: str, folder: str = "") -> str:
    """What the graph calls an input file of a job, relative to the input folder.

    Loaders of ComfyUI's own and of well-known packs ask whether the file exists, and find it in a folder. Others
    compare it with what they list: most the top of the input folder, those of 3D models a folder of their own.

    Parameters:
      folder: the one that the class lists, as far as its list shows; see `listed_folder`.
    """
    if class_type in FIND_IN_FOLDERS:
        return staged_in_folder(job_id, f"{number}-{name}")
    folder = folder or ("3d" if class_type.startswith("Load3D") else "")
    return f"{folder}/{staged_beside(job_id, f'{number}-{name}')}".lstrip("/")


def listed_folder(choices: list[Any]) -> str:
    """The folder that all files of a list are in, such as `3d`; "" if some are at the top, or in another one."""
    files = [each.replace("\\", "/") for each in choices if isinstance(each, str) and _ENDING.search(each)]
    folders = {name.partition("/")[0] if "/" in name else "" for name in files}
    folder = folders.pop() if len(folders) == 1 else ""
    return folder if is_safe_file_name(folder) else ""


def may_list_files(choices: list[Any]) -> bool:
    """Whether a list of options may be one of input files: it is empty, or some have an ending that models have not."""
    endings = [match[0].lower() for each in choices if isinstance(each, str) and (match := _ENDING.search(each))]
    return not choices or any(ending not in SUFFIXES for ending in endings)


def folder_of(name: str) -> str:
    """The folder a name is in; "" for the top of the input folder."""
    return name.rpartition("/")[0]


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
