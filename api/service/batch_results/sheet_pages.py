"""A page of a contact sheet as pixels: pictures in their cells, what was varied along the sides or beneath them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw

from api.service.batch_results.axes import Band, Page, text_of
from api.service.batch_results.texts import Line, line_height, lines_of, width_of
from core.ledger.batches.children import Child

SheetFormat: TypeAlias = Literal["png", "webp"]
#: What is drawn in a cell: a picture, or words of a kind.
Kind: TypeAlias = Literal["waiting", "running", "failed", "other"]
Box: TypeAlias = tuple[int, int, int, int]

_PAPER, _INK, _QUIET, _LINE = (255, 255, 255), (32, 33, 36), (104, 108, 115), (218, 220, 224)
_FILL: Mapping[Kind, tuple[int, int, int]] = {
    "waiting": _PAPER,
    "running": (244, 248, 253),
    "failed": (253, 237, 236),
    "other": (245, 245, 246),
}
_FAILED_INK, _FAILED_LINE = (150, 30, 24), (232, 176, 172)
#: Lines that labels above columns, beside rows and beneath cells have at most.
_ABOVE, _BESIDE, _BENEATH = 3, 6, 4
_WEBP_QUALITY = 85
#: A cell is no narrower, and no lower, than this part of what it may be: words have to fit in, too.
_LEAST = 0.6


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a cell says where it has no picture."""

    kind: Kind
    title: str = ""
    text: str = ""


#: What is in a cell.
Face: TypeAlias = Image.Image | Words


@dataclass(frozen=True, kw_only=True)
class _Measures:
    """Sizes in pixels, which all come from that of a cell."""

    #: Of a cell: as large as the largest picture on the page, so that films and portraits have no bars.
    width: int
    height: int
    #: Of labels.
    text: int
    title: int
    gap: int
    margin: int
    #: Of the column of labels beside the rows.
    side: int
    #: Of the labels above the columns, of a heading, and of the captions.
    top: int
    heading: int
    beneath: int


def draw_page(page: Page, faces: Mapping[str, Face], *, title: str, subtitle: str, cell_px: int) -> Image.Image:
    """Return a page as a picture.

    Parameters:
      faces: what is in the cell of each job, by its id.
      title, subtitle: of the whole sheet.
      cell_px: the edge of a cell.
    """
    sizes = _measured(page, faces, cell_px)
    grid_px = page.width * (sizes.width + sizes.gap) - sizes.gap
    width = 2 * sizes.margin + max(sizes.side + grid_px, cell_px * 2)
    text_px = width - 2 * sizes.margin
    title_lines = lines_of(title, text_px, sizes.title, most=2)
    subtitle_lines = lines_of(subtitle, text_px, sizes.text, most=2)
    head_px = len(title_lines) * line_height(sizes.title) + len(subtitle_lines) * line_height(sizes.text)
    grid_top = sizes.margin + head_px + sizes.margin // 2 + sizes.top
    row_px = sizes.height + sizes.beneath + sizes.gap
    headings_px = sum(sizes.heading for band in page.bands if band.heading)
    height = grid_top + len(page.bands) * row_px - sizes.gap + headings_px + sizes.margin
    picture = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(picture)
    y = _written(pen, title_lines, sizes.margin, sizes.margin, sizes.title, _INK)
    _written(pen, subtitle_lines, sizes.margin, y, sizes.text, _QUIET)
    left = sizes.margin + sizes.side
    _columns(pen, page, sizes, left, grid_top)
    y = grid_top
    for band in page.bands:
        if band.heading:
            _heading(pen, band.heading, sizes, y, text_px)
            y += sizes.heading
        _row(picture, pen, page, band, faces, sizes, left, y)
        y += row_px
    return picture


def encoded(picture: Image.Image, kind: SheetFormat) -> bytes:
    """Return a picture as the bytes of a file."""
    target = io.BytesIO()
    if kind == "webp":
        picture.save(target, "WEBP", quality=_WEBP_QUALITY, method=2)
    else:
        picture.save(target, "PNG", compress_level=3)
    return target.getvalue()


