"""The names of the events a webhook can be told of, and those it is told of when it does not choose."""

from __future__ import annotations

from core.job import CANCELED, EXPIRED, FAILED, SUCCEEDED

STARTED = "job.started"
PROGRESS = "job.progress"
COMPLETED = "job.completed"
FAILURE = "job.failed"
CANCELLATION = "job.canceled"
EXPIRY = "job.expired"
#: The job has succeeded, and some of its files are not in the client's bucket; told beside `job.completed`.
UPLOAD_FAILURE = "job.delivery_failed"

#: In the order of a job's life.
EVENTS = (STARTED, PROGRESS, COMPLETED, FAILURE, CANCELLATION, EXPIRY, UPLOAD_FAILURE)
DEFAULT_EVENTS = (COMPLETED, FAILURE, CANCELLATION, EXPIRY, UPLOAD_FAILURE)
#: The event of each way a job can end.
END_EVENTS = {SUCCEEDED: COMPLETED, FAILED: FAILURE, CANCELED: CANCELLATION, EXPIRED: EXPIRY}
