"""Contact sheets of batches: which page, whether it is known already, and what is in its cells."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from api.http.time_limits import ledger_time_limit
from api.service.batch_results.axes import Page, pages_of
from api.service.batch_results.byte_cache import ByteCache
from api.service.batch_results.sheet_pages import Face, SheetFormat, Words, draw_page, encoded
from api.service.batch_results.thumbnails import NoPicture, Thumbnails, apart
from core.contracts.comfy_v2 import SHOWN
from core.errors import InvalidRequest, QueueFull
from core.ledger import Ledger
from core.ledger.batches.children import Child
from core.records.job import CANCELED, EXPIRED, FAILED, QUEUED, SUCCEEDED, Job
from core.records.output import Output
from core.settings import Settings
from core.storage.backend import output_storage

#: How long pictures of one page are read; cells that are not done by then say so.
READ_S = 15.0
#: Sheets that one process makes at once, and how long a request waits for its turn.
AT_ONCE, WAIT_S = 1, 20.0
KEPT_BYTES = 64 * 1024 * 1024
#: Changes with what a sheet of the same jobs looks like.
_LOOK = 1


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A page that is asked for, before it is made."""

    page: Page
    title: str
    subtitle: str
    cell_px: int
    kind: SheetFormat
    #: The jobs on it with their outputs, by id.
    shown: Mapping[str, Job]
    #: Equal for pages that look alike.
    tag: str


class Sheets:
    """Makes contact sheets, for all requests of one process."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._ledger = ledger
        #: Kept for whoever shows outputs small.
        self.thumbnails = Thumbnails(output_storage(settings), max_pixels=settings.max_image_pixels)
        self._kept = ByteCache(KEPT_BYTES)
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def find(self, batch: str, *, of: str, page: int, cell_px: int, kind: SheetFormat) -> Sheet:
        """Return a page of a batch's sheet, not made yet.

        Parameters:
          of: the tenant whose jobs there are for who asks.
          page: from 1.
          cell_px: the edge of a cell.
        Raises: NotFound, LedgerUnavailable; InvalidRequest - it has fewer pages.
        """
        with ledger_time_limit():
            children = self._ledger.batch_children.outline(batch, of=of)
            pages = pages_of(children)
            if page > len(pages):
                raise InvalidRequest(f"page must be at most {len(pages)}: this sheet has no more.")
            wanted = pages[page - 1]
            jobs = self._ledger.jobs.many([child.job_id for child in wanted.children])
        title, subtitle = _titles(batch, children, wanted)
        told = [_LOOK, kind, cell_px, title, subtitle, repr(wanted), [_told(job) for job in jobs.values()]]
        tag = hashlib.sha256(json.dumps(sorted(map(str, told))).encode()).hexdigest()
        return Sheet(page=wanted, title=title, subtitle=subtitle, cell_px=cell_px, kind=kind, shown=jobs, tag=tag)

    def made(self, sheet: Sheet) -> tuple[bytes, bool]:
        """Return the bytes of a page, and whether they would be the same another time.

        Raises: QueueFull - others have sheets made.
        """
        if (kept := self._kept.get(sheet.tag)) is not None:
            return kept, True
        with self._turn():
            # Whoever had the turn before may have made this very page.
            if (kept := self._kept.get(sheet.tag)) is not None:
                return kept, True
            faces, is_final = self._faces(sheet)
            content = apart(lambda: _drawn(sheet, faces))
        if is_final:
            self._kept.put(sheet.tag, content)
        return content, is_final

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=WAIT_S):
            raise QueueFull("Others have contact sheets made. Try again in a moment.")
        try:
            yield
        finally:
            self._turns.release()

    def _faces(self, sheet: Sheet) -> tuple[dict[str, Face], bool]:
        until_s, is_final = time.monotonic() + READ_S, True
        faces: dict[str, Face] = {}
        for child in sheet.page.children:
            job = sheet.shown.get(child.job_id)
            output = None if job is None else _first_picture(job.outputs)
            if job is None or job.status != SUCCEEDED or output is None:
                faces[child.job_id] = _words(job)
                continue
            found: Face | NoPicture = NoPicture(why="It was not read in time; ask again.", is_final=False)
            if time.monotonic() < until_s:
                found = self.thumbnails.of(output, sheet.cell_px)
            if isinstance(found, NoPicture):
                is_final = is_final and found.is_final
                found = Words(kind="other", title="no picture", text=found.why)
            faces[child.job_id] = found
        return faces, is_final


def _drawn(sheet: Sheet, faces: Mapping[str, Face]) -> bytes:
    picture = draw_page(sheet.page, faces, title=sheet.title, subtitle=sheet.subtitle, cell_px=sheet.cell_px)
    return encoded(picture, sheet.kind)


def _first_picture(outputs: Sequence[Output]) -> Output | None:
    """Return the first picture among outputs, else the first of them; None if there is none."""
    pictures = (output for output in outputs if output.content_type.startswith("image/"))
    return next(pictures, outputs[0] if outputs else None)


def _words(job: Job | None) -> Words:
    """Return what the cell of a job says that has no picture; of one that waits, nothing."""
    if job is None:
        return Words(kind="other", title="deleted")
    if job.status == QUEUED:
        return Words(kind="waiting")
    if job.status in (FAILED, EXPIRED):
        error = job.error
        title = SHOWN[job.status] if error is None else f"{SHOWN[job.status]}: {error.code.replace('_', ' ')}"
        return Words(kind="failed", title=title, text="" if error is None else error.message)
    if job.status in (CANCELED, SUCCEEDED):
        return Words(kind="other", title="canceled" if job.status == CANCELED else "no picture")
    return Words(kind="running", title=SHOWN[job.status])


def _titles(batch: str, children: Sequence[Child], page: Page) -> tuple[str, str]:
    label = next((child.label for child in children if child.label), None)
    counts = Counter(SHOWN[child.status] for child in children)
    parts = [
        f"{len(children)} job{'s' if len(children) > 1 else ''}",
        *(f"{count} {status}" for status, count in counts.most_common()),
    ]
    if page.pages > 1:
        parts.append(f"page {page.number} of {page.pages}")
    return label or f"Batch {batch[:8]}", ", ".join(parts)


def _told(job: Job) -> list[object]:
    """Return what the look of a job's cell depends on."""
    output = _first_picture(job.outputs)
    error = job.error
    return [
        *(job.id, job.status, None if error is None else [error.code, error.message]),
        None if output is None else [output.hash, output.name, output.is_expired],
    ]
