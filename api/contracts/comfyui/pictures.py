"""Pictures as ComfyUI's clients ask to see them: in a smaller format, some of their channels, or with a mask."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, TypeVar

from PIL import Image, UnidentifiedImageError

from api.service.batch_results.thumbnails import apart
from core.errors import InvalidRequest

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
DEFAULT_QUALITY = 90
_UNREADABLE = "The picture cannot be read, or has too many pixels."

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a picture is wanted."""

    #: webp or jpeg; empty: as PNG.
    format: str = ""
    quality: int = DEFAULT_QUALITY
    #: rgba, rgb or a.
    channel: str = "rgba"

    def made_of(self, content: bytes, *, max_pixels: int) -> tuple[bytes, str]:
        """Return a picture so, and its content type. Raises InvalidRequest."""
        return _apart(lambda: self._made(_opened(io.BytesIO(content), max_pixels)))

    def _made(self, picture: Image.Image) -> tuple[bytes, str]:
        target = io.BytesIO()
        if self.format:
            is_plain = self.format == "jpeg" or self.channel == "rgb"
            picture.convert("RGB" if is_plain else "RGBA").save(target, self.format.upper(), quality=self.quality)
            return target.getvalue(), f"image/{self.format}"
        if self.channel == "a":
            alpha = picture.convert("RGBA").getchannel("A")
            shown = Image.new("RGBA", picture.size)
            shown.putalpha(alpha)
        else:
            shown = picture.convert("RGB")
        shown.save(target, "PNG")
        return target.getvalue(), "image/png"


#: As it is stored.
PLAIN = Shown()


def shown_as(query: Mapping[str, str]) -> Shown:
    """Return how a query wants a picture."""
    channel = query.get("channel", "rgba")
    channel = channel if channel in ("rgb", "a") else "rgba"
    if "preview" in query:
        kind, _, quality = query["preview"].partition(";")
        given = int(quality) if quality.isdecimal() and len(quality) < 4 else DEFAULT_QUALITY
        return Shown(
            format=kind if kind in ("webp", "jpeg") else "webp", quality=min(max(given, 1), 100), channel=channel
        )
    return PLAIN if channel == "rgba" else Shown(channel=channel)


def with_mask(content: bytes, mask: IO[bytes], *, max_pixels: int) -> IO[bytes]:
    """Return a picture as PNG with the alpha of another one, which is made as large. Raises InvalidRequest."""

    def made() -> IO[bytes]:
        picture = _opened(io.BytesIO(content), max_pixels).convert("RGBA")
        alpha = _opened(mask, max_pixels).convert("RGBA").getchannel("A")
        picture.putalpha(alpha if alpha.size == picture.size else alpha.resize(picture.size))
        target = io.BytesIO()
        picture.save(target, "PNG", compress_level=4)
        target.seek(0)
        return target

    return _apart(made)


def _apart(work: Callable[[], R]) -> R:
    try:
        return apart(work)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise InvalidRequest(_UNREADABLE) from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError) as exc:
        raise InvalidRequest(_UNREADABLE) from exc


def _opened(source: IO[bytes], max_pixels: int) -> Image.Image:
    picture = Image.open(source, formats=_FORMATS)
    if picture.width * picture.height > max_pixels:
        raise ValueError("too many pixels")
    return picture
