"""What a rollout does next: which host's turn it is, what is wanted of its processes, and whether to go on at all.

Pure. Whoever asks sees one moment of the ledger, and what is decided is written before anybody else asks: so it does
not matter who goes on with a rollout, nor when one who did was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from core.records.rollout import (
    ANEW,
    COMMAND_OK,
    DRAIN,
    OVER,
    UNDER_WAY,
    UPGRADE,
    Expected,
    FleetProcess,
    HostState,
    Outcome,
    Renewal,
    Rollout,
    RolloutHost,
    RolloutState,
)

#: The state of an instance that takes jobs.
_HEALTHY = "healthy"
#: So many jobs have to fail on renewed hosts before their share says anything.
LEAST_FAILURES = 3
#: A host on which nothing runs when its turn comes may be about to start again, and is waited for; others go first.
ABSENT_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be written."""

    state: RolloutState = "running"
    reason: str | None = None
    #: The hosts that are other than before.
    hosts: tuple[RolloutHost, ...] = ()
    #: By process, where something else is wanted of it than before.
    orders: Mapping[str, Renewal | None] = field(default_factory=dict)


def plan(rollout: Rollout, processes: Sequence[FleetProcess], outcomes: Iterable[Outcome], now_ms: int) -> Plan:
    """Return what comes next.

    Parameters:
      processes: those that are alive.
      outcomes: what became of attempts of late.
    """
    by_host: dict[str, list[FleetProcess]] = {}
    for process in processes:
        by_host.setdefault(process.host, []).append(process)
    hosts = [_Turn(rollout, host, by_host.get(host.host, []), now_ms).step() for host in rollout.hosts]
    state, reason = _verdict(rollout, hosts, outcomes)
    if state == "running":
        hosts = _next_turns(rollout, hosts, by_host, now_ms)
        if all(host.state in OVER for host in hosts):
            state = "done"
    if state == "stopped":
        # What was under way keeps what has been reached, and has another turn when it is gone on with.
        hosts = [_put_back(host) if host.state in UNDER_WAY else host for host in hosts]
    orders = _orders(rollout, hosts, by_host) if state == "running" else {}
    return Plan(
        state=state,
        reason=reason,
        hosts=tuple(new for old, new in zip(rollout.hosts, hosts, strict=True) if new != old),
        orders={
            each.id: orders.get(each.id)
            for host in rollout.hosts
            for each in by_host.get(host.host, [])
            if orders.get(each.id) != each.renewal
        },
    )


def hosts_of(processes: Iterable[FleetProcess], wanted: Sequence[str]) -> list[str]:
    """Return the hosts of a rollout in their order: those that are wanted, or all, the ones without GPUs last."""
    if wanted:
        return list(dict.fromkeys(wanted))
    has_gpus: dict[str, bool] = {}
    for each in processes:
        has_gpus[each.host] = has_gpus.get(each.host, False) or each.gpu is not None
    return sorted(has_gpus, key=lambda host: (not has_gpus[host], host))


