"""A rollout: an order to renew the fleet's processes, host after host, as the ledger keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

RolloutKind: TypeAlias = Literal["restart", "upgrade"]
RolloutState: TypeAlias = Literal["running", "stopped", "aborted", "done"]
#: `waiting` for its turn; `draining`, `upgrading` by its own command, `replacing` by whoever rolls its image; then its
#: processes are `renewing`, what is back is `watched`, and it is `done`, or `failed`. `skipped`: nothing to renew.
HostState: TypeAlias = Literal[
    "waiting", "draining", "upgrading", "replacing", "renewing", "watched", "done", "failed", "skipped"
]
#: States of a host whose turn it is.
UNDER_WAY: frozenset[HostState] = frozenset({"draining", "upgrading", "replacing", "renewing", "watched"})
OVER: frozenset[HostState] = frozenset({"done", "skipped"})

#: What a rollout wants of a process: that it takes no more jobs, that it runs its host's command that upgrades, that it
#: starts anew, and takes no more jobs until then.
Renewal: TypeAlias = Literal["drain", "upgrade", "anew"]
DRAIN: Renewal = "drain"
UPGRADE: Renewal = "upgrade"
ANEW: Renewal = "anew"
#: What is noted of a command that went well.
COMMAND_OK = "ok"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What ran on a host when its turn came."""

    #: Ids of processes. One that is not among them has started since.
    before: frozenset[str]
    #: Its GPUs, and whether each was healthy: then it has to be so again.
    gpus: dict[str, bool] = field(default_factory=dict)
    #: The roles of its other processes.
    roles: frozenset[str] = frozenset()
    #: The process that runs the command.
    runner: str | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutHost:
    """One host of a rollout."""

    position: int
    host: str
    state: HostState
    reason: str | None = None
    expects: Expected | None = None
    #: `COMMAND_OK`, or what went wrong with it; None while it runs.
    command: str | None = None
    began_at_ms: int | None = None
    moved_at_ms: int | None = None
    back_at_ms: int | None = None
    ended_at_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One rollout."""

    id: str
    kind: RolloutKind
    version: str | None
    state: RolloutState
    reason: str | None
    at_once: int
    timeout_s: float
    max_failures: float
    watch_s: float
    created_at_ms: int
    looked_at_ms: int
    ended_at_ms: int | None
    hosts: tuple[RolloutHost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FleetProcess:
    """A process of the fleet that is alive."""

    id: str
    #: gpu, io, api or beat.
    role: str
    host: str
    program: str
    can_upgrade: bool
    renewal: Renewal | None
    #: Of a GPU worker.
    gpu: FleetGpuState | None = None


@dataclass(frozen=True, kw_only=True)
class FleetGpuState:
    """The instance of a GPU worker."""

    #: gpu0@host
    name: str
    #: As in core/ledger/instances.py.
    state: str
    is_drained: bool
    has_jobs: bool
    #: It ran a warm-up after its last start.
    is_warmed_up: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an attempt on an instance."""

    instance: str
    at_ms: int
    #: Its job failed, or it was lost.
    is_failure: bool