def _measured(page: Page, faces: Mapping[str, Face], cell_px: int) -> _Measures:
    pictures = [face for face in faces.values() if isinstance(face, Image.Image)]
    width, height = (
        max([round(cell_px * _LEAST), *edges]) if edges else cell_px
        for edges in ([each.width for each in pictures], [each.height for each in pictures])
    )
    text = max(11, round(cell_px * 0.065))
    heading = round(line_height(text) * 1.8) if any(band.heading for band in page.bands) else 0
    side = top = beneath = 0
    if page.columns:
        widest = max(width_of(label, text) for label in [*(band.label for band in page.bands), page.row_name])
        side = round(min(widest, cell_px * 0.9)) + text
        most = max(len(lines_of(label, width, text, most=_ABOVE)) for label in page.columns)
        # One line more, for what the columns are.
        top = (most + 1) * line_height(text) + text // 2
    else:
        most = max((len(_caption(page, child, width, text)) for child in page.children), default=0)
        beneath = most * line_height(text) + text // 2
    return _Measures(
        width=width,
        height=height,
        text=text,
        title=round(text * 1.5),
        gap=max(6, cell_px // 24),
        margin=max(16, cell_px // 10),
        side=side,
        top=top,
        heading=heading,
        beneath=beneath,
    )


def _columns(pen: ImageDraw.ImageDraw, page: Page, sizes: _Measures, left: int, grid_top: int) -> None:
    """Write what the columns and the rows are, and the values above the columns, down to where the cells begin."""
    if not page.columns:
        return
    y = grid_top - sizes.top
    across = page.width * (sizes.width + sizes.gap) - sizes.gap
    above = lines_of(page.column_name, across, sizes.text, most=1)
    _written(pen, above, left + across / 2, y, sizes.text, _QUIET, anchor="ma")
    beside = lines_of(page.row_name, sizes.side - sizes.text, sizes.text, most=1)
    _written(pen, beside, sizes.margin, grid_top - sizes.text // 2 - line_height(sizes.text), sizes.text, _QUIET)
    for number, label in enumerate(page.columns):
        lines = lines_of(label, sizes.width, sizes.text, most=_ABOVE)
        middle = left + number * (sizes.width + sizes.gap) + sizes.width / 2
        bottom = grid_top - sizes.text // 2 - len(lines) * line_height(sizes.text)
        _written(pen, lines, middle, bottom, sizes.text, _INK, anchor="ma")


def _heading(pen: ImageDraw.ImageDraw, text: str, sizes: _Measures, y: int, width_px: int) -> None:
    pen.line((sizes.margin, y + sizes.text // 3, sizes.margin + width_px, y + sizes.text // 3), _LINE)
    at = y + round(sizes.text * 0.7)
    _written(pen, lines_of(text, width_px, sizes.text, most=1), sizes.margin, at, sizes.text, _INK)


def _row(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    page: Page,
    band: Band,
    faces: Mapping[str, Face],
    sizes: _Measures,
    left: int,
    y: int,
) -> None:
    if page.columns:
        lines = lines_of(band.label, sizes.side - sizes.text, sizes.text, most=_BESIDE)
        at = y + max(0, (sizes.height - len(lines) * line_height(sizes.text)) // 2)
        _written(pen, lines, sizes.margin, at, sizes.text, _INK)
    for number, child in enumerate(band.cells):
        if child is None:
            continue
        x = left + number * (sizes.width + sizes.gap)
        _face(picture, pen, faces[child.job_id], (x, y, x + sizes.width, y + sizes.height), sizes)
        if not page.columns:
            caption = _caption(page, child, sizes.width, sizes.text)
            _written(pen, caption, x, y + sizes.height + sizes.text // 3, sizes.text, _INK)


def _caption(page: Page, child: Child, width_px: int, size_px: int) -> list[Line]:
    """Return the lines beneath a cell: each thing that was varied has one at least, until there are too many."""
    if not page.captioned:
        return lines_of(f"#{child.index}", width_px, size_px, most=1)
    texts = [f"{name}: {text_of(child, name)}" for name in page.captioned]
    each = max(1, _BENEATH // len(texts))
    return [line for text in texts for line in lines_of(text, width_px, size_px, most=each)][:_BENEATH]


def _face(picture: Image.Image, pen: ImageDraw.ImageDraw, face: Face, box: Box, sizes: _Measures) -> None:
    left, top, right, bottom = box
    if isinstance(face, Image.Image):
        pen.rectangle((left, top, right - 1, bottom - 1), fill=_FILL["other"])
        picture.paste(face, (left + (right - left - face.width) // 2, top + (bottom - top - face.height) // 2))
        return
    line = _FAILED_LINE if face.kind == "failed" else _LINE
    pen.rectangle((left, top, right - 1, bottom - 1), fill=_FILL[face.kind], outline=line)
    ink = _FAILED_INK if face.kind == "failed" else _QUIET
    inner, pad = right - left - 2 * sizes.text, sizes.text
    y = _written(pen, lines_of(face.title, inner, sizes.text, most=2), left + pad, top + pad, sizes.text, ink)
    most = max(0, (bottom - pad - y) // line_height(sizes.text))
    if most:
        small = lines_of(face.text, inner, sizes.text, most=most)
        _written(pen, small, left + pad, y + sizes.text // 3, sizes.text, _INK if face.kind == "failed" else _QUIET)


def _written(
    pen: ImageDraw.ImageDraw,
    lines: list[Line],
    x: float,
    y: float,
    size_px: int,
    ink: tuple[int, int, int],
    *,
    anchor: str = "la",
) -> int:
    """Write lines below each other; returns where the next one would begin."""
    for line in lines:
        pen.text((x, y), line.text, fill=ink, font=line.font, anchor=anchor)
        y += line_height(size_px)
    return round(y)
