"""Names of cards, and sizes."""

from __future__ import annotations

import pytest

from core.records.requirements import Requirements
from core.texts.cards import card_name, gigabytes, name_of_devices


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cuda:0 NVIDIA L4 : cudaMallocAsync", "NVIDIA L4"),
        ("cuda:11 NVIDIA L4 : native", "NVIDIA L4"),
        ("cpu", "cpu"),
    ],
)
def test_the_card_in_the_name_of_a_device(device: str, name: str) -> None:
    assert card_name(device) == name


@pytest.mark.parametrize(
    ("devices", "name"),
    [
        (["cuda:0 NVIDIA L4 : native"], "cuda:0 NVIDIA L4 : native"),
        (["cpu"], "cpu"),
        (["cuda:0 NVIDIA L4 : native", "cpu"], "cuda:0 NVIDIA L4 : native"),
        (["cuda:0 NVIDIA L4 : native", "cuda:1 NVIDIA L4 : native"], "2 x NVIDIA L4"),
        (["cuda:1 NVIDIA L4 : native", "cuda:0 NVIDIA A10 : native", "cuda:2 NVIDIA L4"], "2 x NVIDIA L4 + NVIDIA A10"),
        ([], None),
        ([None], None),
    ],
)
def test_a_process_with_several_gpus_is_named_by_its_cards(devices: list[str | None], name: str | None) -> None:
    assert name_of_devices([{"name": device} for device in devices]) == name


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (40_000_000, "0.04 GB"),
        (340_000_000, "0.3 GB"),
        (6_900_000_000, "6.9 GB"),
        (8_589_934_592, "8.5 GB"),
        (23_800_000_000, "23.8 GB"),
        (24_000_000_000, "24 GB"),
    ],
)
def test_sizes(size_bytes: int, shown: str) -> None:
    assert gigabytes(size_bytes) == shown


@pytest.mark.parametrize("size_bytes", [8_589_934_592, 23_999_999_999, 85_899_345_920, 1_000_000_000])
def test_what_is_shown_of_a_card_can_be_required_and_little_more(size_bytes: int) -> None:
    shown_gb = float(gigabytes(size_bytes).removesuffix(" GB"))
    assert Requirements(vram_gb=shown_gb).are_met_by(pool=None, vram_bytes=size_bytes)
    assert not Requirements(vram_gb=shown_gb + 0.1).are_met_by(pool=None, vram_bytes=size_bytes)
