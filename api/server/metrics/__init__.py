"""`GET /metrics`: the whole fleet in Prometheus' words, from any process of the API.

scrape            one scrape: what the ledger says, and what this process knows besides (metrics_route, metrics_port)
text_format     Prometheus' text format (scrape)
samples           what a group of families gives, and how it becomes prometheus-client's (scrape)
job_families      jobs that wait, run, and are stored
gpu_families      instances, their GPUs and their memory
pool_families     what pools of GPUs want, and what waits for them
rollout_families  the newest rollout, and its hosts
part_families     whether ledger, broker and storage answer, webhooks, files, processes, certificates
summed_families   everything that is counted, from its sums
probes            broker, storage and certificates, looked at beside the scrapes
queue_watch       how many messages wait at the broker (probes)
certificates      until when the certificates of our own servers hold (probes)
metrics_route     the route on the API's port
metrics_port      the same on a port of its own, without a key

A new group is a module with `FAMILIES` and `samples`, and its name in `GROUPS` of scrape; docs/metrics.md lists it.
"""
