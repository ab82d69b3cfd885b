"""Output files are converted without losing what they show, and stripped until nothing of a prompt is left."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from comfy.simulator.media.containers import safetensors, wav
from core.errors import InvalidRequest, OutputNotConvertible
from core.records.output_options import OutputOptions
from tasks.outputs.convert import Conversion, Converted, convert
from tasks.outputs.metadata.strip import strip

SECRET = "a-lighthouse-nobody-may-know-of"
PROMPT = json.dumps({"6": {"class_type": "CLIPTextEncode", "inputs": {"text": SECRET}}})
WORKFLOW = json.dumps({"nodes": [{"id": 6, "widgets_values": [SECRET]}]})
#: Stands for compressed frames or samples.
MEDIA = bytes(range(256)) * 8


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24), seed: int = 0) -> Image.Image:
    """Flat rectangles of drawn colours: lossy formats stay near them."""
    kind = mode if mode in ("RGB", "RGBA", "CMYK") else "RGB"
    colours = np.random.default_rng(seed).bytes(5 * 3 * len(kind))
    return Image.frombytes(kind, (5, 3), colours).convert(mode).resize(size, Image.Resampling.NEAREST)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int | None = None) -> bytes:
    """As ComfyUI writes it into a WebP."""
    tags = Image.Exif()
    tags[0x0110] = f"prompt:{PROMPT}"
    tags[0x010F] = f"workflow:{WORKFLOW}"
    if orientation:
        tags[0x0112] = orientation
    return tags.tobytes()


def png_texts() -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", PROMPT)
    texts.add_text("workflow", WORKFLOW)
    return texts


def xmp() -> bytes:
    return f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()


def a_png() -> bytes:
    texts = png_texts()
    texts.add_text("more", PROMPT, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", SECRET, zip=True)
    return saved(picture("RGBA"), "PNG", pnginfo=texts, exif=exif(), dpi=(72, 72))


def an_apng() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add(b"comf", b"prompt\0" + PROMPT.encode(), after_idat=True)
    texts.add(b"comf", b"workflow\0" + WORKFLOW.encode(), after_idat=True)
    return animation("PNG", pnginfo=texts)


def animation(form: str, **options: Any) -> bytes:
    frames = [picture(seed=number) for number in range(4)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], duration=[50, 120, 80, 200], **options)


def a_jpeg() -> bytes:
    return saved(picture(), "JPEG", exif=exif(orientation=6), xmp=xmp(), comment=SECRET, progressive=True)


def a_turned_webp(label: bytes = b"") -> bytes:
    """Some writers label the EXIF as in a JPEG."""
    return saved(picture(), "WEBP", exif=label + exif(orientation=6), xmp=xmp())


def box(kind: bytes, *content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)


def an_mp4(*, is_open: bool = False) -> bytes:
    """With the graph in every place there is; `is_open`: the data go on to the end of the file, and say so."""
    tags = box(b"meta", bytes(4), box(b"keys", b"mdtaprompt"), box(b"ilst", PROMPT.encode(), WORKFLOW.encode()))
    track = box(b"trak", box(b"tkhd", bytes(84)), box(b"udta", box(b"name", SECRET.encode("utf-16-le"))))
    movie = box(b"moov", box(b"mvhd", bytes(100)), track, box(b"udta", tags), tags)
    wide = struct.pack(">I4sQ", 1, b"mdat", 16 + len(MEDIA)) + MEDIA
    rest = struct.pack(">I4s", 0, b"mdat") + MEDIA if is_open else wide + box(b"free", SECRET.encode())
    return box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + movie + rest


def element(ident: str, *content: bytes, is_endless: bool = False) -> bytes:
    size = sum(map(len, content))
    head = b"\x01" + (b"\xff" * 7 if is_endless else size.to_bytes(7, "big"))
    return bytes.fromhex(ident) + head + b"".join(content)


def a_webm(*, is_live: bool = False) -> bytes:
    tag = element("7373", element("67C8", element("45A3", b"PROMPT"), element("4487", PROMPT.encode())))
    info = element("1549A966", b"\xbf\x84abcd", element("7BA9", SECRET.encode()), element("4D80", b"Lavf"))
    cluster = element("1F43B675", element("E7", b"\0"), element("A3", MEDIA), is_endless=is_live)
    # The shortest Tags there are, in five bytes, and what an editor may have left.
    rest = bytes.fromhex("1254C36780") + element("EC", SECRET.encode())
    segment = element(
        "18538067", info, element("1654AE6B", b"\xae\x80"), cluster, element("1254C367", tag), rest, is_endless=is_live
    )
    return element("1A45DFA3", element("4282", b"webm")) + segment


def vorbis_comments(long: str = "") -> bytes:
    comments = [f"prompt={PROMPT}{long}".encode(), f"workflow={WORKFLOW}".encode()]
    packed = b"".join(struct.pack("<I", len(comment)) + comment for comment in comments)
    return struct.pack("<I", 4) + b"Lavf" + struct.pack("<I", len(comments)) + packed


def flac_block(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + len(content).to_bytes(3, "big") + content


def a_flac() -> bytes:
    information = struct.pack(">HH", 4096, 4096) + bytes(6) + (44100 << 44 | 1 << 41 | 15 << 36 | 0).to_bytes(8, "big")
    blocks = flac_block(0, information + bytes(16)) + flac_block(4, vorbis_comments()) + flac_block(2, SECRET.encode())
    return b"fLaC" + blocks + flac_block(0x80 | 1, bytes(64)) + b"\xff\xf8" + MEDIA


def an_id3() -> bytes:
    text = b"\1" + f"prompt\0{PROMPT}".encode("utf-16")
    frame = b"TXXX" + struct.pack(">IH", len(text), 0) + text
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + frame


def an_mp3() -> bytes:
    item = struct.pack("<II", len(PROMPT), 0) + b"prompt\0" + PROMPT.encode()
    head, foot = (b"APETAGEX" + struct.pack("<4I", 2000, len(item) + 32, 1, flags << 29) + bytes(8) for flags in (5, 4))
    ape = head + item + foot
    return an_id3() + b"\xff\xfb\x90\x64" + MEDIA + ape + b"TAG" + SECRET.encode()[:30].ljust(125, b"\0")


def ogg_checksum(page: bytes) -> int:
    """The remainder of a division, one bit at a time: another way to the same number."""
    number = int.from_bytes(page, "big") << 32
    for shift in range(len(page) * 8 - 1, -1, -1):
        if number >> shift + 32 & 1:
            number ^= 0x104C11DB7 << shift
    return number


def ogg_pages(packets: list[bytes]) -> bytes:
    """Each packet begins on a page of its own; long ones take several."""
    pages: list[bytes] = []
    for packet in packets:
        lacing = [255] * (len(packet) // 255) + [len(packet) % 255]
        for start in range(0, len(lacing), 40):
            part = bytes(lacing[start : start + 40])
            flags = (0 if pages else 2) | (1 if start else 0)
            head = b"OggS\0" + bytes((flags,)) + struct.pack("<qIII", 0, 77, len(pages), 0) + bytes((len(part),)) + part
            page = head + packet[start * 255 : start * 255 + sum(part)]
            pages.append(page[:22] + struct.pack("<I", ogg_checksum(page)) + page[26:])
    return b"".join(pages)


def an_opus() -> bytes:
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48000, 0, 0)
    return ogg_pages([head, b"OpusTags" + vorbis_comments(SECRET * 1000), MEDIA])


def an_ogg_vorbis() -> bytes:
    head = b"\x01vorbis" + struct.pack("<IBIIIIBB", 0, 1, 44100, 0, 0, 0, 0xB8, 1)
    return ogg_pages([head, b"\x03vorbis" + vorbis_comments() + b"\1", b"\x05vorbis" + bytes(40), MEDIA])


def a_wav() -> bytes:
    sound = wav(0.05, 440.0)
    note = b"LIST" + struct.pack("<I", 4 + len(SECRET)) + b"INFO" + SECRET.encode() + bytes(len(SECRET) % 2)
    return b"RIFF" + struct.pack("<I", len(sound) - 8 + len(note)) + sound[8:] + note


def a_glb() -> bytes:
    scene = {"asset": {"version": "2.0", "extras": {"prompt": PROMPT}}, "buffers": [{"byteLength": len(MEDIA)}]}
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(MEDIA), b"BIN\0") + MEDIA
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def a_latent() -> bytes:
    tensor = np.frombuffer(MEDIA, np.float32).reshape(1, 4, 8, 16)
    return safetensors({"latent_tensor": tensor}, {"prompt": PROMPT, "workflow": WORKFLOW})


IMAGES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png": ("image/png", a_png),
    "apng": ("image/png", an_apng),
    "jpeg": ("image/jpeg", a_jpeg),
    "webp": ("image/webp", lambda: saved(picture("RGBA"), "WEBP", exif=exif(), xmp=xmp(), lossless=True)),
    "turned webp": ("image/webp", a_turned_webp),
    "animated webp": ("image/webp", lambda: animation("WEBP", exif=exif(), quality=60)),
    "gif": ("image/gif", lambda: saved(picture("P"), "GIF", comment=SECRET)),
    "animated gif": ("image/gif", lambda: animation("GIF", comment=SECRET, loop=3)),
}
MEDIA_FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "mp4": ("video/mp4", an_mp4),
    "open mp4": ("video/mp4", lambda: an_mp4(is_open=True)),
    "webm": ("video/webm", a_webm),
    "live webm": ("video/webm", lambda: a_webm(is_live=True)),
    "flac": ("audio/flac", a_flac),
    "flac behind an id3 tag": ("audio/flac", lambda: an_id3() + a_flac()),
    "mp3": ("audio/mpeg", an_mp3),
    "opus": ("audio/ogg", an_opus),
    "ogg vorbis": ("audio/ogg", an_ogg_vorbis),
    "wav": ("audio/wav", a_wav),
    "glb": ("model/gltf-binary", a_glb),
    "latent": ("application/octet-stream", a_latent),
}
#: Where a WebP says what is in it.
WEBP_FLAGS = 20
#: Files in which nothing may move.
IN_PLACE = ("mp4", "open mp4", "webm", "live webm", "opus", "ogg vorbis", "glb", "latent")


def leaks(data: bytes) -> bool:
    """Whether the secret is anywhere: plain, in UTF-16, or in what zlib has packed."""
    forms = [SECRET.encode(code) for code in ("ascii", "utf-16-le", "utf-16-be")]
    texts = [data]
    for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data):
        try:
            texts.append(zlib.decompressobj().decompress(data[found.start() :]))
        except zlib.error:
            continue
    return any(form in text for form in forms for text in texts)


def frames_of(data: bytes) -> list[tuple[bytes, object]]:
    """Pixels and time of each frame."""
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append((image.convert("RGBA").tobytes(), image.info.get("duration")))
        return frames


def stripped(tmp_path: Path, data: bytes, content_type: str) -> bytes:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    assert strip(source, target, content_type)
    assert source.read_bytes() == data
    return target.read_bytes()


@pytest.mark.parametrize("name", IMAGES)
def test_a_stripped_picture_looks_the_same_and_tells_nothing(name: str, tmp_path: Path) -> None:
    content_type, make = IMAGES[name]
    data = make()
    assert leaks(data)

    result = stripped(tmp_path, data, content_type)

    assert not leaks(result)
    assert frames_of(result) == frames_of(data)
    # Nothing is left to be taken away.
    assert stripped(tmp_path, result, content_type) == result


@pytest.mark.parametrize("name", MEDIA_FILES)
def test_a_stripped_film_or_sound_keeps_its_data_and_tells_nothing(name: str, tmp_path: Path) -> None:
    content_type, make = MEDIA_FILES[name]
    data = make()
    assert leaks(data)

    result = stripped(tmp_path, data, content_type)

    assert not leaks(result)
    assert b"APETAGEX" not in result
    kept = wav(0.05, 440.0)[12:] if name == "wav" else MEDIA
    assert result.count(kept) == 1
    if name in IN_PLACE:
        assert len(result) == len(data)
        assert result.index(kept) == data.index(kept)
    assert stripped(tmp_path, result, content_type) == result


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("image/jpeg", a_jpeg()),
        ("image/webp", a_turned_webp()),
        ("image/webp", a_turned_webp(label=b"Exif\0\0")),
    ],
    ids=["jpeg", "webp", "labelled webp"],
)
def test_a_stripped_picture_is_still_shown_upright(content_type: str, data: bytes, tmp_path: Path) -> None:
    with Image.open(io.BytesIO(stripped(tmp_path, data, content_type))) as image:
        assert dict(image.getexif()) == {0x0112: 6}


def test_a_webp_that_was_not_shown_turned_is_not_when_stripped(tmp_path: Path) -> None:
    data = bytearray(a_turned_webp())
    data[WEBP_FLAGS] &= ~0x08  # the EXIF is there, but not announced

    result = stripped(tmp_path, bytes(data), "image/webp")

    assert not Image.open(io.BytesIO(data)).getexif()
    assert not Image.open(io.BytesIO(result)).getexif()


def test_colour_profiles_stay_when_a_picture_is_stripped(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    for form, options in (("PNG", {"pnginfo": png_texts()}), ("JPEG", {"exif": exif()}), ("WEBP", {"exif": exif()})):
        data = saved(picture(), form, icc_profile=profile, **options)
        with Image.open(io.BytesIO(stripped(tmp_path, data, f"image/{form.lower()}"))) as image:
            assert image.info["icc_profile"] == profile


def test_a_stripped_webp_announces_no_metadata(tmp_path: Path) -> None:
    result = stripped(tmp_path, IMAGES["webp"][1](), "image/webp")

    assert struct.unpack_from("<I", result, 4)[0] == len(result) - 8
    assert result[12:16] == b"VP8X"
    assert result[WEBP_FLAGS] == 0x10  # alpha, and nothing else


def test_boxes_and_elements_of_a_stripped_film_still_fit(tmp_path: Path) -> None:
    film = stripped(tmp_path, an_mp4(), "video/mp4")
    movie = film[28 : 28 + struct.unpack_from(">I", film, 28)[0]]
    kinds = [movie[at + 4 : at + 8] for at in (8, 116, 116 + struct.unpack_from(">I", movie, 116)[0])]
    assert kinds == [b"mvhd", b"trak", b"free"]

    webm = stripped(tmp_path, a_webm(), "video/webm")
    assert bytes.fromhex("1254C367") not in webm
    assert webm[a_webm().index(bytes.fromhex("1254C36780")) :][:5] == bytes.fromhex("EC83000000")


def test_a_stripped_ogg_has_empty_comments_and_true_checksums(tmp_path: Path) -> None:
    data = an_opus()

    result = stripped(tmp_path, data, "audio/ogg")

    starts = [found.start() for found in re.finditer(b"OggS", result)]
    assert len(starts) > 4
    for start, end in pairwise([*starts, len(result)]):
        page = result[start:end]
        assert struct.unpack_from("<I", page, 22)[0] == ogg_checksum(page[:22] + bytes(4) + page[26:])
    assert result[result.index(b"OpusTags") + 8 :][:8] == bytes(8)


def test_json_headers_keep_all_but_the_metadata(tmp_path: Path) -> None:
    latent = stripped(tmp_path, a_latent(), "application/octet-stream")
    length = int.from_bytes(latent[:8], "little")
    assert json.loads(latent[8 : 8 + length]) == {
        "latent_tensor": {"dtype": "F32", "shape": [1, 4, 8, 16], "data_offsets": [0, 2048]}
    }

    glb = stripped(tmp_path, a_glb(), "model/gltf-binary")
    scene = json.loads(glb[20 : 20 + struct.unpack_from("<I", glb, 12)[0]])
    assert scene == {"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(MEDIA)}]}


@pytest.mark.parametrize("name", [*IMAGES, *(name for name in MEDIA_FILES if name != "latent")])
def test_a_damaged_file_is_not_stripped(name: str, tmp_path: Path) -> None:
    content_type, make = (IMAGES | MEDIA_FILES)[name]
    source, target = tmp_path / "source", tmp_path / "target"
    data = make()
    # An MP3 has no length anywhere but in its tag, so it must end there to be damaged.
    cut = data.index(SECRET.encode("utf-16-le")) if name == "mp3" else min(data.find(SECRET.encode()), len(data) // 2)
    too_short, of_another_kind, empty = data[:cut], b"GIF9" + data[4:12][::-1], b""
    for damaged in (too_short, of_another_kind, empty):
        source.write_bytes(damaged)
        with pytest.raises(OutputNotConvertible, match="source cannot be removed"):
            strip(source, target, content_type)
        assert not target.exists()


@pytest.mark.parametrize("header", [b"{" * 60_000, b'{"a":', b"{\xff}"], ids=["too deep", "cut off", "no text"])
def test_a_latent_with_a_broken_header_is_not_stripped(header: bytes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(len(header).to_bytes(8, "little") + header)

    with pytest.raises(OutputNotConvertible):
        strip(source, tmp_path / "target", "application/octet-stream")


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "text/plain"),
        (b"a text, with prompt", "text/plain"),
        (bytes(500), "application/octet-stream"),
        (b"\0\0\0\x1cftypavif" + bytes(50), "image/avif"),
        (saved(picture(), "TIFF"), "image/tiff"),
        (ogg_pages([b"\x80theora" + bytes(40)]), "video/ogg"),
    ],
    ids=["empty", "text", "zeros", "avif", "tiff", "theora"],
)
def test_kinds_that_cannot_be_stripped_are_left_alone(data: bytes, content_type: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)

    assert not strip(source, target, content_type)
    assert not target.exists()


def wanted(name: str | None, *, strip_metadata: bool = False, **options: Any) -> Conversion:
    convert_to = None if name is None else {"format": name, **options}
    found = Conversion.from_options(OutputOptions.from_json({"convert": convert_to, "strip_metadata": strip_metadata}))
    assert found is not None
    return found


def converted(tmp_path: Path, data: bytes, content_type: str, conversion: Conversion) -> Image.Image:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    result = convert(source, target, content_type, conversion)
    extension = {"webp": ".webp", "jpeg": ".jpg", "png": ".png"}[conversion.format or ""]
    assert result == Converted(
        extension=extension, content_type=f"image/{conversion.format}", size_bytes=target.stat().st_size
    )
    image = Image.open(io.BytesIO(target.read_bytes()))
    assert (image.format or "").lower() == conversion.format
    return image


def is_left(tmp_path: Path, data: bytes, content_type: str, conversion: Conversion) -> bool:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    return convert(source, target, content_type, conversion) is None and not target.exists()


def distance(a: Image.Image, b: Image.Image) -> float:
    """The mean difference of two pictures' colours, 0 to 255."""
    assert a.size == b.size
    return float(np.abs(np.asarray(a.convert("RGB"), float) - np.asarray(b.convert("RGB"), float)).mean())


