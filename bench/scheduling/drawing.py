"""Draws waits over load as an SVG, without a library: two panels, readable on light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: How texts, pages and grids of all pictures look; on a dark page, too.
STYLE: Final = """\
    text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2933; }
    .name { font-size: 16px; font-weight: 600; }
    .note { font-size: 12.5px; fill: #52606d; }
    .middle { text-anchor: middle; }
    .end { text-anchor: end; }
    .page { fill: #f7f9fb; stroke: #cbd2d9; }
    .grid { stroke: #cbd2d9; stroke-width: 1; }
"""
DARK: Final = """\
      text { fill: #e4e7eb; }
      .note { fill: #b3bdc7; }
      .page { fill: #12181f; stroke: #3e4c59; }
      .grid { stroke: #3e4c59; }
"""
_LEFT: Final = (70, 510)
_TOP, _WIDTH, _HEIGHT = 70, 390, 290
_LEAST_S, _MOST_S = 0.1, 10_000.0
_TICKS: Final = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 100: "100 s", 1_000: "1,000 s", 10_000: "10,000 s"}
_HEAD: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 470" width="960" height="470" role="img" \
aria-labelledby="title desc">
  <title id="title">Waits over load, for each rule of scheduling</title>
  <desc id="desc">Mean and 95th percentile of the wait until a job's own work begins, from 0.1 to 0.95 of what 8 GPUs
    can do, with 6 models of which each GPU holds one. First in, first out is overloaded from 0.3 or so; ours is the
    lowest line throughout. The figures are in bench/README.md.</desc>
  <style>
{STYLE}    .curve {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
    .rule0 {{ stroke: #9a3412; stroke-dasharray: 2 3; }} .rule1 {{ stroke: #7b8794; }}
    .rule2 {{ stroke: #7c3aed; stroke-dasharray: 7 4; }} .rule3 {{ stroke: #1d5fa8; stroke-width: 3.5; }}
    @media (prefers-color-scheme: dark) {{
{DARK}      .rule0 {{ stroke: #fb923c; }} .rule1 {{ stroke: #9aa5b1; }}
      .rule2 {{ stroke: #c4b5fd; }} .rule3 {{ stroke: #79b8ff; }}
    }}
  </style>
  <rect class="page" x="0.5" y="0.5" width="959" height="469" rx="10"/>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The waits under one rule, at each load offered."""

    name: str
    offered: Sequence[float]
    mean_s: Sequence[float]
    p95_s: Sequence[float]


def picture(curves: Sequence[Curve]) -> str:
    """Return the SVG."""
    parts = [_HEAD]
    for left, title in zip(_LEFT, ("Mean wait", "95 of 100 jobs wait at most"), strict=True):
        parts.append(_panel(left, title))
        for number, curve in enumerate(curves):
            waits_s = curve.mean_s if left == _LEFT[0] else curve.p95_s
            points = " ".join(
                f"{_x(left, offered):.1f},{_y(wait_s):.1f}"
                for offered, wait_s in zip(curve.offered, waits_s, strict=True)
            )
            parts.append(f'  <polyline class="curve rule{number}" points="{points}"/>\n')
    for number, curve in enumerate(curves):
        x = 70 + 215 * number
        parts.append(f'  <path class="curve rule{number}" d="M{x} 440 h34"/>\n')
        parts.append(f'  <text class="note" x="{x + 42}" y="444">{curve.name}</text>\n')
    return "".join(parts) + "</svg>\n"


def _panel(left: float, title: str) -> str:
    lines = [f'  <text class="name" x="{left}" y="40">{title}</text>\n']
    for wait_s, text in _TICKS.items():
        y = _y(wait_s)
        lines.append(f'  <path class="grid" d="M{left} {y:.1f} h{_WIDTH}"/>\n')
        lines.append(f'  <text class="note end" x="{left - 6}" y="{y + 4:.1f}">{text}</text>\n')
    for tenth in range(1, 11):
        x = _x(left, tenth / 10)
        lines.append(f'  <text class="note middle" x="{x:.1f}" y="{_TOP + _HEIGHT + 18}">{tenth / 10:g}</text>\n')
    middle = left + _WIDTH / 2
    lines.append(
        f'  <text class="note middle" x="{middle}" y="{_TOP + _HEIGHT + 40}">work offered to each GPU</text>\n'
    )
    return "".join(lines)


def _x(left: float, offered: float) -> float:
    return left + _WIDTH * offered


def _y(wait_s: float) -> float:
    share = math.log(max(wait_s, _LEAST_S) / _LEAST_S) / math.log(_MOST_S / _LEAST_S)
    return _TOP + _HEIGHT * (1 - share)
