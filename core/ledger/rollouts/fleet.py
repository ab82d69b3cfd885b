"""What a rollout looks at: the living processes of its hosts, and what became of jobs of late."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from core.clock import now_ms
from core.ledger.database.rollout_tables import processes
from core.ledger.database.tables import instances, jobs
from core.ledger.instances import SILENCE_MS, STOPPED
from core.ledger.rollouts.processes import SILENCE_MS as PROCESS_SILENCE_MS
from core.records.job import DELIVERING, FAILED, LEASED, QUEUED, SUCCEEDED
from core.records.rollout import FleetGpuState, FleetProcess, Outcome

#: Of the jobs of each status the newest are looked at: the cost of a look does not grow with what has ended.
NEWEST = 500

_PROCESSES = select(
    processes,
    instances.c.name.label("instance"),
    *(instances.c.state, instances.c.is_drained, instances.c.warmup_s, instances.c.heartbeat_at_ms),
).outerjoin(instances, instances.c.worker == processes.c.id)


def living_processes(connection: Connection) -> list[FleetProcess]:
    """Return the processes that are alive, by host."""
    now = now_ms()
    busy = set(connection.execute(select(jobs.c.instance).where(jobs.c.status.in_(sorted(LEASED)))).scalars())
    found = []
    for row in connection.execute(_PROCESSES.order_by(processes.c.host, processes.c.id)):
        gpu = None
        if row.role == "gpu":
            if row.instance is None or row.state == STOPPED or row.heartbeat_at_ms < now - SILENCE_MS:
                continue
            gpu = FleetGpuState(
                name=row.instance,
                state=row.state,
                is_drained=row.is_drained,
                has_jobs=row.instance in busy,
                is_warmed_up=row.warmup_s is not None,
            )
        elif row.at_ms < now - PROCESS_SILENCE_MS:
            continue
        found.append(
            FleetProcess(
                id=row.id,
                role=row.role,
                host=row.host,
                program=row.program,
                can_upgrade=row.can_upgrade,
                renewal=row.renewal,
                gpu=gpu,
            )
        )
    return found


def outcomes(connection: Connection, since_ms: int) -> list[Outcome]:
    """Return what became of attempts since then, of the newest jobs."""
    columns = (jobs.c.instance, jobs.c.status, jobs.c.completed_at_ms, jobs.c.losses)
    found: list[Outcome] = []
    for status in sorted({QUEUED, *LEASED, DELIVERING, SUCCEEDED, FAILED}):
        query = select(*columns).where(jobs.c.status == status)
        if status == QUEUED:
            # Of those that wait only the ones that were lost, by their index.
            query = query.where(jobs.c.lost_on.is_not(None))
        else:
            query = query.order_by(jobs.c.created_at_ms.desc(), jobs.c.id.desc())
        for row in connection.execute(query.limit(NEWEST)):
            found += _lost(row.losses or ())
            if status in (SUCCEEDED, FAILED) and row.instance is not None and row.completed_at_ms is not None:
                found.append(Outcome(instance=row.instance, at_ms=row.completed_at_ms, is_failure=status == FAILED))
    return [each for each in found if each.at_ms >= since_ms]


def _lost(losses: Iterable[dict[str, object]]) -> list[Outcome]:
    return [
        Outcome(instance=str(each["instance"]), at_ms=int(str(each["at_ms"])), is_failure=True)
        for each in losses
        if each.get("instance") and each.get("at_ms")
    ]
