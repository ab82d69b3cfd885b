"""What all contracts do: take jobs in, wait for them, keep files, estimate waits.

jobs            check, record, publish: the one way a job comes in (contracts)
webhook_target  a job's webhook: the request's or the operator's (order_fields)
input_files     files that come in: measured, checked, kept once (contracts, jobs)
direct_intake   files that clients put into the bucket themselves (contracts)
input_names     uploads by file name, as graphs name them (jobs, job_drafts)
catalogues      which nodes the fleet offers (jobs, job_check)
batched_lookup  one look at the ledger for many requests (waiting, estimates)
estimates       places in the queue and waits (contracts)
publishing      turns to the broker, without any request waiting for it (wsgi)
waiting         many waiters, one listener (contracts)
job_check       whether some instance can run a job, and with which files (jobs)
job_drafts      a graph with the files it stands for, before they are brought (job_check)
foreign_files   graphs that reach for what is not their job's (job_check)
job_requests    job requests from bodies and templates (contracts)
"""
