"""Draws the picture a model would have made: from the prompt and the seed, always the same, and stamped SIMULATED."""

from __future__ import annotations

import colorsys
import dataclasses
import hashlib
import math
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

STAMP = "SIMULATED"

#: Red, green, blue, 0..255 each.
Colour = tuple[int, int, int]
_PALETTE_COLOURS = 4
#: How far the orbs of a video wander, as a share of the shorter side.
_SWAY = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sketch:
    """What decides how a picture looks."""

    prompt: str
    negative: str
    seed: int
    #: Models and LoRAs, for the caption.
    model: str
    steps: int
    #: 1.0 paints over everything; less lets the source picture shine through.
    denoise: float = 1.0
    #: Four colours, of a style picture; empty: prompt and seed choose them.
    palette: tuple[Colour, ...] = ()


def draw(
    sketch: Sketch,
    width_px: int,
    height_px: int,
    index: int = 0,
    source: Image.Image | None = None,
    *,
    moment: float = 0.0,
) -> Image.Image:
    """The finished picture number `index` of a batch, RGB.

    Parameters:
      moment: how far a video has got, 0..1. At 1 it is where it began.
    """
    digest = hashlib.sha256(f"{sketch.prompt}\0{sketch.negative}\0{sketch.seed}\0{index}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    palette = list(sketch.palette) or _palette(rng)
    picture = _sky(rng, palette, width_px, height_px)
    turn = moment * 2 * math.pi
    _draw_orbs(rng, palette, picture, turn)
    _draw_hills(rng, palette, picture, turn)
    if source is not None and sketch.denoise < 1.0:
        under = source.convert("RGB").resize(picture.size)
        picture = Image.blend(under, picture, max(sketch.denoise, 0.15))
    _caption(picture, sketch, index)
    return picture


def noisy(picture: Image.Image, share_done: float, seed: int) -> Image.Image:
    """How far a sampler is: the picture coming out of noise, for previews. `share_done` is 0..1."""
    rng = np.random.default_rng(seed & 0xFFFFFFFF)
    noise = Image.fromarray(rng.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8))
    return Image.blend(noise, picture.convert("RGB"), min(max(share_done, 0.0), 1.0))


def main_colours(picture: Image.Image) -> tuple[Colour, ...]:
    """The four colours a picture is mostly made of, the brightest first."""
    small = picture.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    found = np.unique(np.asarray(small.quantize(_PALETTE_COLOURS).convert("RGB")).reshape(-1, 3), axis=0).tolist()
    # A plain picture has fewer than four.
    colours = [(r, g, b) for r, g, b in (found * _PALETTE_COLOURS)[:_PALETTE_COLOURS]]
    return tuple(sorted(colours, key=sum, reverse=True))


def _palette(rng: np.random.Generator) -> list[Colour]:
    hue = float(rng.random())
    # Neighbouring hues and one from across the circle: pleasant together whatever the seed.
    hues = [hue, hue + 0.07, hue + 0.14, hue + 0.5]
    tones = [(0.55, 0.95), (0.6, 0.75), (0.65, 0.5), (0.7, 1.0)]
    return [_rgb(h % 1.0, s, v) for h, (s, v) in zip(hues, tones, strict=True)]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _sky(rng: np.random.Generator, palette: list[Colour], width_px: int, height_px: int) -> Image.Image:
    angle = float(rng.uniform(-0.6, 0.6))
    # A gradient has no detail: computed small and scaled up, it costs next to nothing.
    ys, xs = np.mgrid[0:64, 0:64] / 63.0
    share = np.clip(ys * np.cos(angle) + (xs - 0.5) * np.sin(angle), 0, 1)[..., None]
    top, bottom = np.array(palette[2], dtype=np.float32), np.array(palette[0], dtype=np.float32)
    small = (top * (1 - share) + bottom * share).astype(np.uint8)
    return Image.fromarray(small).resize((width_px, height_px), Image.Resampling.BICUBIC)


def _draw_orbs(rng: np.random.Generator, palette: list[Colour], picture: Image.Image, turn: float) -> None:
    """`turn`: how far each of them is on its circle, in radians."""
    brush = ImageDraw.Draw(picture, "RGBA")
    extent = min(picture.size)
    for number in range(int(rng.integers(3, 7))):
        x, y = float(rng.uniform(0, picture.width)), float(rng.uniform(0, picture.height * 0.6))
        radius = float(rng.uniform(0.04, 0.16)) * extent
        colour = palette[3 if number == 0 else int(rng.integers(0, 3))]
        x, y = x + _SWAY * extent * math.sin(turn), y + _SWAY * extent * (1 - math.cos(turn))
        for ring in range(4):
            r = radius * (1.6 - 0.2 * ring)
            brush.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, 40 + 50 * ring))


def _draw_hills(rng: np.random.Generator, palette: list[Colour], picture: Image.Image, turn: float) -> None:
    """`turn`: how far the farthest of them has rolled on, in radians; the nearer, the faster."""
    brush = ImageDraw.Draw(picture, "RGBA")
    width, height = picture.size
    xs = np.linspace(0, width, 48)
    for layer in range(3):
        base = height * (0.58 + 0.13 * layer)
        waves = np.zeros_like(xs)
        for _ in range(3):
            phase = xs / width * float(rng.uniform(2, 9)) + float(rng.uniform(0, 6.28)) + turn * (layer + 1)
            waves += np.sin(phase) * height * 0.05
        line = [(float(x), float(y)) for x, y in zip(xs, base + waves, strict=True)]
        shade = tuple(round(part * (0.75 - 0.18 * layer)) for part in palette[layer])
        brush.polygon([(0, height), *line, (width, height)], fill=(shade[0], shade[1], shade[2], 235))


def _caption(picture: Image.Image, sketch: Sketch, index: int) -> None:
    width, height = picture.size
    brush = ImageDraw.Draw(picture, "RGBA")
    stamp_font = ImageFont.load_default(max(8, width // 11))
    text_font = ImageFont.load_default(max(8, width // 30))
    brush.text((width / 2, height * 0.12), STAMP, font=stamp_font, anchor="mm", fill="white", stroke_fill="black",
               stroke_width=max(1, width // 256))  # fmt: skip
    if height < 128:
        return
    lines = textwrap.wrap(sketch.prompt, 48, max_lines=4, placeholder=" ...") or ["(no prompt)"]
    lines.append(f"{sketch.model} - seed {sketch.seed + index} - {sketch.steps} steps")
    line_px = max(8, width // 30) * 1.3
    top = height - line_px * len(lines) - line_px * 0.6
    brush.rectangle((0, top, width, height), fill=(0, 0, 0, 130))
    for number, line in enumerate(lines):
        brush.text((line_px * 0.6, top + line_px * (0.3 + number)), line, font=text_font, fill="white")