@pytest.mark.parametrize("name", ["webp", "jpeg", "png"])
def test_a_picture_is_the_same_in_another_format(name: str, tmp_path: Path) -> None:
    for form in {"PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"} - {name.upper()}:
        image = converted(tmp_path, saved(picture(), form), f"image/{form.lower()}", wanted(name))
        assert distance(image, picture()) < 12, form


@pytest.mark.parametrize("name", ["webp", "jpeg", "png"])
def test_a_picture_that_has_the_format_already_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    assert is_left(tmp_path, saved(picture(), name), f"image/{name}", wanted(name, quality=1))


def test_a_lossless_webp_has_the_same_pixels_also_where_they_are_invisible(tmp_path: Path) -> None:
    for drawn in (picture("RGBA", (200, 120)), Image.new("RGBA", (16, 16), (200, 100, 50, 0))):
        image = converted(tmp_path, saved(drawn, "PNG"), "image/png", wanted("webp", lossless=True))
        assert image.convert("RGBA").tobytes() == drawn.tobytes()


def test_a_higher_quality_makes_a_larger_file(tmp_path: Path) -> None:
    data = saved(picture("RGBA", (200, 120)), "PNG")
    sizes = []
    for quality in (5, 95):
        converted(tmp_path, data, "image/png", wanted("jpeg", quality=quality))
        sizes.append((tmp_path / "target").stat().st_size)
    assert sizes[0] < sizes[1]


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        converted(tmp_path, an_apng(), "image/png", wanted("webp"))
        results.append((tmp_path / "target").read_bytes())

    assert results[0] == results[1]


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.new("RGBA", (16, 16), (200, 0, 0, 0)), "PNG"),
        saved(Image.new("LA", (16, 16), (0, 0)), "PNG"),
        saved(Image.new("P", (16, 16), 0), "PNG", transparency=0),
        saved(Image.new("RGB", (16, 16), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        saved(Image.new("P", (16, 16), 0), "GIF", transparency=0),
    ],
    ids=["rgba", "la", "palette", "colour key", "gif"],
)
def test_transparency_is_white_in_a_jpeg_and_stays_elsewhere(data: bytes, tmp_path: Path) -> None:
    content_type = "image/gif" if data.startswith(b"GIF") else "image/png"

    assert converted(tmp_path, data, content_type, wanted("jpeg")).getpixel((8, 8)) == (255, 255, 255)
    for name in {"webp", "png"} - {content_type.removeprefix("image/")}:
        image = converted(tmp_path, data, content_type, wanted(name)).convert("RGBA")
        assert image.getchannel("A").getextrema() == (0, 0)


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    data = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), "PNG")

    pixel = converted(tmp_path, data, "image/png", wanted("jpeg")).getpixel((8, 8))

    assert isinstance(pixel, tuple)
    assert all(abs(value - 127) <= 2 for value in pixel)


