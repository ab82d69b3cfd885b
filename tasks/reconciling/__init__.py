"""Steps of the reconciler that work through many rows (tasks.reconcile).

batches    what is left of work on many jobs at once
deadlines  jobs that nobody has begun in time, ended within a second (tasks.worker too)
expiry     what is past its time, removed in small steps
leading  waiting jobs of batches with gates led into their lines
pool_watch  what pools of GPUs needed of late, kept, and told when they want another number
telling    a command or a URL of the operator, told something (pool_watch)
repinning  waiting jobs judged again when the fleet has changed
relining  waiting jobs led into the lines of their models
event_folding  logs of jobs that have ended, folded into one row each
metric_folding  what was counted, folded into the sums of metrics
noting  what is asked for often, noted now and then: jobs that wait by template, the last hour
rolling_on  the rollout that runs, gone on with
usage_folding  what was used, folded into the sums of its day
regrouping  waiting jobs led to where what ran out of memory wants them
"""
