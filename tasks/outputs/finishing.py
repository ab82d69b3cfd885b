"""Finishing: files are converted, or freed of metadata, before anybody sees them, where a client wants that.

The originals wait in a folder of their own until the job has ended, so that whoever is killed here leaves everything
to be done again. What is done is written down: a lossy conversion is not done twice to one file.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import OutputNotConvertible
from core.job_files import job_folder, job_path
from core.records.output import OutputFile
from core.storage.folders import make_folder
from core.storage.placing import digest_of, free_name
from tasks.outputs.convert import Conversion, convert
from tasks.outputs.metadata.strip import strip
from tasks.outputs.store import store

log = logging.getLogger(__name__)

ORIGINALS = ".originals"
RECORD = "finished.json"
NOT_STRIPPED = "The metadata of this file was not removed: it is of an unknown kind."


def store_finished(
    root: Path, files: list[OutputFile], wanted: Conversion, missing: dict[str, str] | None = None
) -> list[OutputFile]:
    """Bring a job's files into storage as the client wants them. Doing it again gives the same result.

    A file that cannot be converted is stored as it is, with the reason as its `conversion_error`.

    Parameters: missing - as for `store`.
    Raises: as `store`.
    """
    if not files:
        return []
    folder = job_folder(root, files[0].job_id)
    record = folder / ORIGINALS / RECORD
    recorded = _recorded(record, root, files, missing)
    if recorded is not None:
        return recorded
    make_folder(folder, root)
    unfound: dict[str, str] = {}
    originals = store(folder / ORIGINALS, files, None if missing is None else unfound)
    taken: set[str] = set()
    done = [_finish(folder, original, wanted, taken) for original in originals]
    draft = record.with_name(f"{RECORD}.part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(json.dumps({"done": [file.stored_json() for file in done], "missing": unfound}), encoding="utf-8")
    draft.replace(record)
    if missing is not None:
        missing |= unfound
    return done


def _recorded(
    record: Path, root: Path, files: list[OutputFile], missing: dict[str, str] | None
) -> list[OutputFile] | None:
    """Return what an earlier turn has done and written down; None: nothing, or nothing that can be relied on."""
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        # A list is what an earlier release wrote.
        done, unfound = (said, {}) if isinstance(said, list) else (said["done"], dict(said["missing"]))
        wanted = [file for file in files if file.id not in unfound]
        if [each["asset_id"] for each in done] != [file.id for file in wanted]:
            return None
        found = [file.with_stored(each) for file, each in zip(wanted, done, strict=True)]
        is_whole = all(file.path_below(root).stat().st_size == file.size_bytes for file in found)
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        # A power cut can leave it empty. The originals are there, so it is done again.
        log.warning("%s cannot be read, and its files are finished again (%s)", record, type(exc).__name__)
        return None
    if is_whole and missing is not None:
        missing |= unfound
    return found if is_whole else None


def discard_originals(root: Path, job_id: str) -> None:
    """Remove the originals of a job that has ended: only the finished files are kept."""
    shutil.rmtree(job_folder(root, job_id) / ORIGINALS, ignore_errors=True)


def _finish(folder: Path, original: OutputFile, wanted: Conversion, taken: set[str]) -> OutputFile:
    source = original.path_below(folder / ORIGINALS)
    draft = folder / ".finish.part"
    draft.unlink(missing_ok=True)
    changes = _rewrite(source, draft, original, wanted)
    # Names of one job differ on disk, where in the ledger they need not.
    name = free_name(source.stem + Path(changes.get("name", source.name)).suffix, taken)
    target = folder / name
    if draft.exists():
        draft.replace(target)
    else:
        target.unlink(missing_ok=True)
        _link(source, target)
    key, size_bytes = job_path(original.job_id, name), target.stat().st_size
    return replace(original, storage_key=key, size_bytes=size_bytes, hash=digest_of(target), **changes)


def _rewrite(source: Path, draft: Path, file: OutputFile, wanted: Conversion) -> dict[str, Any]:
    """Write the file as it is wanted; returns what is new about it. Without a draft it stays as it is."""
    try:
        converted = convert(source, draft, file.content_type, wanted)
        if converted is not None:
            name = Path(file.name).stem + converted.extension
            return {"name": name, "content_type": converted.content_type}
        is_unstripped = wanted.strip_metadata and not strip(source, draft, file.content_type)
    except OutputNotConvertible as exc:
        draft.unlink(missing_ok=True)
        return {"conversion_error": exc.message}
    if is_unstripped and not file.content_type.startswith("text/"):
        return {"conversion_error": NOT_STRIPPED}
    return {}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links.
        shutil.copyfile(source, target)
