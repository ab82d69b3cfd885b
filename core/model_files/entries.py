"""The guards of the manifest: paths stay in the folder of models, and what is fetched runs no code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from core.errors import InvalidRequest
from core.model_files.sources import parse_source
from core.records.model_file import ModelFile
from core.settings import Settings

#: Formats that hold numbers and text alone.
SAFE_SUFFIXES = (".safetensors", ".sft", ".gguf")
#: Formats that are, or may hold, Python pickles: whoever loads one runs what it says.
CODE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")
MAX_PATH_CHARS, MAX_PART_BYTES = 400, 200
MAX_LABELS = 32
#: Programs, and configurations that name classes to be made; the others mean something else to ComfyUI's file of paths.
_NOT_MODELS = ("custom_nodes", "configs", "base_path", "is_default")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What an operator's settings allow in a manifest."""

    allow_http: bool = False
    allow_code: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Return those of a process."""
        return cls(allow_http=settings.models_allow_http, allow_code=settings.models_allow_code)


def check_entry(entry: ModelFile, rules: Rules) -> None:
    """Refuse what a manifest must not hold. Raises InvalidRequest, which names the path and what is wrong."""
    try:
        _check_path(entry.path, rules)
        source = parse_source(entry.source, allow_http=rules.allow_http)
        if entry.sha256 is None and source.kind != "hub":
            raise InvalidRequest("sha256 is missing: 64 hexadecimal digits, as sha256sum prints them.")
        if entry.sha256 is not None and not _SHA256.fullmatch(entry.sha256):
            raise InvalidRequest("sha256 must be 64 hexadecimal digits, as sha256sum prints them.")
        if entry.size_bytes is not None and entry.size_bytes < 1:
            raise InvalidRequest("size_bytes must be at least 1.")
        for word, labels in (("tags", entry.tags), ("pools", entry.pools)):
            _check_labels(word, labels)
        if entry.token is not None:
            _check_labels("token", (entry.token,))
            if source.kind == "s3":
                raise InvalidRequest("token is for https:// and hf://; an s3:// source goes by the credentials of AWS.")
    except InvalidRequest as exc:
        raise InvalidRequest(f"{entry.path[:MAX_PATH_CHARS]!a}: {exc.message}") from exc


def check_nesting(paths: Iterable[str], known: Collection[str]) -> None:
    """Refuse a path that lies below another one, which is a file and no folder.

    Parameters:
      paths: those that are entered.
      known: those of the manifest.
    Raises InvalidRequest.
    """
    entered = frozenset(paths)
    files = entered.union(known)
    for path in sorted(files):
        parts = path.split("/")
        for depth in range(2, len(parts)):
            above = "/".join(parts[:depth])
            if above in files and not entered.isdisjoint((path, above)):
                raise InvalidRequest(f"{path!a} would lie below {above!a}, which is a file of the manifest, too.")


def _check_path(path: str, rules: Rules) -> None:
    parts = path.split("/")
    if len(path) > MAX_PATH_CHARS or len(parts) < 2:
        raise InvalidRequest("path must be a folder of models and a file in it, such as checkpoints/x.safetensors.")
    for part in parts:
        if not part.strip(" .") or part.startswith(".") or part != part.strip():
            raise InvalidRequest("path must stay below the folder of models, without empty or hidden parts.")
        if not part.isprintable() or any(char in part for char in '\\:*?"<>|') or len(part.encode()) > MAX_PART_BYTES:
            raise InvalidRequest(
                f"path must consist of file names of up to {MAX_PART_BYTES} printable characters, without backslashes."
            )
    if parts[0] in _NOT_MODELS:
        raise InvalidRequest(f"{parts[0]} is no folder of models.")
    ending = path.lower()
    if ending.endswith(SAFE_SUFFIXES) or (rules.allow_code and ending.endswith(CODE_SUFFIXES)):
        return
    if ending.endswith(CODE_SUFFIXES):
        raise InvalidRequest(
            "files of this format can run code when they are loaded; COMFYLINE_MODELS_ALLOW_CODE=true takes them."
        )
    raise InvalidRequest(f"path must end in one of {', '.join(SAFE_SUFFIXES)}.")


def _check_labels(word: str, labels: tuple[str, ...]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"{word} must be at most {MAX_LABELS}.")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise InvalidRequest(f"{word}: {label[:64]!a} must be letters, digits, '.', '_' and '-', up to 64 of them.")
