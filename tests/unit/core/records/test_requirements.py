"""What a job requires: which GPU has it, and what becomes of a template's requirements beside a job's own."""

from __future__ import annotations

import pytest

from core.records.requirements import Requirements

H100 = Requirements(pool="h100", vram_gb=24.0)


@pytest.mark.parametrize(
    ("requires", "pool", "vram_bytes", "is_met"),
    [
        (H100, "h100", 24_000_000_000, True),
        (H100, "h100", 23_999_999_999, False),
        (H100, "a100", 80_000_000_000, False),
        (H100, None, 80_000_000_000, False),
        (H100, "h100", None, True),
        (Requirements(pool="h100"), "h100", 1, True),
        (Requirements(vram_gb=24.0), None, 24_000_000_000, True),
        (Requirements(), None, None, True),
    ],
)
def test_all_that_is_said_has_to_hold(
    requires: Requirements, pool: str | None, vram_bytes: int | None, is_met: bool
) -> None:
    assert requires.are_met_by(pool=pool, vram_bytes=vram_bytes) is is_met


@pytest.mark.parametrize(
    ("own", "together"),
    [
        (Requirements(), H100),
        (Requirements(pool="a100"), Requirements(pool="a100", vram_gb=24.0)),
        (Requirements(vram_gb=0.0), Requirements(pool="h100", vram_gb=0.0)),
        (Requirements(pool="b", vram_gb=8.0), Requirements(pool="b", vram_gb=8.0)),
    ],
)
def test_ones_own_count_field_by_field(own: Requirements, together: Requirements) -> None:
    assert own.over(H100) == together


def test_over_nothing_they_stay() -> None:
    assert H100.over(None) == H100
