"""What all packages share: the ledger, settings, errors, records; imports nothing of the others.

ledger/      the database of jobs, the only truth about them
settings/    everything an operator can set
scheduling/  what an idle GPU takes next (core.ledger)
rollouts/    a process renewed: told so, and started anew (tasks, api)
contracts/   jobs in the words of each contract, for answers and webhooks
webhooks/    what a webhook says and how it is signed
messaging/   change notices, and the broker's errors
outbound/    guarded HTTP to URLs of clients
buckets/     S3 buckets and signed URLs
metrics/     what the fleet counts, and how a process does so
model_files/  what may stand in the manifest of model files
storage/     files of the fleet
tracing/     where the time of a job went, for OpenTelemetry
texts/       texts of others: read, cut, cleaned
errors/      the tree of errors
background   threads that outlive what is unforeseen
broker_kind  which broker a URL names
clock        what time it is
gpu_costs    what GPU time costs (api)
links        signed links to files
object_keys  keys of objects in a bucket
log_format   how a log line looks (all processes)
log_fields   what a log line is of (log_format, all that work on jobs)
trace_context  what a request says of its trace (api, tasks, core.records)
startup      what is checked before a server starts
graph_differences  graphs that are nearly the same (core.ledger, api)
job_files    ids, and where the files of a job lie (core.storage, core.ledger, tasks)
machine      which machine this is (core.ledger, comfy, tasks)
neighbour_watch  whether the fleet has other machines, looked at now and then (api, tasks)
records/     what is known of a job, typed, from body to ledger (all)
"""

from __future__ import annotations

import sys

#: What redis-py imports for figures that we do not ask it for, wherever it is installed; that would take each of our
#: processes 40 ms at its start. Who exports spans (core/tracing) needs it, and lets it in again.
UNWANTED = ("opentelemetry.metrics", "opentelemetry.sdk.metrics")
for name in UNWANTED:
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: it is not to be imported
