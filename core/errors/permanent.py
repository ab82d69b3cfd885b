"""Errors that stay: trying again cannot help."""

from __future__ import annotations

from core.errors.base import CarriesNodeErrors, ComfylineError, NamesNode


class PermanentError(ComfylineError):
    """Trying again cannot help."""

    code = "failed"


class InputGone(PermanentError):
    """An input file of a job is no longer in storage."""

    code = "input_gone"


class PromptRejected(CarriesNodeErrors, PermanentError):
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


class PromptInterrupted(NamesNode, PermanentError):
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


class ModelRefused(PermanentError):
    """A source does not give a model file, or gives another than the manifest says."""

    code = "model_refused"


class SecretUnreadable(PermanentError):
    """The secrets that came with a job do not open any more, or were deleted after their use."""

    code = "secret_unreadable"


class ConfigurationError(PermanentError):
    """A setting is missing or wrong."""

    code = "configuration"
