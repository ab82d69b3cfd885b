"""What all contracts do: take jobs in, wait for them, keep files, estimate waits.

jobs             check, record, publish: the one way a job comes in (contracts)
order_fields     a job's fields from a body, beside its workflow (contracts)
webhook_target   a job's webhook: the request's or the operator's (order_fields)
input_files      files that come in: measured, checked, kept once (contracts, jobs)
input_names      uploads by file name, as graphs name them (jobs)
catalogues       which nodes the fleet offers (jobs)
batched_lookup   one look at the ledger for many requests (waiting, estimates)
estimates        places in the queue and waits (contracts)
publishing       turns to the broker, without any request waiting for it (wsgi)
waiting          many waiters, one listener (contracts)
"""
