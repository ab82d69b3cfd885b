"""Whether the fleet can take and run jobs: what of it answers, and what does not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.http.time_limits import at_most
from core.background import Life, lives
from core.contracts.comfy_v2 import maybe_timestamp
from core.errors import BrokerUnavailable, ComfylineError, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import HEALTHY
from core.messaging.broker_trial import try_broker
from core.records.instance import InstanceRecord
from core.settings import Settings
from core.storage.marker import StorageMarker

#: Longest time for each of the checks.
CHECK_S = 1.5


class CheckView(TypedDict):
    ok: bool
    reason: str | None


class StorageCheckView(CheckView):
    state: Literal["ok", "unavailable", "disk_full"]


class InstanceView(TypedDict):
    name: str
    state: str
    kind: Literal["real", "SIMULATED"]
    gpu: str | None
    device: str | None
    version: str | None
    job_id: str | None
    restarts: int
    reason: str | None


class LoopView(TypedDict):
    """A thread of this process that others rely on. What fails is tried again, after longer and longer rests."""

    name: str
    alive: bool
    failures: Annotated[int, Field(description="In a row, up to now.")]
    last_error: Annotated[str | None, Field(description="The kind of the last one; the log has it whole.")]
    failing_since: str | None


class ReadinessView(TypedDict):
    """Whether jobs can run. Those without a key learn no more than that."""

    ready: bool
    ledger: NotRequired[CheckView]
    broker: NotRequired[CheckView]
    storage: NotRequired[StorageCheckView]
    loops: NotRequired[list[LoopView]]
    healthy_instances: NotRequired[int]
    instances: NotRequired[list[InstanceView]]


def readiness(settings: Settings, ledger: Ledger, marker: StorageMarker) -> ReadinessView:
    """Ask everything that a job needs."""
    records, ledger_reason = _instances(ledger)
    ledger_reason = ledger_reason or _write_problem(ledger)
    broker_reason = _broker_problem(settings)
    storage = _storage(marker)
    healthy = sum(record.state == HEALTHY for record in records)
    loops = lives()
    is_whole = ledger_reason is None and broker_reason is None and storage["ok"] and all(one.is_alive for one in loops)
    return {
        "ready": is_whole and healthy > 0,
        "ledger": {"ok": ledger_reason is None, "reason": ledger_reason},
        "broker": {"ok": broker_reason is None, "reason": broker_reason},
        "storage": storage,
        "loops": [_loop(life) for life in loops],
        "healthy_instances": healthy,
        "instances": [_instance(record) for record in records],
    }


def _instances(ledger: Ledger) -> tuple[list[InstanceRecord], str | None]:
    try:
        with at_most(CHECK_S, LedgerUnavailable("The ledger does not answer.")):
            return ledger.instances.all(), None
    except ComfylineError as exc:
        return [], exc.message


def _write_problem(ledger: Ledger) -> str | None:
    """Reading is not enough: a server after a failover, or with a full disk, answers and takes no job."""
    try:
        with at_most(CHECK_S, LedgerUnavailable("The ledger does not take writes.")):
            ledger.facts.try_write()
    except ComfylineError as exc:
        return exc.message
    return None


def _loop(life: Life) -> LoopView:
    since_s = life.failing_since_s
    return {
        "name": life.name,
        "alive": life.is_alive,
        "failures": life.failures,
        "last_error": life.last_error,
        "failing_since": maybe_timestamp(None if since_s is None else round(since_s * 1000)),
    }


def _storage(marker: StorageMarker) -> StorageCheckView:
    if (reason := marker.problem()) is not None:
        return {"ok": False, "state": "unavailable", "reason": reason}
    if marker.is_full():
        return {"ok": False, "state": "disk_full", "reason": "It has less room than COMFYLINE_MAX_UPLOAD_BYTES."}
    return {"ok": True, "state": "ok", "reason": None}


def _instance(record: InstanceRecord) -> InstanceView:
    return {
        "name": record.name,
        "state": record.state,
        "kind": "SIMULATED" if record.is_simulated else "real",
        "gpu": record.gpu,
        "device": record.device,
        "version": record.version,
        "job_id": record.job_id,
        "restarts": record.restarts,
        "reason": record.reason,
    }


def _broker_problem(settings: Settings) -> str | None:
    try:
        with at_most(CHECK_S, BrokerUnavailable("The broker does not answer.")):
            try_broker(settings, timeout_s=CHECK_S)
    except ComfylineError as exc:
        return exc.message
    return None
