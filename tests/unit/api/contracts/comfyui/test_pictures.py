"""Pictures in another form."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from api.contracts.comfyui.pictures import PLAIN, Shown, shown_as, with_mask
from core.errors import InvalidRequest


def png(size: tuple[int, int] = (4, 2), color: tuple[int, ...] = (10, 20, 30, 40)) -> bytes:
    target = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({}, PLAIN),
        ({"channel": "rgba"}, PLAIN),
        ({"channel": "a"}, Shown(channel="a")),
        ({"preview": "jpeg"}, Shown(format="jpeg")),
        ({"preview": "webp;50", "channel": "rgb"}, Shown(format="webp", quality=50, channel="rgb")),
        ({"preview": "bmp;x"}, Shown(format="webp")),
        ({"preview": "jpeg;900"}, Shown(format="jpeg", quality=100)),
    ],
)
def test_what_is_asked_for(query: dict[str, str], shown: Shown) -> None:
    assert shown_as(query) == shown


@pytest.mark.parametrize(
    ("shown", "content_type", "mode", "pixel"),
    [
        (Shown(channel="rgb"), "image/png", "RGB", (10, 20, 30)),
        (Shown(channel="a"), "image/png", "RGBA", (0, 0, 0, 40)),
        (Shown(format="jpeg"), "image/jpeg", "RGB", None),
        (Shown(format="webp"), "image/webp", "RGBA", None),
        (Shown(format="webp", channel="rgb"), "image/webp", "RGB", None),
    ],
)
def test_it_is_made(shown: Shown, content_type: str, mode: str, pixel: tuple[int, ...] | None) -> None:
    data, kind = shown.made_of(png(), max_pixels=100)
    with Image.open(io.BytesIO(data)) as made:
        assert (kind, made.mode, made.size) == (content_type, mode, (4, 2))
        assert pixel is None or made.getpixel((0, 0)) == pixel


def test_a_mask_brings_its_alpha() -> None:
    made = with_mask(png(color=(1, 2, 3)), io.BytesIO(png((2, 1), (0, 0, 0, 7))), max_pixels=100)
    with Image.open(made) as picture:
        assert picture.size == (4, 2)
        assert picture.getpixel((0, 0)) == (1, 2, 3, 7)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", png((40, 40))])
def test_what_is_no_picture_or_too_large_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Shown(format="webp").made_of(content, max_pixels=100)
    with pytest.raises(InvalidRequest):
        with_mask(content, io.BytesIO(png()), max_pixels=100)
