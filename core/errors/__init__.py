"""Every error Comfyline raises on purpose, in one tree, sorted by what the caller does next.

    ComfylineError                         code = "internal"
      RequestError                     the client must change the request; nothing was queued
        InvalidBody                      not the JSON we accept (syntax, depth, NaN, duplicate keys, ...)
        BodyTooLarge                     over the size limit
        UnsupportedMediaType             not application/json
        InvalidRequest                   well-formed, but a field is wrong
          InvalidParameter               a parameter of a template; names it
          UnstorableValue                a text or a number that the database cannot hold
          RequirementsUnmet              no GPU of the fleet is what the job requires
          InputUnavailable               a file to be fetched from the client's URL cannot be had
        InvalidWorkflow                  the graph cannot run; carries ComfyUI's own `node_errors`
          EditorWorkflow                 the editor's format, not the API format
        MissingAsset                     a referenced asset does not exist
        IdempotencyKeyReuse              this Idempotency-Key was used before; tells for which job
        RequestIdReuse                   another request has this request_id; tells which job it has
        NotFound                         no such job, asset, workflow
          OutputUnavailable              the asset is known but its bytes are gone
        AlreadyExists                    something of that name is there
        Unauthorized                     no or wrong API key
        RangeNotSatisfiable              the Range header asks for bytes that are not there
      TransientError                   trying again may help
        QueueFull                        the fleet has no room; carries `retry_after_s`
        LimitReached                     a tenant has as much as it may; carries `retry_after_s`
          RequestLimitReached            the same of its requests in a minute
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
        ModelUnavailable                 a model file cannot be fetched now
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
        ModelRefused                     a source does not give a model file, or gives another one
        UploadRefused                    an upload will not be taken: wrong credentials, no such bucket
        SecretUnreadable                 a job's secrets do not open, or were deleted
        ConfigurationError               a setting is missing or wrong; names it

Every constructor argument goes to `super().__init__()`, so that an error survives pickling with its class and fields
(Celery 5.7 otherwise rebuilds it as its bare base class).

base       the root, and what several errors carry (all of these)
request    RequestError and what is below it
transient  TransientError and what is below it
permanent  PermanentError and what is below it
"""

from __future__ import annotations

from core.errors.base import ComfylineError, NodeErrors
from core.errors.permanent import (
    AddressRefused,
    ConfigurationError,
    InputGone,
    LedgerFault,
    ModelRefused,
    OutputNotConvertible,
    PermanentError,
    PromptFailed,
    PromptInterrupted,
    PromptRejected,
    SecretUnreadable,
    StaleAttempt,
    UploadRefused,
)
from core.errors.request import (
    AlreadyExists,
    BodyTooLarge,
    EditorWorkflow,
    IdempotencyKeyReuse,
    InputUnavailable,
    InvalidBody,
    InvalidParameter,
    InvalidRequest,
    InvalidWorkflow,
    MissingAsset,
    NotFound,
    OutputUnavailable,
    RangeNotSatisfiable,
    RequestError,
    RequestIdReuse,
    RequirementsUnmet,
    Unauthorized,
    UnstorableValue,
    UnsupportedMediaType,
)
from core.errors.transient import (
    BrokerUnavailable,
    ComfyOutOfMemory,
    ComfyUnavailable,
    InstanceUnreachable,
    LedgerUnavailable,
    LimitReached,
    ModelUnavailable,
    NoHealthyInstance,
    PromptStuck,
    PromptTimeout,
    QueueFull,
    RequestLimitReached,
    StorageFull,
    StorageUnavailable,
    TransientError,
    UploadFailed,
)

__all__ = [
    "AddressRefused",
    "AlreadyExists",
    "BodyTooLarge",
    "BrokerUnavailable",
    "ComfyOutOfMemory",
    "ComfyUnavailable",
    "ComfylineError",
    "ConfigurationError",
    "EditorWorkflow",
    "IdempotencyKeyReuse",
    "InputGone",
    "InputUnavailable",
    "InstanceUnreachable",
    "InvalidBody",
    "InvalidParameter",
    "InvalidRequest",
    "InvalidWorkflow",
    "LedgerFault",
    "LedgerUnavailable",
    "LimitReached",
    "MissingAsset",
    "ModelRefused",
    "ModelUnavailable",
    "NoHealthyInstance",
    "NodeErrors",
    "NotFound",
    "OutputNotConvertible",
    "OutputUnavailable",
    "PermanentError",
    "PromptFailed",
    "PromptInterrupted",
    "PromptRejected",
    "PromptStuck",
    "PromptTimeout",
    "QueueFull",
    "RangeNotSatisfiable",
    "RequestError",
    "RequestIdReuse",
    "RequestLimitReached",
    "RequirementsUnmet",
    "SecretUnreadable",
    "StaleAttempt",
    "StorageFull",
    "StorageUnavailable",
    "TransientError",
    "Unauthorized",
    "UnstorableValue",
    "UnsupportedMediaType",
    "UploadFailed",
    "UploadRefused",
]
