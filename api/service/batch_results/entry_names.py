"""Names of files in an archive: place in the batch, what was varied, and an extension; safe on every file system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from core.records.job import Job
from core.records.output import Output

#: Of what was varied, one value and all of them; file systems stop at 255 bytes for a name.
VALUE_CHARS, ALL_BYTES = 32, 150
_UNSAFE = re.compile(r"[^\w.,+=-]+")


def entry_name(folder: str, job: Job, output: Output, number: int) -> str:
    """Return the path of an output in an archive; no two of a batch are equal.

    Parameters: number - of the output among its job's, from 0.
    """
    said = slug_of(job.varied or {})
    stem = f"{job.batch_index or 0:05}" + (f"_{said}" if said else "") + (f"_{number + 1}" if number else "")
    return f"{folder}/{stem}{_extension(output.name)}"


def folder_name(batch: str) -> str:
    """Return the folder of a batch's files in an archive."""
    return f"batch-{_safe(batch)[:36] or 'x'}"


def slug_of(varied: Mapping[str, Any]) -> str:
    """Return what was varied as a part of a file's name; "" if nothing was."""
    parts = [f"{_safe(name)[:VALUE_CHARS]}={_safe(str(value))[:VALUE_CHARS]}" for name, value in varied.items()]
    text = "_".join(parts).encode()[:ALL_BYTES].decode(errors="ignore")
    return text.strip("._- ")


def _safe(text: str) -> str:
    # Compatibility forms become plain ones; what turns the direction of text, and all else that is no letter, goes.
    return _UNSAFE.sub("-", unicodedata.normalize("NFKC", text)).strip(".-_")


def _extension(name: str) -> str:
    extension = name.rpartition(".")[2] if "." in name else ""
    extension = re.sub(r"[^A-Za-z0-9]+", "", extension)[:10]
    return f".{extension}" if extension else ""
