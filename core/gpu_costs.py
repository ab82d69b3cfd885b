"""What GPU time costs, by the prices that the operator has set for kinds of GPU."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from core.settings.value_types import GpuPrice

_HOUR_MS = 3_600_000


class PriceList:
    """The prices of one server; empty where none are set."""

    def __init__(self, prices: Sequence[GpuPrice]) -> None:
        # The more is said of a kind, the more is meant: RTX 4090 D goes before RTX 4090.
        self._prices = sorted(prices, key=lambda price: -len(price.kind))

    @property
    def currency(self) -> str | None:
        """Three letters; None without prices."""
        return self._prices[0].currency if self._prices else None

    def cost(self, gpu: str, busy_ms: int) -> Decimal | None:
        """Return what so much time on a GPU costs; None: its kind has no price.

        Parameters:
          gpu: in its instance's words, of which a price's kind is a part.
        """
        name = gpu.casefold()
        for price in self._prices:
            if price.kind in name:
                return price.per_hour * busy_ms / _HOUR_MS
        return None
