"""What an operator says of scaling: how long jobs may wait, and how many GPUs each pool may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Stands for the pool of the GPUs without a label; no label looks like that.
NO_POOL: Final = "-"


@dataclass(frozen=True, kw_only=True)
class ScalingRules:
    """The settings of scaling."""

    #: Every job is to begin within so many seconds.
    target_wait_s: float
    #: Nothing is given up that was needed within so many seconds.
    idle_s: float
    #: Least and most GPUs by pool; None: any number. Pools that are not named are not scaled; with none, all are.
    pools: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)


def pool_name(pool: str | None) -> str:
    """Return what a pool is called where each has a name."""
    return pool or NO_POOL
