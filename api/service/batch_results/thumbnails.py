"""Small pictures of outputs, kept by the hashes of their files: a sheet that is asked for again reads what is new."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from gevent import monkey
from gevent.threadpool import ThreadPool
from PIL import Image, UnidentifiedImageError

from api.http.files import open_output
from api.service.batch_results.byte_cache import ByteCache
from core.errors import OutputUnavailable
from core.records.output import Output
from core.storage.backend import StorageBackend

#: A larger file is not read for a picture as large as a stamp.
MAX_FILE_BYTES = 64 * 1024 * 1024
KEPT_BYTES = 32 * 1024 * 1024
#: Read at once, before other requests are let in.
PIECE_BYTES = 1024 * 1024
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_PAPER = (255, 255, 255)
_QUALITY = 92

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class NoPicture:
    """Why an output is shown as words."""

    why: str
    #: The same would be said of it later.
    is_final: bool = True


class Thumbnails:
    """Makes and keeps them, for all requests of one process; one at a time is decoded, so that memory has a limit."""

    def __init__(self, storage: StorageBackend, *, max_pixels: int) -> None:
        """Parameters:
        max_pixels: a picture of more is not decoded.
        """
        self._storage = storage
        self._max_pixels = max_pixels
        self._kept = ByteCache(KEPT_BYTES)

    def of(self, output: Output, edge_px: int) -> Image.Image | NoPicture:
        """Return an output as a picture that fits into a square, or why there is none."""
        key = f"{output.hash}:{edge_px}"
        kept = self._kept.get(key) if output.hash and not output.is_expired else None
        if kept is None:
            content = self._read(output)
            if isinstance(content, NoPicture):
                return content
            made = apart(lambda: _thumbnail(content, edge_px, self._max_pixels))
            if isinstance(made, NoPicture):
                return made
            self._kept.put(key, made)
            kept = made
        return Image.open(io.BytesIO(kept))

    def _read(self, output: Output) -> bytes | NoPicture:
        if output.kind != "image" and not output.content_type.startswith("image/"):
            return NoPicture(why=f"{output.kind}: {output.name}")
        if output.size_bytes > MAX_FILE_BYTES:
            return NoPicture(why="The file is too large to be shown.")
        try:
            with open_output(output, self._storage) as source:
                return b"".join(_pieces(source, output.size_bytes))
        except OutputUnavailable as exc:
            return NoPicture(why="The file was removed." if output.is_expired else exc.message)
        except OSError:
            return NoPicture(why="The storage does not answer.", is_final=False)


def _pieces(source: io.RawIOBase, size_bytes: int) -> Iterator[bytes]:
    while size_bytes > 0:
        # A file on this disk never makes us wait, so the other requests of this process are let in here.
        time.sleep(0)
        piece = source.read(min(size_bytes, PIECE_BYTES))
        if not piece:
            return
        size_bytes -= len(piece)
        yield piece


def apart(work: Callable[[], R]) -> R:
    """Return what work comes to, done in a thread of its own: pixels would keep all other requests waiting.

    Where gevent has not patched the standard library each request has a thread anyway.
    """
    if not monkey.is_module_patched("socket"):
        return work()
    found: R = _pool().apply(work)
    return found


_POOLS: list[ThreadPool] = []


def _pool() -> ThreadPool:
    # Made at its first use, after gunicorn's fork; one thread, so that one picture at a time is in memory.
    if not _POOLS:
        _POOLS.append(ThreadPool(1))
    return _POOLS[0]


def _thumbnail(content: bytes, edge_px: int, max_pixels: int) -> bytes | NoPicture:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                return NoPicture(why=f"{picture.width} x {picture.height} pixels are too many to be shown.")
            # Of a JPEG no more is decoded than is shown.
            picture.draft("RGB", (edge_px * 2, edge_px * 2))
            small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
            small.thumbnail((edge_px, edge_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return NoPicture(why="Its pixels are too many to be shown.")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError):
        return NoPicture(why="The picture cannot be read.")
    if small.mode == "RGBA":
        paper = Image.new("RGB", small.size, _PAPER)
        paper.paste(small, mask=small.getchannel("A"))
        small = paper
    target = io.BytesIO()
    small.save(target, "JPEG", quality=_QUALITY)
    return target.getvalue()
