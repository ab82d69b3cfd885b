"""What metrics are made of: sums of what was counted, and how the fleet is at the moment of a scrape.

sums            ledger.metrics: takes reports, folds them into sums, reads these (API, reconciler, all processes)
job_sums        what the end of an attempt or a job adds up to, from the entries of usage (core.ledger.usage)
bounded_labels  which tenants, templates and kinds of GPU have samples of their own (job_sums, API)
pool_needs      what pools of GPUs want, as the reconciler noted it last (fleet_state, tasks.reconciling)
waiting_templates  ledger.waiting_templates: jobs that wait, by template, as counted last (fleet_state, reconciler)
fleet_state     ledger.fleet_state: jobs, GPUs, webhooks and files as they are now (API, last_hour)
last_hour       ledger.history: the last hour in samples (reconciler, API)
"""
