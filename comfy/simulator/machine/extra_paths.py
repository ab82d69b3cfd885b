"""Reads `--extra-model-paths-config`: which folders of models there are beside the server's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

_LINE = re.compile(r'(?P<indent> *)(?P<key>"(?:[^"\\]|\\.)*"|[^\s:"]+): ?(?P<value>"(?:[^"\\]|\\.)*"|[^"#]*)')
#: What ComfyUI calls these kinds today.
_RENAMED = {"unet": "diffusion_models", "clip": "text_encoders"}


def read_extra_paths(file: Path) -> list[tuple[str, Path]]:
    """Return `(kind of model, folder)` of a file, in its order.

    Understands sections of plain or double-quoted values, one a line: no more of YAML than such files need.
    Raises:
      ValueError: a line is none of these.
      OSError: the file cannot be read.
    """
    found: list[tuple[str, Path]] = []
    base = file.absolute().parent
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        matched = _LINE.fullmatch(line)
        if matched is None:
            raise ValueError(f"{file}, line {number}: {line!r} is not understood")
        key, value = _scalar(matched["key"]), _scalar(matched["value"].strip())
        if not matched["indent"]:
            base = file.absolute().parent
        elif key == "base_path":
            base = file.absolute().parent / Path(value).expanduser()
        elif key != "is_default":
            found.append((_RENAMED.get(key, key), base / value))
    return found


def _scalar(text: str) -> str:
    if not text.startswith('"'):
        return text
    # Of YAML's escapes, JSON lacks the long form.
    longhand = re.sub(r"(?<!\\)((?:\\\\)*)\\U([0-9a-fA-F]{8})", lambda found: found[1] + chr(int(found[2], 16)), text)
    return str(json.loads(longhand, strict=False))
