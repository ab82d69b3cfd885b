"""What GPU time costs: by the longest part of a kind's name that has a price, and never silently nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest

from core.errors import ConfigurationError
from core.gpu_costs import PriceList
from core.settings import Settings, load_settings

HOUR_MS = 3_600_000


def prices(text: str) -> PriceList:
    return PriceList(load_settings(gpu_prices=text).gpu_prices)


def test_a_kind_is_known_by_a_part_of_its_name_in_any_letters() -> None:
    found = prices("rtx 4090=0.45 EUR, H100=2.50 EUR")
    assert found.currency == "EUR"
    assert found.cost("cuda:0 NVIDIA GeForce RTX 4090", 2 * HOUR_MS) == Decimal("0.90")
    assert found.cost("NVIDIA H100 PCIe", HOUR_MS // 2) == Decimal("1.25")


def test_the_longest_part_counts() -> None:
    found = prices("RTX 4090=1 USD,RTX 4090 D=2 USD")
    assert found.cost("RTX 4090 D", HOUR_MS) == 2
    assert found.cost("RTX 4090", HOUR_MS) == 1


def test_what_has_no_price_has_none() -> None:
    assert prices("H100=2.50 EUR").cost("A100", HOUR_MS) is None
    assert (prices("").currency, prices("").cost("A100", HOUR_MS)) == (None, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("H100=2.50", "no price"),
        ("=2.50 EUR", "no price"),
        ("H100=-1 EUR", "no price"),
        ("H100=free EUR", "no price"),
        ("H100=1 EUR, h100=2 EUR", "two prices"),
        ("H100=1 EUR, A100=2 USD", "one currency"),
    ],
)
def test_a_price_that_cannot_be_read_stops_the_start(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"COMFYLINE_GPU_PRICES.*{reason}"):
        load_settings(gpu_prices=text)


def test_settings_with_prices_can_be_compared_and_kept_in_sets() -> None:
    assert len({load_settings(gpu_prices="H100=1 EUR").gpu_prices, Settings().gpu_prices}) == 2
