"""Whether an instance takes jobs, and if not, why: what the consumer's gate looks at and the ledger shows."""

from __future__ import annotations

from dataclasses import dataclass

from core.ledger.instances import DISK_FULL, DRAINING, HEALTHY, STARTING, UNHEALTHY

#: Of a healthy instance that leaves probes unanswered.
MUTE = "It is too busy to answer now. It is waited for while its processes work, see COMFYLINE_MUTE_S."


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How an instance stands towards jobs."""

    #: One of the states in core/ledger/instances.py.
    state: str
    reason: str | None = None
    quarantined_until_ms: int | None = None


@dataclass(kw_only=True)
class Admission:
    """Everything that can keep jobs from an instance. The first that applies is named."""

    #: The instance answers, and its nodes are recorded.
    is_up: bool = False
    #: How it is while it does not answer.
    away: Condition = Condition(state=STARTING)
    #: The worker was told to end.
    is_stopping: bool = False
    #: A restart waits for the running job.
    is_restarting: bool = False
    #: A rollout is to renew its worker.
    is_renewing: bool = False
    #: An operator wants no jobs on it.
    is_drained: bool = False
    #: Another worker has the name of this instance, and who; what is said here then stays in this worker.
    taken_by: str | None = None
    #: What is wrong with the fleet's storage, as this machine sees it.
    storage_problem: str | None = None
    #: What is wrong with the disk, if anything.
    disk_problem: str | None = None
    #: It answers nothing now, and is waited for.
    is_mute: bool = False
    #: What an operator should know of it although it takes jobs.
    note: str | None = None

    @property
    def condition(self) -> Condition:
        """Return the condition that the ledger shows."""
        if not self.is_up:
            return self.away
        if self.taken_by:
            return Condition(state=UNHEALTHY, reason=self.taken_by)
        if self.is_stopping:
            return Condition(state=DRAINING, reason="Its worker was told to stop.")
        if self.is_renewing:
            return Condition(state=DRAINING, reason="A rollout renews its host; see comfyline rollout status.")
        if self.is_restarting:
            return Condition(state=DRAINING, reason="It is restarted when its job is done.")
        if self.is_drained:
            return Condition(state=DRAINING, reason="An operator drained it; comfyline resume ends that.")
        if self.storage_problem:
            return Condition(state=UNHEALTHY, reason=self.storage_problem)
        if self.disk_problem:
            return Condition(state=DISK_FULL, reason=self.disk_problem)
        return Condition(state=HEALTHY, reason=MUTE if self.is_mute else self.note)

    @property
    def takes_jobs(self) -> bool:
        return self.condition.state == HEALTHY
