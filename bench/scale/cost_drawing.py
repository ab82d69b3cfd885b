"""Draws what a job costs over the size of the fleet, as an SVG: a panel for each thing that is counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from bench.scale.fleet_costs import Costs
from bench.scale.meters import Reading
from bench.scheduling.drawing import DARK, STYLE

_WIDTH, _HEIGHT, _TOP = 180, 200, 80
_LEFT: Final = (50, 280, 510, 740)
_HEAD: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 380" width="960" height="380" role="img" \
aria-labelledby="title desc">
  <title id="title">What a job costs, over the number of GPUs</title>
  <desc id="desc">Ledger transactions, messages and bytes of the broker, and processor time for one job, on fleets
    of 10 GPUs and more: they stay the same, and what a fleet does anyway is shared. The figures are in
    docs/scale.md.</desc>
  <style>
{STYLE}    .curve {{ fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke: #1d5fa8; }}
    .whole {{ stroke: #9a3412; stroke-dasharray: 3 3; }}
    .dot {{ fill: #1d5fa8; }} .dot.whole {{ fill: #9a3412; stroke: none; }}
    @media (prefers-color-scheme: dark) {{
{DARK}      .curve {{ stroke: #79b8ff; }} .dot {{ fill: #79b8ff; }}
      .whole {{ stroke: #fb923c; }} .dot.whole {{ fill: #fb923c; }}
    }}
  </style>
  <rect class="page" x="0.5" y="0.5" width="959" height="379" rx="10"/>
"""


def _messages(costs: Reading) -> float:
    return costs["messages in"] if "messages in" in costs else costs["commands"]


def _processor_ms(costs: Reading) -> float:
    return 1000 * sum(amount for name, amount in costs.items() if name.startswith("cpu s"))


_PANELS: Final[tuple[tuple[str, Callable[[Reading], float]], ...]] = (
    ("transactions", lambda costs: costs["transactions"]),
    ("messages", _messages),
    ("kB through the broker", lambda costs: costs["broker bytes"] / 1000),
    ("ms of processor", _processor_ms),
)


def picture(found: Sequence[Costs]) -> str:
    """Return the SVG."""
    parts = [_HEAD]
    for left, (name, amount_of) in zip(_LEFT, _PANELS, strict=True):
        full = [amount_of(each.full) for each in found]
        whole = [amount_of(each.whole) for each in found]
        most = 1.25 * max(*full, *whole)
        parts.append(f'  <text class="name" x="{left}" y="36">{name}</text>\n')
        parts.append(f'  <path class="grid" d="M{left} {_TOP + _HEIGHT} h{_WIDTH}"/>\n')
        parts += _curve(left, found, full, most, "")
        parts += _curve(left, found, whole, most, " whole")
        for each in found:
            x = _x(left, found, each)
            parts.append(f'  <text class="note middle" x="{x:.1f}" y="{_TOP + _HEIGHT + 20}">{each.work.gpus}</text>\n')
        middle = left + _WIDTH / 2
        parts.append(f'  <text class="note middle" x="{middle}" y="{_TOP + _HEIGHT + 42}">GPUs</text>\n')
    parts.append('  <path class="curve" d="M50 352 h34"/>\n')
    parts.append('  <text class="note" x="92" y="356">what a job costs</text>\n')
    parts.append('  <path class="curve whole" d="M280 352 h34"/>\n')
    parts.append(
        '  <text class="note" x="322" y="356">with all that the fleet does meanwhile, whether it works or not</text>\n'
    )
    return "".join(parts) + "</svg>\n"


def _curve(left: float, found: Sequence[Costs], amounts: Sequence[float], most: float, kind: str) -> list[str]:
    dots = [
        (_x(left, found, each), _TOP + _HEIGHT * (1 - amount / most), amount)
        for each, amount in zip(found, amounts, strict=True)
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots)
    parts = [f'  <polyline class="curve{kind}" points="{points}"/>\n']
    for x, y, amount in dots:
        parts.append(f'  <circle class="dot{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>\n')
        parts.append(f'  <text class="note middle" x="{x:.1f}" y="{y - 9:.1f}">{amount:.3g}</text>\n')
    return parts


def _x(left: float, found: Sequence[Costs], each: Costs) -> float:
    """Where a fleet of a size stands: by the logarithm of its GPUs."""
    least, most = (math.log(of.work.gpus) for of in (found[0], found[-1]))
    share = 0.5 if most == least else (math.log(each.work.gpus) - least) / (most - least)
    return left + _WIDTH * (0.08 + 0.84 * share)