@dataclass(frozen=True)
class _Turn:
    """One host, at one moment of its turn."""

    rollout: Rollout
    host: RolloutHost
    processes: Sequence[FleetProcess]
    now_ms: int

    def step(self) -> RolloutHost:
        """Return the host as it is now."""
        host = self.host
        if host.state not in UNDER_WAY or host.expects is None:
            return host
        before = host
        if host.state == "draining":
            host = self._drained()
        elif host.state == "upgrading":
            host = self._upgraded()
        elif host.state in ("renewing", "replacing"):
            host = self._renewed()
        elif host.state == "watched":
            host = self._watched()
        if host == before and host.state != "watched":
            return self._in_time(host)
        return host

    @property
    def expects(self) -> Expected:
        assert self.host.expects is not None
        return self.host.expects

    def is_new(self, process: FleetProcess) -> bool:
        """Whether a process has been renewed."""
        has_version = self.rollout.version in (None, process.program)
        return process.id not in self.expects.before and has_version

    def _to(self, state: HostState, **fields: object) -> RolloutHost:
        return replace(self.host, state=state, moved_at_ms=self.now_ms, **fields)  # type: ignore[arg-type]

    def _failed(self, reason: str) -> RolloutHost:
        return self._to("failed", reason=reason, ended_at_ms=self.now_ms)

    def _old_gpus(self) -> list[FleetProcess]:
        return [each for each in self.processes if each.gpu is not None and not self.is_new(each)]

    def _drained(self) -> RolloutHost:
        """All GPUs come to rest, so that no job runs while the code below it is exchanged."""
        gpus = [each.gpu for each in self._old_gpus() if each.gpu is not None]
        if any(gpu.has_jobs or gpu.state == _HEALTHY for gpu in gpus):
            return self.host
        runner = next((each for each in self.processes if each.can_upgrade and each.role != "gpu"), None)
        if runner is None:
            return self._to("replacing")
        return self._to("upgrading", expects=replace(self.expects, runner=runner.id), command=None)

    def _upgraded(self) -> RolloutHost:
        if self.host.command == COMMAND_OK:
            # One that crashed and started again meanwhile has the old code, too.
            before = self.expects.before.union(each.id for each in self.processes)
            return self._to("renewing", expects=replace(self.expects, before=before))
        if self.host.command is not None:
            return self._failed(self.host.command)
        if all(each.id != self.expects.runner for each in self.processes):
            return self._failed("The process that ran COMFYLINE_UPGRADE_COMMAND ended in the middle of it.")
        return self.host

    def _renewed(self) -> RolloutHost:
        """All that was there is there again, renewed and healthy."""
        new = [each for each in self.processes if self.is_new(each)]
        started = [each for each in self.processes if each.id not in self.expects.before]
        if self.host.state == "renewing" and (wrong := next((each for each in started if each not in new), None)):
            return self._failed(f"It came back with version {wrong.program}, and not {self.rollout.version}.")
        if self.missing(new):
            return self.host
        return self._to("watched", back_at_ms=self.now_ms, reason=None)

    def missing(self, new: Iterable[FleetProcess]) -> str | None:
        """Return what has not come back, for people; None when all has."""
        back = {each.gpu.name: each.gpu for each in new if each.gpu is not None}
        waiting = [name for name, was_healthy in self.expects.gpus.items() if not _is_back(back.get(name), was_healthy)]
        roles = {each.role for each in new}
        waiting += sorted(self.expects.roles - roles)
        old = [each for each in self.processes if each.id in self.expects.before]
        if not waiting and old:
            waiting = sorted({each.role for each in old})
        return ", ".join(waiting) or None

    def _watched(self) -> RolloutHost:
        back = {each.gpu.name: each.gpu for each in self.processes if each.gpu is not None and self.is_new(each)}
        for name, was_healthy in self.expects.gpus.items():
            gpu = back.get(name)
            if not _is_back(gpu, was_healthy):
                state = "gone" if gpu is None else gpu.state
                return self._failed(f"{name} was healthy again, and then {state}.")
        is_proven = all(gpu.is_warmed_up for gpu in back.values()) if back else True
        if is_proven or self.now_ms - (self.host.back_at_ms or 0) >= self.rollout.watch_s * 1000:
            return self._to("done", ended_at_ms=self.now_ms)
        return self.host

    def _in_time(self, host: RolloutHost) -> RolloutHost:
        """A host on which nothing moves for too long has failed. A job that runs to its end moves."""
        if any(each.gpu is not None and each.gpu.has_jobs for each in self._old_gpus()):
            return replace(host, moved_at_ms=self.now_ms)
        if self.now_ms - (host.moved_at_ms or 0) < self.rollout.timeout_s * 1000:
            return host
        new = [each for each in self.processes if self.is_new(each)]
        missing = self.missing(new) or "all"
        what = {
            "draining": "It has not come to rest",
            "upgrading": "COMFYLINE_UPGRADE_COMMAND has not ended",
            "replacing": f"Nobody has brought version {self.rollout.version}, and it has no COMFYLINE_UPGRADE_COMMAND",
        }.get(host.state, f"It has not come back healthy (missing: {missing})")
        return self._failed(f"{what} within {self.rollout.timeout_s:g} s.")


def _is_back(gpu: object, was_healthy: bool) -> bool:
    if gpu is None:
        return False
    # An operator may drain it meanwhile; and what was not well before need not be so now.
    return not was_healthy or getattr(gpu, "state", "") == _HEALTHY or bool(getattr(gpu, "is_drained", False))


