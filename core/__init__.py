"""What all packages share: the ledger, settings, errors, records; imports nothing of the others.

ledger/      the database of jobs, the only truth about them
settings/    everything an operator can set
scheduling/  what an idle GPU takes next (core.ledger)
contracts/   jobs in the words of each contract, for answers and webhooks
webhooks/    what a webhook says and how it is signed
messaging/   change notices, and the broker's errors
outbound/    guarded HTTP to URLs of clients
buckets/     S3 buckets and signed URLs
model_files/  what may stand in the manifest of model files
storage/     files of the fleet
texts/       texts of others: read, cut, cleaned
errors/      the tree of errors
background   threads that outlive what is unforeseen
broker_kind  which broker a URL names
clock        what time it is
links        signed links to files
object_keys  keys of objects in a bucket
log_format   how a log line looks
startup      what is checked before a server starts
job_files    ids, and where the files of a job lie (core.storage, core.ledger, tasks)
machine      which machine this is (core.ledger, comfy, tasks)
neighbour_watch  whether the fleet has other machines, looked at now and then (api, tasks)
records/     what is known of a job, typed, from body to ledger (all)
"""
