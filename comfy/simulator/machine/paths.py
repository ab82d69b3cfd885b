"""Finds files in the input, output and temp folders, and names new ones as ComfyUI does."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import time
from pathlib import Path

_ANNOTATIONS = {" [output]": "output", " [input]": "input", " [temp]": "temp"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavePath:
    """Where the next files of one prefix go."""

    folder: Path
    #: File name without counter and extension; may still hold `%batch_num%`.
    stem: str
    #: The first free number.
    counter: int
    #: The folder relative to the output or temp folder, as clients see it.
    subfolder: str

    def file_name(self, number: int, extension: str) -> str:
        """The name of the n-th file of this save, counting from 0, e.g. `x_00001_.png`."""
        stem = self.stem.replace("%batch_num%", str(number))
        return f"{stem}_{self.counter + number:05}_.{extension}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths:
    """The folders of one instance."""

    input_dir: Path
    output_dir: Path
    temp_dir: Path

    def prepare(self) -> None:
        """Make the folders; wipe temp, as ComfyUI does at every start."""
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        for folder in (self.input_dir, self.output_dir, self.temp_dir):
            folder.mkdir(parents=True, exist_ok=True)

    def by_type(self, kind: str) -> Path | None:
        """The folder called `input`, `output` or `temp`, or None."""
        return {"input": self.input_dir, "output": self.output_dir, "temp": self.temp_dir}.get(kind)

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split `x.png [temp]` into the plain name and the folder it names, if it names one."""
        for ending, kind in _ANNOTATIONS.items():
            if name.endswith(ending):
                return name[: -len(ending)], self.by_type(kind)
        return name, None

    def input_file(self, name: str) -> Path:
        """The file a loader node means by `name`; it may not exist."""
        plain, folder = self.annotated(name)
        return (folder or self.input_dir) / plain

    def input_images(self) -> list[str]:
        """Names of the pictures lying directly in the input folder, sorted."""
        endings = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff"}
        return sorted(entry.name for entry in self.input_dir.iterdir() if entry.suffix.lower() in endings)

    def input_names(self, what: str) -> list[str]:
        """Names in the input folder: files of an ending, `folders`, or all files below a folder such as `3d`."""
        if what.startswith("."):
            return sorted(entry.name for entry in self.input_dir.iterdir() if entry.suffix.lower() == what)
        below = self.input_dir if what == "folders" else self.input_dir / what
        found = [entry for entry in below.rglob("*") if entry.is_dir() == (what == "folders")]
        return sorted(entry.relative_to(self.input_dir).as_posix() for entry in found)

    def save_path(self, prefix: str, kind: str, width_px: int = 0, height_px: int = 0) -> SavePath:
        """Where files saved under `prefix` go now. Nothing is reserved: a second process can be given the same name.

        Raises: ValueError when the prefix leads out of the folder.
        """
        base = self.by_type(kind)
        assert base is not None, kind
        filled = _fill(prefix, width_px, height_px)
        subfolder, stem = os.path.split(os.path.normpath(filled))
        folder = base / subfolder
        if not is_inside(base, folder):
            raise ValueError(f"**** ERROR: Saving image outside the output folder is not allowed.\n full: {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        return SavePath(folder=folder, stem=stem, counter=_next_number(folder, stem), subfolder=subfolder)


def is_inside(base: Path, path: Path) -> bool:
    """Whether `path` is `base` or lies below it, judged by name as ComfyUI judges (symlinks are not resolved)."""
    full = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow symlinks
    return os.path.commonpath((os.path.abspath(base), full)) == os.path.abspath(base)  # noqa: PTH100


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _fill(prefix: str, width_px: int, height_px: int) -> str:
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {"width": str(width_px), "height": str(height_px), "year": str(now.tm_year)}
    for name, value in (("month", now.tm_mon), ("day", now.tm_mday), ("hour", now.tm_hour)):
        values[name] = f"{value:02}"
    values["minute"], values["second"] = f"{now.tm_min:02}", f"{now.tm_sec:02}"
    return re.sub(r"%(\w+)%", lambda match: values.get(match[1], match[0]), prefix)


def _next_number(folder: Path, stem: str) -> int:
    # The number ends at an underscore: ComfyUI does not see `x_00001.png`, only `x_00001_.png`.
    pattern = re.compile(re.escape(stem) + r"_(\d+)(?:_|$)")
    taken = (pattern.match(entry.name) for entry in os.scandir(folder))
    return max((int(match[1]) for match in taken if match), default=0) + 1
