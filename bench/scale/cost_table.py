"""The table of docs/scale.md: what a job costs on each fleet, written where the last one stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from bench.scale.fleet_costs import Costs
from bench.scale.meters import Reading

#: The table's first row in the page, and all that follows without an empty line.
_TABLE: Final = re.compile(r"^\| \| \d[^\n]* GPUs \|\n(?:\|[^\n]*\n)+", re.MULTILINE)
#: Processes whose time is that of the fleet; light GPU workers are not what GPU workers cost.
_SERVERS: Final = ("ledger", "broker", "api, io, beat")


def _messages(costs: Reading) -> float:
    return costs["messages in"] if "messages in" in costs else costs["commands"]


def _server_ms(costs: Reading) -> float:
    return 1000 * sum(costs[f"cpu s, {name}"] for name in _SERVERS)


_ROWS: Final[tuple[tuple[str, Callable[[Costs], str]], ...]] = (
    ("jobs", lambda each: f"{each.work.jobs:,}"),
    ("transactions of the ledger", lambda each: f"{each.full['transactions']:,.0f}"),
    ("transactions, with all beside", lambda each: f"{each.whole['transactions']:,.0f}"),
    ("rows written", lambda each: f"{each.full['rows written']:,.0f}"),
    ("rows looked at", lambda each: f"{each.full['rows read']:,.0f}"),
    ("log of the ledger (WAL)", lambda each: f"{each.full['log bytes'] / 1000:,.0f} kB"),
    ("messages into the broker", lambda each: f"{_messages(each.full):,.0f}"),
    ("messages, with all beside", lambda each: f"{_messages(each.whole):,.0f}"),
    ("bytes through the broker", lambda each: f"{each.full['broker bytes'] / 1000:,.0f} kB"),
    ("processor time of ledger, broker, API, io and beat", lambda each: f"{_server_ms(each.full):,.0f} ms"),
    ("connections of the ledger, in all", lambda each: f"{each.connections:,}"),
)


def table(found: Sequence[Costs]) -> str:
    """Return the table, a column for each fleet."""
    lines = [
        _line("", [f"{each.work.gpus:,} GPUs" for each in found]),
        _line("---", ["---"] * len(found)),
        *(_line(name, [value(each) for each in found]) for name, value in _ROWS),
    ]
    return "".join(lines)


def with_table(page: str, found: Sequence[Costs]) -> str:
    """Return a page with the table in the place of the one it has. Raises ValueError: it has none."""
    written, count = _TABLE.subn(lambda _: table(found), page, count=1)
    if not count:
        raise ValueError("The page has no table that begins with `| | 10 GPUs |`.")
    return written


def _line(name: str, values: Sequence[str]) -> str:
    return " ".join(["|", *([name] if name else []), "|", " | ".join(values), "|"]) + "\n"
