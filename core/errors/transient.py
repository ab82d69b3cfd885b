"""Errors that may be over the next time: the fleet, or what it stands on, is not well now, or a limit is reached."""

from __future__ import annotations

from typing import Any

from core.errors.base import ComfylineError, NamesNode


class TransientError(ComfylineError):
    """Trying again may help."""

    code = "unavailable"
    #: Seconds after which a client may sensibly try again; sent as `Retry-After`. None: nobody can tell.
    retry_after_s: int | None = 2


class QueueFull(TransientError):
    """The fleet has no room for another job."""

    code = "queue_full"


class LimitReached(TransientError):
    """A tenant has as much of something as it may have."""

    code = "limit_reached"

    def __init__(
        self, message: str, limit: str = "", allowed: float = 0, used: float = 0, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, limit, allowed, used, retry_after_s)
        #: Its name in `core.records.tenant_limits`.
        self.limit = limit
        self.allowed = allowed
        #: How much the tenant had, without what was refused.
        self.used = used
        self.retry_after_s = retry_after_s

    @property
    def details(self) -> dict[str, Any] | None:
        return {"limit": self.limit, "allowed": self.allowed, "used": self.used}


class RequestLimitReached(LimitReached):
    """A tenant has made as many requests in a minute as it may."""

    code = "rate_limited"


class NoHealthyInstance(TransientError):
    """No GPU has recorded which nodes it offers, so no graph can be checked."""

    code = "deployment_not_ready"
    retry_after_s = 5


class LedgerUnavailable(TransientError):
    """The database does not answer."""

    code = "ledger_unavailable"


class BrokerUnavailable(TransientError):
    """The message broker does not answer."""

    code = "broker_unavailable"


class StorageUnavailable(TransientError):
    """The storage is away, or what is in its place is not the fleet's."""

    code = "storage_unavailable"


class StorageFull(TransientError):
    """The storage has no room for a file."""

    code = "storage_full"


class InstanceUnreachable(TransientError):
    """The worker of an instance does not answer an operator's command."""

    code = "instance_unreachable"


class ComfyUnavailable(TransientError):
    """A ComfyUI instance does not answer, or no longer knows a prompt it had accepted."""

    code = "instance_lost"


class ComfyOutOfMemory(TransientError):
    """The GPU ran out of memory while a node ran."""

    code = "out_of_memory"

    def __init__(
        self, message: str, node_id: str | None = None, node_class: str | None = None, traceback: str | None = None
    ) -> None:
        super().__init__(message, node_id, node_class, traceback)
        self.node_id = node_id
        self.node_class = node_class
        self.traceback = traceback


class PromptTimeout(TransientError):
    """A prompt ran longer than allowed."""

    code = "timeout"

    def __init__(
        self, message: str, still_runs: bool = False, node_id: str | None = None, node_class: str | None = None
    ) -> None:
        super().__init__(message, still_runs, node_id, node_class)
        #: It did not react to the interrupt: its instance is of no use until it is restarted.
        self.still_runs = still_runs
        self.node_id = node_id
        self.node_class = node_class


class PromptStuck(NamesNode, TransientError):
    """A prompt shows no sign of life, or does not react to an interrupt: its instance has to be restarted."""

    code = "stuck"


class ModelUnavailable(TransientError):
    """A model file cannot be fetched now: its source does not answer as it should, or there is no room for it."""

    code = "model_unavailable"

    def __init__(self, message: str, asked_pause_s: float | None = None, lacks_room_bytes: int | None = None) -> None:
        super().__init__(message, asked_pause_s, lacks_room_bytes)
        #: How long the source asks us to wait before the next try; None: it does not say.
        self.asked_pause_s = asked_pause_s
        #: The size of the file, where all that it lacks is room.
        self.lacks_room_bytes = lacks_room_bytes


class UploadFailed(TransientError):
    """A file could not be put into a bucket now, or not be stored."""

    code = "delivery_failed"
