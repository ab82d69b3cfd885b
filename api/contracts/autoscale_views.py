"""Pools of GPUs as whoever starts and stops hosts sees them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from core.ledger.scheduling.scaling_reader import FleetScale, LeavingHost, PoolScale
from core.records.scaling_rules import ScalingRules
from core.scheduling.leaving import HostToLeave


class SpareHostView(TypedDict):
    """A host that can be given back."""

    host: str
    gpus: Annotated[int, Field(description="Its GPUs of this pool.")]
    busy: Annotated[int, Field(description="How many of its GPUs have jobs, which they would finish first.")]
    reason: Annotated[str, Field(description="Why it goes before others.")]


class LeavingHostView(TypedDict):
    """A host that is being given back."""

    host: str
    gpus: list[str]
    pools: list[str]
    since_ms: int
    may_go: Annotated[bool, Field(description="Nothing of the fleet is on it any more: it can be switched off.")]
    running: Annotated[int, Field(description="Jobs that it has not finished.")]
    storing: Annotated[int, Field(description="Jobs that it has run, and whose files still lie on it.")]
    reason: Annotated[str, Field(description="Why it may go, or not yet.")]


class PoolView(TypedDict):
    """What a pool of GPUs has, and what it wants."""

    pool: Annotated[str, Field(description="COMFYLINE_POOL of its workers; - for GPUs without a label.")]
    gpus_wanted: Annotated[int, Field(description="How many GPUs should take jobs, or be starting.")]
    replicas_wanted: Annotated[
        int, Field(description="The same and those that are there and serve nothing: what a replica count is set to.")
    ]
    gpus_here: Annotated[int, Field(description="How many GPUs take jobs, or are starting.")]
    gpus_needed: Annotated[int, Field(description="How many would do at this moment, whatever was needed before.")]
    reason: Annotated[str, Field(description="Why so many are wanted.")]
    least: int
    most: Annotated[int | None, Field(description="Null: any number.")]
    jobs_waiting: Annotated[int, Field(description="Jobs for which GPUs are wanted.")]
    jobs_gated: Annotated[int, Field(description="Beside these: jobs that wait for a limit, not for a GPU.")]
    jobs_beyond: Annotated[
        int, Field(description="Of jobs_waiting: those for which the pool may not have enough GPUs.")
    ]
    work_s: Annotated[float, Field(description="Seconds of GPU work that wait: run_s and load_s.")]
    run_s: float
    load_s: Annotated[float, Field(description="Of loads of models that these jobs bring.")]
    oldest_waits_s: float
    ready: int
    busy: Annotated[int, Field(description="Of the ready ones, those that have jobs.")]
    starting: Annotated[int, Field(description="They start, or are started again.")]
    away: Annotated[
        int, Field(description="There, and serving nothing: drained, quarantined, without room on their disk.")
    ]
    leaving: Annotated[int, Field(description="Their hosts are being given back.")]
    idle: Annotated[int, Field(description="Of the ready ones, those that have nothing to do.")]
    idle_long: Annotated[int, Field(description="Of these, those that had nothing for COMFYLINE_AUTOSCALE_IDLE_S.")]
    longest_idle_s: float
    scale_in: Annotated[
        list[SpareHostView], Field(description="Hosts that can be given back, in this order: the emptiest and coldest.")
    ]


class AutoscaleView(TypedDict):
    at_ms: int
    target_wait_s: float
    idle_s: float
    pools: list[PoolView]
    leaving: list[LeavingHostView]
    jobs_homeless: Annotated[int, Field(description="Waiting jobs that no pool can run as things stand.")]


class ScaleInView(TypedDict):
    """The hosts of a pool that are being given back, those of earlier requests included."""

    hosts: list[LeavingHostView]
    pool: PoolView


def fleet_view(scale: FleetScale, rules: ScalingRules) -> AutoscaleView:
    """Return all pools."""
    return {
        "at_ms": scale.at_ms,
        "target_wait_s": rules.target_wait_s,
        "idle_s": rules.idle_s,
        "pools": [pool_view(pool) for pool in scale.pools.values()],
        "leaving": [leaving_view(host) for host in scale.leaving],
        "jobs_homeless": scale.homeless,
    }


def pool_view(pool: PoolScale) -> PoolView:
    """Return one pool."""
    demand = pool.demand
    return {
        "pool": pool.pool,
        "gpus_wanted": pool.wanted.gpus,
        "replicas_wanted": pool.replicas,
        "gpus_here": pool.here,
        "gpus_needed": demand.needed,
        "reason": pool.wanted.reason,
        "least": pool.limits.least,
        "most": pool.limits.most,
        "jobs_waiting": demand.jobs,
        "jobs_gated": demand.gated,
        "jobs_beyond": demand.beyond,
        "work_s": round(demand.work_s, 3),
        "run_s": round(demand.run_s, 3),
        "load_s": round(demand.load_s, 3),
        "oldest_waits_s": round(demand.oldest_s, 3),
        "ready": pool.ready,
        "busy": pool.busy,
        "starting": pool.starting,
        "away": pool.away,
        "leaving": pool.leaving,
        "idle": pool.idle,
        "idle_long": pool.idle_long,
        "longest_idle_s": round(pool.longest_idle_s, 3),
        "scale_in": [_spare_view(host, pool.pool) for host in pool.to_leave],
    }


def leaving_view(host: LeavingHost) -> LeavingHostView:
    """Return one host that is being given back."""
    return {
        "host": host.host,
        "gpus": list(host.gpus),
        "pools": list(host.pools),
        "since_ms": host.since_ms,
        "may_go": host.may_go,
        "running": host.running,
        "storing": host.storing,
        "reason": host.reason,
    }


def _spare_view(host: HostToLeave, pool: str) -> SpareHostView:
    return {"host": host.host, "gpus": host.gpus[pool], "busy": host.busy, "reason": host.reason}
