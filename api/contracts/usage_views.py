"""What was used, as answers tell it: rows of a report with their money, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from core.gpu_costs import PriceList
from core.ledger.usage.report import UsageSum
from core.texts.spreadsheets import as_text

_EPOCH = date(1970, 1, 1)
#: Beginnings of a cell that a spreadsheet would take for a formula.
_ENDS = ("succeeded", "failed", "canceled", "expired")
_TIMES = ("gpu_s", "run_s", "load_s", "lost_s")
_REST = ("bytes_in", "bytes_out", "cost", "unpriced_s")


class EndsView(TypedDict):
    """How many jobs ended how."""

    succeeded: int
    failed: int
    canceled: int
    expired: int


class AmountsView(TypedDict):
    """What was used."""

    gpu_s: Annotated[float, Field(description="On GPUs in all: run_s, load_s and lost_s.")]
    run_s: float
    load_s: Annotated[float, Field(description="In nodes that load model files.")]
    lost_s: Annotated[float, Field(description="By attempts that were lost to faults, and had to be made again.")]
    jobs: EndsView
    bytes_in: int
    bytes_out: int
    cost: Annotated[float | None, Field(description="Of run_s and load_s; null where no prices are set.")]
    unpriced_s: Annotated[float, Field(description="Of run_s and load_s, what ran on GPUs without a price.")]


class UsageRowView(AmountsView):
    """What one group used; null where it was not grouped by that, and for jobs without a key, a template or a GPU."""

    tenant: str | None
    key_id: str | None
    key_name: str | None
    template: str | None
    gpu: str | None
    day: Annotated[str | None, Field(description="In UTC.")]


class KeptView(TypedDict):
    """What is kept now."""

    tenant: str
    bytes: int


class UsageView(TypedDict):
    """What was used in some days."""

    since: Annotated[str, Field(description="The first day.")]
    until: Annotated[str, Field(description="The last day.")]
    by: list[str]
    currency: str | None
    rows: list[UsageRowView]
    total: AmountsView
    kept: Annotated[list[KeptView] | None, Field(description="Null unless it was asked for.")]
    unpriced_gpus: Annotated[list[str], Field(description="Kinds of GPU that ran jobs and have no price.")]


class UsageReport:
    """Sums of the ledger, grouped, with their money.

    Parameters:
      by: what the sums are grouped by, as the ledger calls it.
    """

    def __init__(self, by: Sequence[str], sums: Sequence[UsageSum], prices: PriceList) -> None:
        self._by = by
        self._prices = prices
        self._groups: dict[tuple[Any, ...], list[UsageSum]] = {}
        for each in sums:
            self._groups.setdefault(each.group, []).append(each)
        self._all = sums

    @property
    def key_ids(self) -> set[str]:
        """The keys that rows are about."""
        place = self._by.index("key_id") if "key_id" in self._by else None
        return set() if place is None else {group[place] for group in self._groups} - {""}

    @property
    def unpriced_gpus(self) -> list[str]:
        """Kinds of GPU that ran jobs and have no price."""
        return sorted({each.gpu for each in self._all if _busy_ms(each) and self._cost(each) is None})

    def rows(self, key_names: Mapping[str, str]) -> list[UsageRowView]:
        """Return a row for each group, in the ledger's order."""
        return [self._row(group, sums, key_names) for group, sums in self._groups.items()]

    def total(self) -> AmountsView:
        """Return the sum of all rows."""
        return self._amounts(self._all)

    def _row(self, group: tuple[Any, ...], sums: Sequence[UsageSum], key_names: Mapping[str, str]) -> UsageRowView:
        named = dict(zip(self._by, group, strict=True))
        key_id, day = named.get("key_id") or None, named.get("day")
        return {
            "tenant": named.get("tenant"),
            "key_id": key_id,
            "key_name": None if key_id is None else key_names.get(key_id),
            "template": named.get("template") or None,
            "gpu": named.get("gpu") or None,
            "day": None if day is None else day_text(day),
            **self._amounts(sums),
        }

    def _amounts(self, sums: Sequence[UsageSum]) -> AmountsView:
        def of(name: str) -> int:
            return sum(each.amounts[name] for each in sums)

        costs = [(self._cost(each), _busy_ms(each)) for each in sums]
        priced = sum((cost for cost, _ in costs if cost is not None), start=Decimal(0))
        return {
            "gpu_s": (of("run_ms") + of("load_ms") + of("lost_ms")) / 1000,
            "run_s": of("run_ms") / 1000,
            "load_s": of("load_ms") / 1000,
            "lost_s": of("lost_ms") / 1000,
            "jobs": {
                "succeeded": of("succeeded"),
                "failed": of("failed"),
                "canceled": of("canceled"),
                "expired": of("expired"),
            },
            "bytes_in": of("bytes_in"),
            "bytes_out": of("bytes_out"),
            "cost": None if self._prices.currency is None else float(round(priced, 6)),
            "unpriced_s": sum(busy_ms for cost, busy_ms in costs if cost is None) / 1000,
        }

    def _cost(self, each: UsageSum) -> Decimal | None:
        return self._prices.cost(each.gpu, _busy_ms(each))


def csv_of(rows: Sequence[UsageRowView], by: Sequence[str]) -> str:
    """Return rows as CSV with a heading: what they are grouped by, then the amounts."""
    named = [column for name in by for column in ((name, "key_name") if name == "key_id" else (name,))]
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow([*named, *_TIMES, *_ENDS, *_REST])
    for row in rows:
        cells: Mapping[str, Any] = {**row, **row["jobs"]}
        writer.writerow([_cell(cells[column]) for column in (*named, *_TIMES, *_ENDS, *_REST)])
    return written.getvalue()


def day_text(day: int) -> str:
    """Return a day that is counted from 1970 as people write it."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def _busy_ms(each: UsageSum) -> int:
    return each.amounts["run_ms"] + each.amounts["load_ms"]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return as_text(value) if isinstance(value, str) else value
