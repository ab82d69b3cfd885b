"""Names of queues and tasks: plain strings, the same in the API, the workers, the Procfile and Flower."""

from __future__ import annotations

#: Turns for whichever GPU worker takes them: of API processes and for workers of earlier versions.
GPU_QUEUE = "gpu"
#: Work that any machine can do: webhooks, and looks at what clients have put into the bucket.
IO_QUEUE = "io"
#: The reconciler's work.
MAINTENANCE_QUEUE = "maintenance"

GENERATE = "fleet.generate"
UPLOAD = "fleet.upload"
NOTIFY = "fleet.notify"
CHECK_UPLOAD = "fleet.check_upload"
RECONCILE = "fleet.reconcile"


def gpu_queue_of(instance: str) -> str:
    """Return the queue of turns for one instance, `gpu0@host`: each says that a job waits which it would take."""
    return f"{GPU_QUEUE}.{instance}"


def io_queue_of(host: str) -> str:
    """Return the queue of work on files that lie on one host."""
    return f"{IO_QUEUE}.{host}"
