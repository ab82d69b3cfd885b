"""Converts finished pictures to the format that a client asked for: WebP, JPEG or PNG.

Only Pillow is used, in this process, so nothing can hang. What the wanted format cannot hold is left as it is: an
animation that is to become a JPEG, pages of a TIFF, a picture with more pixels on a side than the format counts.
`tasks.outputs.metadata.strip` takes metadata out of files that stay what they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, PngImagePlugin

from core.errors import InvalidRequest, OutputNotConvertible
from core.records.output_options import OutputOptions

#: Outputs may be large upscales; beyond this a picture is taken for a decompression bomb.
MAX_PIXELS = 512_000_000
#: All frames of an animation together.
MAX_ANIMATION_PIXELS = 8 * MAX_PIXELS
# Pillow's default is lower. It only warns up to twice its limit, so each file is measured here as well.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

CONTENT_TYPES = frozenset(
    ("image/png", "image/apng", "image/jpeg", "image/webp", "image/bmp", "image/tiff", "image/gif")
)
#: What Pillow may take a file for; its other readers are not needed.
READERS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
#: 16 bits of grey, in the byte orders that Pillow has.
GREY_16 = frozenset(("I;16", "I;16B", "I;16L"))
#: Kinds of pixels that can be converted; 32-bit and floating-point ones have no fixed white.
MODES = GREY_16 | {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
#: Those that a PNG can hold.
PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
DEFAULT_QUALITY = {"webp": 80, "jpeg": 90, "png": 100}
#: libwebp and libjpeg refuse more.
MAX_SIDE_PX = {"webp": 16383, "jpeg": 65500, "png": 2**31 - 1}
EXTENSIONS = {"webp": ".webp", "jpeg": ".jpg", "png": ".png"}
#: Where ComfyUI writes a graph in a WebP: EXIF's Model and Make, as `prompt:{...}` and `workflow:{...}`.
EXIF_TAGS = {"prompt": 0x0110, "workflow": 0x010F}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a client wants done with each output."""

    #: `webp`, `jpeg` or `png`; None leaves the format alone.
    format: str | None
    #: 1 to 100. Of a lossless WebP the effort; a PNG has none.
    quality: int
    #: WebP only.
    lossless: bool
    strip_metadata: bool

    @classmethod
    def from_options(cls, options: OutputOptions) -> Conversion | None:
        """Return what is to be done with each output; None: nothing.

        Raises: InvalidRequest - a newer version knows a format that this one does not.
        """
        wanted, strip_metadata = options.convert, options.strip_metadata
        if wanted is None:
            return cls(format=None, quality=0, lossless=False, strip_metadata=True) if strip_metadata else None
        if wanted.format not in EXTENSIONS:
            raise InvalidRequest(f"convert.format must be one of {', '.join(EXTENSIONS)}.")
        return cls(
            format=wanted.format,
            quality=DEFAULT_QUALITY[wanted.format] if wanted.quality is None else wanted.quality,
            lossless=bool(wanted.lossless),
            strip_metadata=strip_metadata,
        )


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What the converted file is."""

    #: With its dot.
    extension: str
    content_type: str
    size_bytes: int


def convert(source: Path, target: Path, content_type: str, wanted: Conversion) -> Converted | None:
    """Write the picture in `source` to `target` in the wanted format.

    Transparency becomes white in a JPEG. EXIF orientation is applied. An ICC profile is kept where it fits the new
    pixels. 16 bits a channel become 8, except from grey to PNG. Animations (WebP, GIF, APNG) keep their frames and
    times as WebP, and are left as they are for JPEG and PNG. A picture that has the wanted format already is left as it
    is, whatever the quality: encoding it again would only lose.

    The graph that ComfyUI wrote into the file (`prompt`, `workflow`) is carried over to where ComfyUI would write it in
    a PNG or WebP, unless metadata is to be stripped. A JPEG loses it: ComfyUI neither writes nor reads it there, and
    the 64 KiB that EXIF has in a JPEG are too few for many graphs. All other metadata is dropped.

    Returns: None if the file is to be left as it is; then nothing was written, and nothing was stripped.
    Raises:
      OutputNotConvertible: the file is damaged, no picture at all, or has too many pixels.
      OSError: the disk is full, or the like.
    """
    if wanted.format is None or content_type not in CONTENT_TYPES:
        return None
    try:
        data = _converted(source, wanted)
    except OutputNotConvertible:
        raise
    except Image.DecompressionBombError as exc:
        raise OutputNotConvertible(f"{source.name} has too many pixels to be converted.") from exc
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            # The machine's fault. Pillow's own OSErrors, about damaged files, have no number.
            raise
        # Damaged files make Pillow raise nearly anything: SyntaxError, struct.error, ValueError, IndexError, ...
        raise OutputNotConvertible(
            f"{source.name} cannot be converted: the file is damaged, or not {content_type}."
        ) from exc
    if data is None:
        return None
    target.write_bytes(data)
    return Converted(extension=EXTENSIONS[wanted.format], content_type=f"image/{wanted.format}", size_bytes=len(data))


def _converted(source: Path, wanted: Conversion) -> bytes | None:
    name = wanted.format or ""
    with Image.open(source, formats=READERS) as image:
        _check_size(image)
        if not _can_become(image, name):
            return None
        graph = {} if wanted.strip_metadata else _graph(image)
        if _frames(image) > 1:
            return _animation(image, wanted, graph)
        # Loads the pixels as well.
        ImageOps.exif_transpose(image, in_place=True)
        picture = _pixels(image, name)
        options = _options(wanted, graph) | {"icc_profile": _fitting_profile(image, picture)}
        # Pillow would write some of what it has read, such as a GIF's comment.
        picture.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        buffer = io.BytesIO()
        picture.save(buffer, format=name, **options)
    return buffer.getvalue()


def _frames(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1))


def _check_size(image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS or pixels * _frames(image) > MAX_ANIMATION_PIXELS:
        raise OutputNotConvertible(
            f"Too large to be converted: {image.width} x {image.height} pixels, {_frames(image)} frame(s)."
        )


def _can_become(image: Image.Image, name: str) -> bool:
    """Whether the format can hold this picture, and it does not have the format already."""
    if image.format == name.upper() or image.mode not in MODES or max(image.size) > MAX_SIDE_PX[name]:
        return False
    if _frames(image) == 1:
        return True
    # The first picture of some APNGs is not part of the animation, and WebP has no place for it.
    is_plain = image.mode not in GREY_16 and not getattr(image, "default_image", False)
    return name == "webp" and image.format in ("GIF", "PNG") and is_plain


def _pixels(image: Image.Image, name: str) -> Image.Image:
    """The picture with pixels that the format can hold."""
    if image.mode in GREY_16 and not (name == "png" and image.mode in PNG_MODES):
        # Pillow's direct conversion makes everything from 256 on white.
        image = image.convert("I").point(lambda value: value * (255 / 65535)).convert("L")
    if name == "png" and image.mode in PNG_MODES:
        return image
    if not image.has_transparency_data:
        return image.convert("L" if name == "jpeg" and image.mode in ("1", "L") else "RGB")
    picture = image.convert("RGBA")
    if name != "jpeg":
        return picture
    paper = Image.new("RGB", picture.size, "white")
    paper.paste(picture, mask=picture)
    return paper


def _animation(image: Image.Image, wanted: Conversion, graph: Mapping[str, str]) -> bytes:
    """All frames of a GIF or APNG as a WebP, each for as long as before."""
    durations_ms = []
    for number in range(_frames(image)):
        image.seek(number)
        durations_ms.append(image.info.get("duration", 0))
    image.seek(0)
    plays = image.info.get("loop", 1)
    if image.format == "GIF" and image.info.get("loop"):
        # A GIF says how often it is repeated, the others how often it is played. 0 is for ever everywhere.
        plays += 1
    options = _options(wanted, graph) | {"icc_profile": _fitting_profile(image, image)}
    buffer = io.BytesIO()
    image.save(
        buffer, format="WEBP", save_all=True, duration=durations_ms, loop=plays, background=(0, 0, 0, 0), **options
    )
    return buffer.getvalue()


def _options(wanted: Conversion, graph: Mapping[str, str]) -> dict[str, Any]:
    """Pillow's options for saving."""
    if wanted.format == "jpeg":
        return {"quality": wanted.quality}
    if wanted.format == "png":
        texts = PngImagePlugin.PngInfo()
        for key, text in graph.items():
            texts.add_text(key, text)
        return {"pnginfo": texts}
    options = {"quality": wanted.quality, "lossless": wanted.lossless, "exact": wanted.lossless, "method": 4}
    if not graph:
        return options
    exif = Image.Exif()
    for key, text in graph.items():
        exif[EXIF_TAGS[key]] = f"{key}:{text}"
    return options | {"exif": exif.tobytes().removeprefix(b"Exif\0\0")}


def _graph(image: Image.Image) -> dict[str, str]:
    """What ComfyUI wrote into the file: JSON texts by `prompt` and `workflow`, in ASCII, as EXIF needs it."""
    texts: dict[str, str] = {}
    if isinstance(image, PngImagePlugin.PngImageFile):
        texts |= image.text
        # ComfyUI's chunk in animations.
        for kind, data, *_ in image.private_chunks:
            if kind == b"comf":
                key, _, text = data.decode("latin-1").partition("\0")
                texts[key] = text
    else:
        for value in image.getexif().values():
            key, _, text = str(value).partition(":")
            texts.setdefault(key, text)
    found = {key: texts[key] for key in EXIF_TAGS if key in texts}
    return {key: text if text.isascii() else json.dumps(json.loads(text)) for key, text in found.items()}


def _fitting_profile(image: Image.Image, picture: Image.Image) -> bytes | None:
    """The ICC profile of `image`, unless the pixels of `picture` have become another colour space."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    space = b"GRAY" if picture.mode in GREY_16 | {"1", "L", "LA"} else b"RGB "
    return profile if profile[16:20] == space else None