def _put_back(host: RolloutHost) -> RolloutHost:
    return replace(host, state="waiting", expects=None, command=None, began_at_ms=None)


def _verdict(
    rollout: Rollout, hosts: Sequence[RolloutHost], outcomes: Iterable[Outcome]
) -> tuple[RolloutState, str | None]:
    """Return whether to go on, and if not, why."""
    failed = next((host for host in hosts if host.state == "failed"), None)
    if failed is not None:
        return "stopped", f"{failed.host}: {failed.reason}"
    since = {
        name: host.back_at_ms
        for host in hosts
        if host.back_at_ms is not None and host.expects is not None and host.state in ("watched", "done")
        for name in host.expects.gpus
    }
    ended: Counter[tuple[bool, bool]] = Counter()
    for each in outcomes:
        began = since.get(each.instance)
        if began is None or each.at_ms >= began:
            ended[began is not None, each.is_failure] += 1
    failures, elsewhere = ended[True, True], _share(ended[False, True], ended[False, False])
    share = _share(failures, ended[True, False])
    if failures >= LEAST_FAILURES and share > rollout.max_failures + elsewhere:
        return "stopped", (
            f"Of {failures + ended[True, False]} attempts on renewed hosts {failures} failed or were lost "
            f"({share:.0%}; {elsewhere:.0%} on the others)."
        )
    return "running", None


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else 0.0


def _next_turns(
    rollout: Rollout, hosts: Sequence[RolloutHost], by_host: Mapping[str, Sequence[FleetProcess]], now_ms: int
) -> list[RolloutHost]:
    """Give as many hosts their turn as may be renewed at once; the first one goes alone."""
    found = list(hosts)
    for place, host in enumerate(found):
        at_once = rollout.at_once if any(each.state == "done" for each in found) else 1
        if sum(each.state in UNDER_WAY for each in found) >= at_once:
            break
        if host.state == "waiting":
            found[place] = _begun(rollout, host, by_host.get(host.host, ()), now_ms)
    return found


def _begun(rollout: Rollout, host: RolloutHost, processes: Sequence[FleetProcess], now_ms: int) -> RolloutHost:
    times = {"began_at_ms": now_ms, "moved_at_ms": now_ms, "back_at_ms": None, "command": None}
    if not processes:
        reason, since_ms = "Nothing of the fleet runs on it.", host.began_at_ms or now_ms
        if now_ms - since_ms < ABSENT_MS:
            return replace(host, reason=reason, began_at_ms=since_ms)
        return replace(host, state="skipped", reason=reason, ended_at_ms=now_ms)
    if rollout.version is not None and all(each.program == rollout.version for each in processes):
        reason = f"It has version {rollout.version} already."
        return replace(host, state="skipped", reason=reason, began_at_ms=now_ms, ended_at_ms=now_ms)
    expects = Expected(
        before=frozenset(each.id for each in processes),
        gpus={
            each.gpu.name: each.gpu.state in (_HEALTHY, "starting") and not each.gpu.is_drained
            for each in processes
            if each.gpu is not None
        },
        roles=frozenset(each.role for each in processes if each.gpu is None),
    )
    state: HostState = "renewing" if rollout.kind == "restart" else "draining"
    return replace(host, state=state, reason=None, expects=expects, ended_at_ms=None, **times)  # type: ignore[arg-type]


def _orders(
    rollout: Rollout, hosts: Sequence[RolloutHost], by_host: Mapping[str, Sequence[FleetProcess]]
) -> dict[str, Renewal]:
    """Return what is wanted of processes."""
    wanted: dict[str, Renewal] = {}
    for host in hosts:
        if host.state not in UNDER_WAY or host.expects is None:
            continue
        turn = _Turn(rollout, host, by_host.get(host.host, ()), 0)
        for each in turn.processes:
            if turn.is_new(each):
                continue
            if host.state == "renewing" and each.id in host.expects.before:
                wanted[each.id] = ANEW
            elif each.gpu is not None:
                wanted[each.id] = DRAIN
            elif each.id == host.expects.runner:
                wanted[each.id] = UPGRADE
    return wanted