def test_sixteen_bits_of_grey_become_eight_except_in_a_png(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((16, 16), 0x8000, np.uint16))

    for name in ("webp", "jpeg"):
        image = converted(tmp_path, saved(grey, "PNG"), "image/png", wanted(name)).convert("L")
        assert np.asarray(image) == pytest.approx(127, abs=2)
    image = converted(tmp_path, saved(grey, "TIFF"), "image/tiff", wanted("png"))
    assert (image.mode, image.getpixel((3, 3))) == ("I;16", 0x8000)


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = converted(tmp_path, a_jpeg(), "image/jpeg", wanted("png"))

    assert image.size == (24, 40)
    assert distance(image, picture().transpose(Image.Transpose.ROTATE_270)) < 12
    assert 0x0112 not in image.getexif()


def test_a_colour_profile_is_kept_where_it_fits(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    of_cmyk = profile[:16] + b"CMYK" + profile[20:]

    for name in ("webp", "jpeg"):
        data = saved(picture("RGBA"), "PNG", icc_profile=profile)
        assert converted(tmp_path, data, "image/png", wanted(name)).info["icc_profile"] == profile
        data = saved(picture("CMYK"), "TIFF", icc_profile=of_cmyk)
        assert "icc_profile" not in converted(tmp_path, data, "image/tiff", wanted(name)).info


@pytest.mark.parametrize(
    ("content_type", "data"),
    [("image/png", a_png()), ("image/png", an_apng()), ("image/tiff", saved(picture(), "TIFF", exif=exif()))],
    ids=["png", "apng", "tiff"],
)
def test_the_graph_goes_along_to_where_comfyui_would_write_it(content_type: str, data: bytes, tmp_path: Path) -> None:
    image = converted(tmp_path, data, content_type, wanted("webp"))
    assert image.getexif()[0x0110] == f"prompt:{PROMPT}"
    assert image.getexif()[0x010F] == f"workflow:{WORKFLOW}"

    converted(tmp_path, data, content_type, wanted("webp", strip_metadata=True))
    assert not leaks((tmp_path / "target").read_bytes())


def test_the_graph_goes_along_from_webp_to_png(tmp_path: Path) -> None:
    data = IMAGES["webp"][1]()

    image = converted(tmp_path, data, "image/webp", wanted("png"))
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.text == {"prompt": PROMPT, "workflow": WORKFLOW}

    converted(tmp_path, data, "image/webp", wanted("png", strip_metadata=True))
    assert not leaks((tmp_path / "target").read_bytes())


def test_a_graph_outside_ascii_goes_along(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", '{"6": "灯台 é"}')

    image = converted(tmp_path, saved(picture(), "PNG", pnginfo=texts), "image/png", wanted("webp"))

    assert json.loads(image.getexif()[0x0110].removeprefix("prompt:")) == {"6": "灯台 é"}


@pytest.mark.parametrize("name", ["png", "webp", "gif"])
def test_a_jpeg_carries_no_graph(name: str, tmp_path: Path) -> None:
    content_type, make = IMAGES[name]

    converted(tmp_path, make(), content_type, wanted("jpeg"))

    assert not leaks((tmp_path / "target").read_bytes())


@pytest.mark.parametrize(("form", "loop", "plays"), [("GIF", 0, 0), ("GIF", 3, 4), ("GIF", None, 1), ("PNG", 3, 3)])
def test_an_animation_keeps_frames_times_and_repeats_as_webp(
    form: str, loop: int | None, plays: int, tmp_path: Path
) -> None:
    data = animation(form, **({} if loop is None else {"loop": loop}))

    image = converted(tmp_path, data, f"image/{form.lower()}", wanted("webp", lossless=True))

    assert image.info["loop"] == plays
    assert frames_of((tmp_path / "target").read_bytes()) == frames_of(data)
    assert [time for _, time in frames_of(data)] == [50, 120, 80, 200]


@pytest.mark.parametrize(
    ("data", "content_type", "name"),
    [
        (animation("GIF"), "image/gif", "jpeg"),
        (animation("PNG"), "image/png", "jpeg"),
        (animation("WEBP"), "image/webp", "png"),
        (animation("TIFF"), "image/tiff", "webp"),
        (saved(Image.new("L", (17_000, 2)), "PNG"), "image/png", "webp"),
        (saved(Image.new("F", (8, 8), 0.5), "TIFF"), "image/tiff", "png"),
        (an_mp4(), "video/mp4", "webp"),
        (b"a text", "text/plain", "webp"),
    ],
    ids=[
        "gif's frames",
        "apng's frames",
        "webp's frames",
        "tiff's pages",
        "too wide",
        "floating point",
        "a film",
        "a text",
    ],
)
def test_what_the_format_cannot_hold_is_left_as_it_is(
    data: bytes, content_type: str, name: str, tmp_path: Path
) -> None:
    assert is_left(tmp_path, data, content_type, wanted(name))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_damaged_picture_is_not_converted(form: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = saved(picture(), form)
    for damaged in (data[: len(data) // 2], data[:20], b"no picture", b""):
        source.write_bytes(damaged)
        with pytest.raises(OutputNotConvertible, match="source cannot be converted"):
            convert(source, target, f"image/{form.lower()}", wanted("jpeg" if form != "JPEG" else "png"))
        assert not target.exists()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [25_000, 60_000])
def test_a_decompression_bomb_is_refused(side: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    small = saved(picture(), "PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    source.write_bytes(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])

    with pytest.raises(OutputNotConvertible, match=r"Too large|too many pixels"):
        convert(source, tmp_path / "target", "image/png", wanted("jpeg"))


def test_a_fault_of_the_machine_is_no_fault_of_the_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(a_png())

    for target in (tmp_path / "no such folder" / "target", tmp_path):
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            convert(source, target, "image/png", wanted("webp"))
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            strip(source, target, "image/png")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "gone", tmp_path / "target", "image/png", wanted("webp"))


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        ({}, None),
        ({"s3": {"bucket": "b"}, "strip_metadata": False}, None),
        ({"strip_metadata": True}, (None, 0, False, True)),
        ({"convert": {"format": "webp"}}, ("webp", 80, False, False)),
        ({"convert": {"format": "jpeg"}, "strip_metadata": True}, ("jpeg", 90, False, True)),
        ({"convert": {"format": "webp", "quality": 1, "lossless": True}}, ("webp", 1, True, False)),
    ],
)
def test_wishes_are_read(delivery: dict[str, Any], expected: tuple[Any, ...] | None) -> None:
    found = Conversion.from_options(OutputOptions.from_json(delivery))

    assert (found and (found.format, found.quality, found.lossless, found.strip_metadata)) == expected


def test_a_format_of_a_newer_version_is_refused() -> None:
    options = OutputOptions.from_json({"convert": {"format": "avif", "speed": 4}})

    with pytest.raises(InvalidRequest, match=re.escape("convert.format")):
        Conversion.from_options(options)
