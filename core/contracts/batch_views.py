"""The counts of a batch in the words of Comfy API v2."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import TypedDict

from core.contracts.comfy_v2 import SHOWN
from core.records.job import Status


class BatchCountsView(TypedDict):
    """Jobs of a batch by status."""

    queued: int
    running: int
    canceling: int
    succeeded: int
    failed: int
    canceled: int
    expired: int


def counts_view(counts: Mapping[Status, int]) -> BatchCountsView:
    """Return how many jobs there are in each status, as clients know it."""
    view = BatchCountsView(queued=0, running=0, canceling=0, succeeded=0, failed=0, canceled=0, expired=0)
    for status, count in counts.items():
        view[SHOWN[status]] += count
    return view
