"""Names of queues and tasks: plain strings, the same in the API, the workers, the Procfile and Flower."""

from __future__ import annotations

#: Turns: each message says that one more job waits for a GPU.
GPU_QUEUE = "gpu"
#: Work that any machine can do: webhooks.
IO_QUEUE = "io"
#: The reconciler's work.
MAINTENANCE_QUEUE = "maintenance"

GENERATE = "fleet.generate"
UPLOAD = "fleet.upload"
NOTIFY = "fleet.notify"
RECONCILE = "fleet.reconcile"


def io_queue_of(host: str) -> str:
    """Return the queue of work on files that lie on one host."""
    return f"{IO_QUEUE}.{host}"
