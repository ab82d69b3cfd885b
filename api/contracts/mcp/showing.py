"""Tools that show what jobs made: pictures that are small enough for a model to look at."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from api.contracts.mcp.arguments import PictureArguments, SheetArguments
from api.contracts.mcp.tool import Picture, Tool, ToolResult
from api.contracts.mcp.tool_views import ToolOutputView, ToolSheetView, ToolShownView, outputs_view
from api.http.caller import caller, links_for
from api.http.errors import BadParameter
from api.http.time_limits import ledger_time_limit
from api.service.batch_results.sheets import Sheets
from api.service.batch_results.thumbnails import NoPicture, apart
from api.service.jobs import check_id
from core.errors import InvalidRequest
from core.ledger import Ledger
from core.records.output import Output
from core.settings import Settings

#: All pictures of one answer together, before they are base64: clients take few megabytes.
MOST_BYTES = 1024 * 1024
_QUALITY = 85


class ShowingTools:
    """The tools of one process that show pictures."""

    def __init__(self, settings: Settings, ledger: Ledger, sheets: Sheets) -> None:
        self._settings = settings
        self._ledger = ledger
        self._sheets = sheets

    def tools(self) -> list[Tool[Any]]:
        """Return them."""
        return [
            Tool(
                name="show_outputs",
                title="Look at what a job made",
                description="Shows outputs of a job as pictures, made small. What is no picture is told with its url.",
                scope="read",
                arguments=PictureArguments,
                view=ToolShownView,
                run=self._show_outputs,
                only_reads=True,
            ),
            Tool(
                name="show_batch",
                title="Look at what a batch made",
                description="Shows the first picture of each job of a batch on one sheet, with what was varied along "
                "its sides.",
                scope="read",
                arguments=SheetArguments,
                view=ToolSheetView,
                run=self._show_batch,
                only_reads=True,
            ),
        ]

    def _show_outputs(self, arguments: PictureArguments) -> ToolResult:
        with ledger_time_limit():
            job = self._ledger.jobs.get(check_id(arguments.job_id), of=caller().sees)
        if not job.outputs:
            ended = "and has ended" if job.is_terminal else "yet: wait_for_job says when it has ended"
            raise InvalidRequest(f"The job has no outputs, {ended}.")
        if arguments.output >= len(job.outputs):
            raise BadParameter(f"output must be below {len(job.outputs)}: the job has so many outputs, from 0.")
        views = outputs_view(job, links_for(self._settings, self._ledger))
        shown: list[ToolOutputView] = []
        not_shown: list[str] = []
        pictures: list[Picture] = []
        left_bytes = MOST_BYTES
        for output, view in list(zip(job.outputs, views, strict=True))[arguments.output :][: arguments.count]:
            content = self._small(output, arguments.edge_px)
            if isinstance(content, str) or len(content) > left_bytes:
                why = content if isinstance(content, str) else "No room is left in this answer; ask for it alone."
                not_shown.append(f"{output.name}: {why} The file: {view['url']}")
                continue
            left_bytes -= len(content)
            shown.append(view)
            pictures.append(_picture(content, "image/jpeg"))
        told: ToolShownView = {"shown": shown, "not_shown": not_shown, "outputs": len(job.outputs)}
        return ToolResult(view=told, pictures=tuple(pictures))

    def _show_batch(self, arguments: SheetArguments) -> ToolResult:
        sheet = self._sheets.find(
            check_id(arguments.batch_id),
            of=caller().sees,
            page=arguments.page,
            cell_px=arguments.cell_px,
            kind="webp",
        )
        content, _ = self._sheets.made(sheet)
        if len(content) > MOST_BYTES:
            raise InvalidRequest("The sheet is too large to be shown: ask for a smaller cell_px.")
        view: ToolSheetView = {"page": sheet.page.number, "pages": sheet.page.pages}
        return ToolResult(view=view, pictures=(_picture(content, "image/webp"),))

    def _small(self, output: Output, edge_px: int) -> bytes | str:
        """Return an output as a small JPEG, or why it cannot be shown."""
        found = self._sheets.thumbnails.of(output, edge_px)
        if isinstance(found, NoPicture):
            return f"{found.why.rstrip('.')}."
        return apart(lambda: _jpeg(found))


def _jpeg(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_QUALITY)
    return target.getvalue()


def _picture(content: bytes, content_type: str) -> Picture:
    return Picture(data=base64.b64encode(content).decode("ascii"), content_type=content_type)
