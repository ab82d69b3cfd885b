"""All outputs of a batch as one ZIP, made while it is sent: nothing of it is on disk, and a piece at a time in memory.

Sizes and checksums stand behind each file, as ZIP has it for what is written in one go, and files of 4 GiB and more are
ZIP64. Pictures, films and sounds are stored as they are, for they are compressed already.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

from api.http.files import open_output
from api.service.batch_results.entry_names import entry_name
from core.contracts.comfy_v2 import SHOWN
from core.errors import OutputUnavailable
from core.records.job import Job
from core.records.output import Output
from core.storage.backend import StorageBackend

PIECE_BYTES = 128 * 1024
MANIFEST = "manifest.json"
#: Of these packing saves most of the bytes; of all others some would, and cost the process its time.
_PACKED = ("text/", "application/json", "image/svg+xml")
_FIRST_DATE = datetime(1980, 1, 1, tzinfo=timezone.utc)
_PLAIN_FILE = 0o100644


class _Sink:
    """Where `zipfile` writes to: it cannot be sought in, and is emptied again and again."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """There is nothing beneath."""

    def close(self) -> None:
        """There is nothing to be closed."""

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def archive(
    jobs: Iterable[Job], storage: StorageBackend, *, batch: str, folder: str, now: Callable[[], str]
) -> Iterator[bytes]:
    """Yield the bytes of the archive. Whoever stops asking closes it, and with it the file that is being read.

    Its last file is `manifest.json`: which jobs there are, how each stood, which files are here and why others are not.

    Parameters:
      jobs: with their outputs.
      now: says what time it is, for the manifest.
    Raises:
      OutputUnavailable, OSError: a file ended or broke off in the middle; what was sent is no whole archive.
    """
    sink = _Sink()
    told: list[bytes] = []
    counts: Counter[str] = Counter()
    # Not `with`: of an archive that breaks off nobody wants the end.
    target = zipfile.ZipFile(sink, "w", allowZip64=True)
    for job in jobs:
        names, missing = [], [{"name": each.name, "why": each.missing_reason} for each in job.missing_outputs]
        for number, output in enumerate(job.outputs):
            name = entry_name(folder, job, output, number)
            try:
                source = open_output(output, storage)
            except OutputUnavailable as exc:
                missing.append({"name": output.name, "why": exc.message})
                continue
            with closing(source):
                yield from _stored(target, sink, _info(name, output, job), source)
            names.append(name)
        counts[SHOWN[job.status]] += 1
        told.append(json.dumps(_told(job, names, missing), ensure_ascii=False).encode())
    head = {"batch": batch, "made_at": now(), "is_complete": not counts.keys() & {"queued", "running", "canceling"}}
    yield from _manifest(target, sink, f"{folder}/{MANIFEST}", {**head, "by_status": dict(counts)}, told)
    target.close()
    yield sink.taken()


def _stored(target: zipfile.ZipFile, sink: _Sink, info: zipfile.ZipInfo, source: Any) -> Iterator[bytes]:
    left_bytes = info.file_size
    with target.open(info, "w") as entry:
        while left_bytes > 0:
            # A fast client's socket never makes us wait, so the other requests of this process are let in here.
            time.sleep(0)
            piece = source.read(min(left_bytes, PIECE_BYTES))
            if not piece:
                raise OutputUnavailable("A file was cut while it was read.")
            left_bytes -= len(piece)
            entry.write(piece)
            yield sink.taken()
    yield sink.taken()


def _info(name: str, output: Output, job: Job) -> zipfile.ZipInfo:
    info = _entry(name, job.completed_at_ms or job.updated_at_ms)
    # Decides whether it is ZIP64; what is written is counted again.
    info.file_size = output.size_bytes
    is_packed = output.content_type.startswith(_PACKED)
    info.compress_type = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
    return info


def _entry(name: str, at_ms: int) -> zipfile.ZipInfo:
    at = max(datetime.fromtimestamp(at_ms / 1000, tz=timezone.utc), _FIRST_DATE)
    info = zipfile.ZipInfo(name, at.timetuple()[:6])
    info.external_attr = _PLAIN_FILE << 16
    return info


def _told(job: Job, names: list[str], missing: list[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "index": job.batch_index,
        "job_id": job.id,
        "status": SHOWN[job.status],
        "varied": job.varied or {},
        "files": names,
    }
    if missing:
        told["missing"] = missing
    if job.error is not None and job.is_terminal:
        told["error"] = {"code": job.error.code, "message": job.error.message[:500]}
    return told


def _manifest(
    target: zipfile.ZipFile, sink: _Sink, name: str, head: dict[str, Any], told: list[bytes]
) -> Iterator[bytes]:
    info = _entry(name, int(time.time() * 1000))
    info.compress_type = zipfile.ZIP_DEFLATED
    with target.open(info, "w") as entry:
        entry.write(json.dumps(head).encode().removesuffix(b"}") + b', "jobs": [')
        for number, each in enumerate(told):
            entry.write((b",\n " if number else b"\n ") + each)
            yield sink.taken()
        entry.write(b"\n]}\n")
    yield sink.taken()
