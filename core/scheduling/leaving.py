"""Which hosts a pool gives back when it has more GPUs than it wants: whole ones, the emptiest and coldest first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from core.scheduling.lines import ModelSet
from core.scheduling.scaling import PoolGpu


@dataclass(frozen=True, slots=True, kw_only=True)
class HostToLeave:
    """A host that can be given back."""

    host: str
    #: Its GPUs that take jobs, by their pools.
    gpus: Mapping[str, int]
    #: How many of them have jobs, which they finish first.
    busy: int
    #: How many model sets they hold, and how many of these jobs wait for.
    held: int
    held_wanted: int
    #: How long all of them have been idle; None where one works or starts.
    idle_s: float | None

    @property
    def reason(self) -> str:
        """Return why it goes before others, in plain English."""
        state = "starts" if self.idle_s is None else f"has been idle for {self.idle_s:.0f} s"
        if self.busy:
            state = f"has jobs on {self.busy} of its GPUs, which they finish first"
        models = f"holds {self.held} model sets, of which jobs wait for {self.held_wanted}" if self.held else "is cold"
        return f"It {state}, and {models}."


def hosts_to_leave(
    gpus: Iterable[PoolGpu], surplus: Mapping[str, int], wanted: Collection[ModelSet]
) -> list[HostToLeave]:
    """Return the hosts to give back, in this order.

    Left out is a host with more GPUs of a pool than that has too many, and one of which any GPU serves nothing: who
    drained it, or looks after what is wrong with it, decides what becomes of it.

    Parameters:
      surplus: how many GPUs each pool has too many.
      wanted: the model sets that jobs wait for.
    """
    if max(surplus.values(), default=0) <= 0:
        return []
    by_host: dict[str, list[PoolGpu]] = {}
    for gpu in gpus:
        by_host.setdefault(gpu.host, []).append(gpu)
    able = [_host(host, found, wanted) for host, found in by_host.items() if all(gpu.serves for gpu in found)]
    left = dict(surplus)
    chosen = []
    for each in sorted(able, key=_order):
        if all(left.get(pool, 0) >= count for pool, count in each.gpus.items()):
            chosen.append(each)
            for pool, count in each.gpus.items():
                left[pool] -= count
    return chosen


def _host(host: str, gpus: list[PoolGpu], wanted: Collection[ModelSet]) -> HostToLeave:
    held = frozenset[ModelSet]().union(*(gpu.holds for gpu in gpus))
    counts: dict[str, int] = {}
    for gpu in gpus:
        counts[gpu.pool] = counts.get(gpu.pool, 0) + 1
    idle_s = [gpu.idle_s for gpu in gpus]
    return HostToLeave(
        host=host,
        gpus=counts,
        busy=sum(gpu.is_busy for gpu in gpus),
        held=len(held),
        held_wanted=len(held.intersection(wanted)),
        idle_s=None if None in idle_s else min((each for each in idle_s if each is not None), default=None),
    )


def _order(host: HostToLeave) -> tuple[float, ...] | tuple[float | str, ...]:
    idle_s = math.inf if host.idle_s is None else host.idle_s
    # One that starts holds nothing and has no jobs: nobody would miss it.
    return host.busy, host.held_wanted, host.held, -idle_s, host.host
