"""Every family that is counted: kept as sums in the ledger, from which each scrape has them.

What a job used and how it fared is put down with its end, see `core.ledger.metrics.job_sums`. What the ledger sees
happen beside that is counted in the transaction in which it does. The rest only processes know, and report.
"""

from __future__ import annotations

from core.metrics.family import Family, counter, histogram

#: Upper bounds in seconds. Of work on GPUs: pictures take seconds, videos many minutes.
WORK_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
#: Of waits, which last from nothing to a day.
WAIT_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
#: Of what ought to take milliseconds.
CALL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
#: Of requests, some of which wait for their job.
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0)

# --- with the end of a job or an attempt ------------------------------------------------------------------------------
JOBS_ENDED = counter("comfyline_jobs_ended_total", "Jobs that have ended.", "status", "template", "tenant")
JOB_WAIT = histogram(
    "comfyline_job_wait_seconds", "From a job's submission until it began on the GPU that ran it.", WAIT_S, "tenant"
)
JOB_LOAD = histogram("comfyline_job_load_seconds", "Loads of models that a job had to wait for.", WORK_S, "template")
JOB_RUN = histogram("comfyline_job_run_seconds", "Runs of jobs on GPUs, without loads.", WORK_S, "template")
JOB_STORE = histogram("comfyline_job_store_seconds", "From the end of a run until its files were stored.", WORK_S)
JOB_DURATION = histogram(
    "comfyline_job_duration_seconds", "From a job's submission until it had succeeded.", WAIT_S, "tenant"
)
GPU_SECONDS = counter(
    "comfyline_gpu_seconds_total", "Time that attempts had GPUs, put down when each ended.", "gpu_kind", "use"
)
FILE_BYTES = counter(
    "comfyline_file_bytes_total",
    "Bytes of files that came in, and of stored outputs.",
    "direction",
    zeros=("in", "out"),
)

# --- in the transaction in which it happens ---------------------------------------------------------------------------
JOBS_FAILED = counter(
    "comfyline_jobs_failed_total", "Jobs that failed, by the code of their error.", "code", zeros=("poison",)
)
ATTEMPTS_LOST = counter(
    "comfyline_attempts_lost_total",
    "Attempts whose instance or worker failed under them, by the code.",
    "code",
    zeros=("instance_lost",),
)
LEASES_LOST = counter("comfyline_leases_lost_total", "Leases that lapsed because nobody renewed them.")
WEBHOOK_TRIES = counter(
    "comfyline_webhook_tries_total", "Tries to send a webhook.", "result", zeros=("arrived", "failed")
)
WEBHOOKS_ENDED = counter(
    "comfyline_webhooks_ended_total",
    "Webhooks that arrived (delivered) or were given up (dead).",
    "state",
    zeros=("delivered", "dead"),
)
WEBHOOK_DELIVERY = histogram(
    "comfyline_webhook_delivery_seconds", "From an event until its webhook had arrived.", WAIT_S
)

# --- what only processes know -----------------------------------------------------------------------------------------
CLAIMS = histogram(
    "comfyline_claim_seconds", "Claims of GPU workers, whether they got a job or found none.", CALL_S, "result"
)
QUARANTINES = counter("comfyline_quarantines_total", "Instances that were put into quarantine.")
LEDGER_TRANSACTIONS = histogram(
    "comfyline_ledger_transaction_seconds", "Write transactions, from their beginning to their commit.", CALL_S
)
LEDGER_FAILURES = counter("comfyline_ledger_failures_total", "Write transactions for which the ledger did not answer.")
BROKER_PUBLISHES = histogram(
    "comfyline_broker_publish_seconds", "Messages published, and tries that failed.", CALL_S, "result"
)
STORAGE_ERRORS = counter(
    "comfyline_storage_errors_total",
    "What the storage refused or did not answer, by what was done.",
    "operation",
    zeros=("look", "store", "answer"),
)
API_REQUESTS = counter("comfyline_api_requests_total", "Requests answered.", "method", "route", "status")
API_DURATION = histogram(
    "comfyline_api_request_seconds", "From a request until its answer begins.", REQUEST_S, "method"
)

#: All of them, by name.
COUNTED: dict[str, Family] = {
    family.name: family
    for family in (
        *(JOBS_ENDED, JOB_WAIT, JOB_LOAD, JOB_RUN, JOB_STORE, JOB_DURATION, GPU_SECONDS, FILE_BYTES),
        *(JOBS_FAILED, ATTEMPTS_LOST, LEASES_LOST, WEBHOOK_TRIES, WEBHOOKS_ENDED, WEBHOOK_DELIVERY),
        *(CLAIMS, QUARANTINES, LEDGER_TRANSACTIONS, LEDGER_FAILURES, BROKER_PUBLISHES, STORAGE_ERRORS),
        *(API_REQUESTS, API_DURATION),
    )
}
