"""The rollout that was begun last: whether it goes on, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, get_args

from api.server.metrics.samples import Sample, View
from core.metrics.family import gauge
from core.records.rollout import HostState, RolloutState

ROLLOUT: Final = gauge(
    "comfyline_rollout", "Whether the newest rollout is in this state; 0 where there is none.", "state"
)
HOSTS: Final = gauge("comfyline_rollout_hosts", "Hosts of the newest rollout, by state.", "state")

FAMILIES = (ROLLOUT, HOSTS)


def samples(view: View) -> Iterator[Sample]:
    """Yield them, where the ledger answers; all of them, so that a rule always has a number to compare."""
    if view.fleet is None:
        return
    newest = view.fleet.rollout
    for state in get_args(RolloutState):
        yield Sample(ROLLOUT, (state,), newest is not None and newest.state == state)
    for state in get_args(HostState):
        yield Sample(HOSTS, (state,), 0 if newest is None else newest.hosts.get(state, 0))
