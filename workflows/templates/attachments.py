"""The files that a template brings along: those of a folder beside its graph."""

from __future__ import annotations

import os
from pathlib import Path

from workflows.graphs.file_names import is_safe_file_name, without_annotation

FOLDER_SUFFIX = ".files"
MAX_FILES = 50
MAX_FILE_BYTES = 25_000_000


def folder_of(path: Path) -> Path:
    """The folder of a template, given its graph's file. Most templates have none."""
    return path.with_name(path.name.removesuffix(".json") + FOLDER_SUFFIX)


def entries_of(folder: Path) -> list[Path]:
    """What a library looks at: all that is not hidden, sorted; at most one more than is allowed.

    Hidden names are left to whatever writes files under another name first, and to desktops that leave notes.

    Raises: OSError, but for a folder that is not there.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    return entries[: MAX_FILES + 1]


def read_attachments(folder: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """The files by name, and `(path, reason)` for what is wrong with them. Their contents are not read."""
    try:
        entries = entries_of(folder)
        real_folder = _target(folder)
        faults = [(path, fault) for path in entries if (fault := _fault(path, real_folder))]
    except OSError as exc:
        return {}, [(folder, f"cannot be read: {exc.strerror}")]
    if len(entries) > MAX_FILES:
        faults.append((folder, f"it holds more than {MAX_FILES} files"))
    return {path.name: path for path in entries}, faults


def _fault(path: Path, real_folder: Path) -> str | None:
    if not is_safe_file_name(path.name) or without_annotation(path.name) != path.name:
        return "its name cannot be the name of an input file"
    target = _target(path)
    if real_folder not in target.parents:
        return "it is a link that leads out of the folder"
    if not target.is_file():
        return "it is no regular file"
    if target.stat().st_size > MAX_FILE_BYTES:
        return f"it is over {MAX_FILE_BYTES // 10**6} MB"
    return None if os.access(target, os.R_OK) else "it may not be read"


def _target(path: Path) -> Path:
    # `Path.resolve` raises RuntimeError for links in a circle, up to Python 3.12.
    return Path(os.path.realpath(path))
