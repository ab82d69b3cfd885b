"""Every error Comfyline raises on purpose, in one tree, sorted by what the caller does next.

    ComfylineError                         code = "internal"
      RequestError                     the client must change the request; nothing was queued
        InvalidBody                      not the JSON we accept (syntax, depth, NaN, duplicate keys, ...)
        BodyTooLarge                     over the size limit
        UnsupportedMediaType             not application/json
        InvalidRequest                   well-formed, but a field is wrong
          UnstorableValue                a text or a number that the database cannot hold
          InputUnavailable               a file to be fetched from the client's URL cannot be had
        InvalidWorkflow                  the graph cannot run; carries ComfyUI's own `node_errors`
          EditorWorkflow                 the editor's format, not the API format
        MissingAsset                     a referenced asset does not exist
        IdempotencyKeyReuse              this Idempotency-Key was used before; tells for which job
        RequestIdReuse                   another request has this request_id; tells which job it has
        NotFound                         no such job, asset, workflow
          OutputUnavailable              the asset is known but its bytes are gone
        Unauthorized                     no or wrong API key
        RangeNotSatisfiable              the Range header asks for bytes that are not there
      TransientError                   trying again may help
        QueueFull                        the fleet has no room; carries `retry_after_s`
        NoHealthyInstance                no GPU can say which graphs it runs yet; carries `retry_after_s`
        LedgerUnavailable                the database does not answer
        BrokerUnavailable                the message broker does not answer
        StorageUnavailable               the storage in sight is not the fleet's
        StorageFull                      the storage has no room
        InstanceUnreachable              the worker of an instance does not answer an operator
        ComfyUnavailable                 a ComfyUI instance does not answer, or lost its prompt
        ComfyOutOfMemory                 the GPU ran out of memory
        PromptTimeout                    a prompt ran longer than allowed
        PromptStuck                      a prompt shows no sign of life any more
        UploadFailed                     a file could not be put into a bucket now
      PermanentError                   trying again cannot help
        InputGone                        an input file of a job is no longer in storage
        PromptRejected                   ComfyUI refused the graph; carries `node_errors`
        PromptFailed                     a node raised; carries node id, class, message, traceback
        PromptInterrupted                somebody interrupted the prompt
        OutputNotConvertible             a file is damaged, or too large to be converted or stripped
        LedgerFault                      the database does not understand us: a fault of ours
        StaleAttempt                     another attempt owns the job now: stop, write nothing
        AddressRefused                   a client's URL leads to where we do not connect
        UploadRefused                    an upload will not be taken: wrong credentials, no such bucket
        SecretUnreadable                 a job's secrets do not open, or were deleted
        ConfigurationError               a setting is missing or wrong; names it

Every constructor argument goes to `super().__init__()`, so that an error survives pickling with its class and fields
(Celery 5.7 otherwise rebuilds it as its bare base class).
"""

from __future__ import annotations

from typing import Any, ClassVar

NodeErrors = dict[str, Any]
"""`{node_id: {"errors": [{"type", "message", "details", "extra_info"}], "dependent_outputs": [...], "class_type"}}`."""


class ComfylineError(Exception):
    """Base of everything raised on purpose. `code` is public and never changes its meaning."""

    code: ClassVar[str] = "internal"

    @property
    def message(self) -> str:
        """What happened and what to do, safe to show to a client."""
        return str(self.args[0]) if self.args else type(self).__name__

    @property
    def details(self) -> dict[str, Any] | None:
        """Machine-readable facts beside the message, safe to show to a client."""
        return None

    def __str__(self) -> str:
        return self.message


class _CarriesNodeErrors(Exception):
    """What ComfyUI, or our check in its place, says of a graph's nodes."""

    def __init__(self, message: str, node_errors: NodeErrors | None = None) -> None:
        super().__init__(message, node_errors)
        self.node_errors: NodeErrors = node_errors or {}

    @property
    def details(self) -> dict[str, Any] | None:
        return {"node_errors": self.node_errors}


class _NamesJob(Exception):
    """The job that has what the request asks for anew."""

    def __init__(self, message: str, job_id: str | None = None) -> None:
        super().__init__(message, job_id)
        self.job_id = job_id

    @property
    def details(self) -> dict[str, Any] | None:
        return None if self.job_id is None else {"job_id": self.job_id}


class _NamesNode(Exception):
    """The node that ran, where one is known."""

    def __init__(self, message: str, node_id: str | None = None, node_class: str | None = None) -> None:
        super().__init__(message, node_id, node_class)
        self.node_id = node_id
        self.node_class = node_class


class RequestError(ComfylineError):
    """The client must change the request."""

    code = "invalid_request"


