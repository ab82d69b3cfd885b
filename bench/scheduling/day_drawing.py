"""Draws a day of a fleet that is scaled, as an SVG: how many GPUs there were, and how long jobs waited."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.scheduling.drawing import DARK, STYLE

#: From a value to its height in a panel, 0 to 1.
Scale = Callable[[float], float]

_LEFT: Final = 70
_WIDTH: Final = 850
_PANELS: Final = ((60, 230), (350, 200))
_LEAST_S, _MOST_S = 1.0, 1_000.0
_HEAD: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 650" width="960" height="650" role="img" \
aria-labelledby="title desc">
  <title id="title">A day of a scaled fleet, for each rule</title>
  <desc id="desc">Above: how many GPUs there were over 24 hours, and how many the work that came would have kept busy.
    Below: how long 95 of 100 jobs of each half hour waited. The figures are in bench/README.md.</desc>
  <style>
{STYLE}    .area {{ fill: #cbd2d9; fill-opacity: 0.6; stroke: none; }}
    .curve {{ fill: none; stroke-width: 1.6; stroke-linejoin: round; }}
    .rule0 {{ stroke: #1d5fa8; stroke-width: 2.6; }} .rule1 {{ stroke: #9a3412; stroke-dasharray: 2 3; }}
    .rule2 {{ stroke: #7c3aed; stroke-dasharray: 7 4; }}
    @media (prefers-color-scheme: dark) {{
{DARK}      .area {{ fill: #3e4c59; }}
      .rule0 {{ stroke: #79b8ff; }} .rule1 {{ stroke: #fb923c; }} .rule2 {{ stroke: #c4b5fd; }}
    }}
  </style>
  <rect class="page" x="0.5" y="0.5" width="959" height="649" rx="10"/>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCurve:
    """One rule over the day: values at equal distances in time."""

    name: str
    gpus: Sequence[float]
    p95_s: Sequence[float]


def picture(curves: Sequence[DayCurve], offered: Sequence[float], most: int) -> str:
    """Return the SVG. Parameters: offered - GPUs that the work which came would have kept busy."""
    parts = [_HEAD]
    parts.append(_panel(0, "GPUs", {count: f"{count}" for count in range(0, most + 1, 50)}, lambda y: y / most))
    top, height = _PANELS[0]
    area = " ".join(f"{x:.1f},{top + height * (1 - min(1.0, y / most)):.1f}" for x, y in _across(offered))
    parts.append(f'  <polygon class="area" points="{_LEFT},{top + height} {area} {_LEFT + _WIDTH},{top + height}"/>\n')
    ticks = {1: "1 s", 10: "10 s", 100: "100 s", 1_000: "1,000 s"}
    parts.append(_panel(1, "95 of 100 jobs of each half hour waited at most", ticks, _log))
    for number, curve in enumerate(curves):
        parts.append(_line(0, number, curve.gpus, lambda y: min(1.0, y / most)))
        parts.append(_line(1, number, curve.p95_s, _log))
        x = _LEFT + 230 * number
        parts.append(f'  <path class="curve rule{number}" d="M{x} 620 h34"/>\n')
        parts.append(f'  <text class="note" x="{x + 42}" y="624">{curve.name}</text>\n')
    parts.append(f'  <rect class="area" x="{_LEFT + 690}" y="611" width="34" height="14"/>\n')
    parts.append(f'  <text class="note" x="{_LEFT + 732}" y="624">work that came</text>\n')
    return "".join(parts) + "</svg>\n"


def _panel(number: int, title: str, ticks: Mapping[int, str], scale: Scale) -> str:
    top, height = _PANELS[number]
    lines = [f'  <text class="name" x="{_LEFT}" y="{top - 20}">{title}</text>\n']
    for value, text in ticks.items():
        y = top + height * (1 - scale(value))
        lines.append(f'  <path class="grid" d="M{_LEFT} {y:.1f} h{_WIDTH}"/>\n')
        lines.append(f'  <text class="note end" x="{_LEFT - 6}" y="{y + 4:.1f}">{text}</text>\n')
    for hour in range(0, 25, 3):
        x = _LEFT + _WIDTH * hour / 24
        lines.append(f'  <text class="note middle" x="{x:.1f}" y="{top + height + 18}">{hour}:00</text>\n')
    return "".join(lines)


def _line(panel: int, number: int, values: Sequence[float], scale: Scale) -> str:
    top, height = _PANELS[panel]
    points = " ".join(f"{x:.1f},{top + height * (1 - scale(y)):.1f}" for x, y in _across(values))
    return f'  <polyline class="curve rule{number}" points="{points}"/>\n'


def _across(values: Sequence[float]) -> list[tuple[float, float]]:
    last = max(1, len(values) - 1)
    return [(_LEFT + _WIDTH * number / last, value) for number, value in enumerate(values)]


def _log(seconds: float) -> float:
    return math.log(min(max(seconds, _LEAST_S), _MOST_S) / _LEAST_S) / math.log(_MOST_S / _LEAST_S)