class InvalidBody(RequestError):
    """The body is not the JSON we accept."""


class BodyTooLarge(RequestError):
    """The body is over the limit."""

    code = "payload_too_large"


class UnsupportedMediaType(RequestError):
    """The body is not declared as a type we read."""

    code = "unsupported_media_type"


class InvalidRequest(RequestError):
    """The body is well-formed, but a field is wrong."""


class UnstorableValue(InvalidRequest):
    """A text or a number is nothing that the database can hold, such as a text with NUL in it."""


class InputUnavailable(InvalidRequest):
    """A file cannot be fetched from the URL that the client gave. Says no more of its host than a client may know."""

    code = "input_unavailable"


class InvalidWorkflow(_CarriesNodeErrors, RequestError):
    """The graph cannot run."""

    code = "invalid_workflow"


class EditorWorkflow(InvalidWorkflow):
    """The graph is in the editor's save format."""

    code = "workflow_format_ui"


class MissingAsset(RequestError):
    """A referenced asset cannot be used."""

    code = "missing_asset"


class IdempotencyKeyReuse(_NamesJob, RequestError):
    """The Idempotency-Key was used before: a key is good for one submission."""

    code = "idempotency_key_reuse"


class RequestIdReuse(_NamesJob, RequestError):
    """The request_id belongs to a request with another body."""

    code = "request_id_reuse"

    @classmethod
    def of(cls, request_id: str, job_id: str | None = None) -> RequestIdReuse:
        """Return the error for a request id. Parameters: job_id - the job that has it."""
        return cls(
            f"request_id {request_id!r} is already used by a job that was made from another body: send a new one. With "
            "the same body it would be the same request.",
            job_id,
        )


class NotFound(RequestError):
    """There is no such thing, or it is not yours."""

    code = "not_found"


class OutputUnavailable(NotFound):
    """The asset is known, but its bytes are gone."""

    code = "output_unavailable"


class Unauthorized(RequestError):
    """No API key, or a wrong one."""

    code = "unauthorized"


class RangeNotSatisfiable(RequestError):
    """The Range header asks for bytes that are not there."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, size_bytes: int = 0) -> None:
        super().__init__(message, size_bytes)
        self.size_bytes = size_bytes


class TransientError(ComfylineError):
    """Trying again may help."""

    code = "unavailable"
    #: Seconds after which a client may sensibly try again; sent as `Retry-After`.
    retry_after_s: int = 2


class QueueFull(TransientError):
    """The fleet has no room for another job."""

    code = "queue_full"


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


class PromptStuck(_NamesNode, TransientError):
    """A prompt shows no sign of life, or does not react to an interrupt: its instance has to be restarted."""

    code = "stuck"


class UploadFailed(TransientError):
    """A file could not be put into a bucket now, or not be stored."""

    code = "delivery_failed"


class PermanentError(ComfylineError):
    """Trying again cannot help."""

    code = "failed"


class InputGone(PermanentError):
    """An input file of a job is no longer in storage."""

    code = "input_gone"


class PromptRejected(_CarriesNodeErrors, PermanentError):
    """ComfyUI refused the graph (HTTP 400), or dropped some of its outputs (HTTP 200 with `node_errors`)."""

    code = "invalid_workflow"


class PromptFailed(PermanentError):
    """A node raised while the prompt ran."""

    code = "node_execution_error"

    def __init__(
        self,
        message: str,
        node_id: str | None = None,
        node_class: str | None = None,
        exception_type: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message, node_id, node_class, exception_type, traceback)
        self.node_id = node_id
        self.node_class = node_class
        self.exception_type = exception_type
        self.traceback = traceback


class PromptInterrupted(_NamesNode, PermanentError):
    """Somebody interrupted the prompt."""

    code = "interrupted"


class OutputNotConvertible(PermanentError):
    """An output cannot be converted, or its metadata not removed: it is damaged, or too large."""

    code = "conversion_failed"


class LedgerFault(PermanentError):
    """The database does not understand what we ask of it: a fault of ours."""

    code = "ledger_fault"


class StaleAttempt(PermanentError):
    """Another attempt owns the job now."""

    code = "stale_attempt"


class AddressRefused(PermanentError):
    """A URL of a client leads to an address that is neither public nor allowed. Nothing was sent."""

    code = "address_refused"


class UploadRefused(PermanentError):
    """A bucket does not take a file, and hardly will: wrong credentials, no such bucket."""

    code = "delivery_refused"


class SecretUnreadable(PermanentError):
    """The secrets that came with a job do not open any more, or were deleted after their use."""

    code = "secret_unreadable"


class ConfigurationError(PermanentError):
    """A setting is missing or wrong."""

    code = "configuration"
